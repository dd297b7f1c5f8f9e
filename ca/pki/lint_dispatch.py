"""pkilint's validators, asked only where they can have something to say.

pkilint offers every node of a document to every validator, six thousand questions for a small certificate. Most answers
follow from the validator's path and ASN.1 class alone, so they are remembered by (path, class); what a validator looks
at beyond them it is still asked about, in the same order, so the results are the same, in a third of the time.
"""

from typing import Any

from pkilint.document import NodeVisitor
from pkilint.validation import Validator, ValidatorContainer

_MAX_REMEMBERED = 20_000      # (path, class) pairs; certificates with 100 names have some hundreds


class DispatchingContainer(ValidatorContainer):  # type: ignore[misc] # pkilint has no type information
    """A ValidatorContainer that finds its validators by (path, class of the node's value).

    A subclass of Validator may narrow `match` further and must not widen it; pkilint's all begin with their parent's
    `match`, and tests compare both containers on good and bad certificates.
    """

    def __init__(self, container: ValidatorContainer) -> None:
        super().__init__(
            validators=[dispatching(validator) for validator in container.validators],
            path=container._path,
            path_re=container._path_re,
            pdu_class=container._pdu_class,
            pdu_supertype=container._pdu_supertype,
            predicate=container._predicate,
        )
        self._candidates: dict[tuple[str, type], list[Validator]] = {}

    def _validate_rec(self, node: Any, results: list[Any]) -> None:
        key = (node.path, node.pdu.__class__)
        candidates = self._candidates.get(key)
        if candidates is None:
            candidates = [validator for validator in self.validators if _may_match(validator, *key)]
            if len(self._candidates) < _MAX_REMEMBERED:
                self._candidates[key] = candidates
        for validator in candidates:
            if validator.match(node):
                result = validator.validate_wrapper(node)
                if isinstance(result, list):
                    results += result
                else:
                    results.append(result)
        for child in node.children.values():
            self._validate_rec(child, results)


def dispatching(validator: Validator) -> Validator:
    """The validator itself, or its faster twin when it is a container."""
    return DispatchingContainer(validator) if isinstance(validator, ValidatorContainer) else validator


def _may_match(validator: NodeVisitor, path: str, value_class: type) -> bool:
    """The part of NodeVisitor.match that is the same for every node of this path and class."""
    if validator._path is not None and validator._path != path:
        return False
    if validator._path_re is not None and validator._path_re.match(path) is None:
        return False
    return validator._pdu_class is None or issubclass(value_class, validator._pdu_class)
