"""pkilint's validators, asked only where they can have something to say, and not twice about the same bytes.

pkilint offers every node of a document to every validator, six thousand questions for a small certificate. Most answers
follow from the validator's path and ASN.1 class alone, so they are remembered by (path, class); what a validator looks
at beyond them it is still asked about, in the same order. Two things are remembered by value, because most of a CA's
certificates have them in common: decoded extension values, and whether a URL is well formed. The results are
the same, in less than half of the time; tests compare them on good and bad certificates.
"""

import copy
from typing import Any, Final

from pkilint.document import NodeVisitor, ValueDecoder, create_and_append_node_from_pdu
from pkilint.pkix.general_name import GeneralNameUriSyntaxValidator, is_nameconstraints_child_node
from pkilint.validation import DecodingValidator, Validator, ValidatorContainer

_MAX_REMEMBERED: Final = 20_000      # (path, class) pairs; certificates with 100 names have some hundreds
_MAX_VALUES: Final = 1_000


def dispatching(validator: Validator) -> Validator:
    """The faster twin of a validator that has one, else the validator itself."""
    if isinstance(validator, ValidatorContainer):
        return _DispatchingContainer(validator)
    if type(validator) is GeneralNameUriSyntaxValidator:
        return _RememberingUriValidator()
    if isinstance(validator, DecodingValidator) and type(validator.decode_func) is ValueDecoder:
        twin = copy.copy(validator)
        twin.decode_func = _RememberingDecoder(validator.decode_func)
        return twin
    return validator


class _DispatchingContainer(ValidatorContainer):  # type: ignore[misc] # pkilint has no type information
    """A ValidatorContainer that finds its validators by (path, class of the node's value).

    A subclass of Validator may narrow `match` further and must not widen it; pkilint's all begin with their parent's
    `match`.
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


class _RememberingDecoder(ValueDecoder):  # type: ignore[misc] # pkilint has no type information
    """Decodes a value once for each (type, bytes); nodes of different documents share it, and nothing changes it."""

    def __init__(self, decoder: ValueDecoder) -> None:
        super().__init__(type_path=decoder.type_path, value_path=decoder.value_path,
                         type_mappings=decoder.type_mappings, default=decoder.default)
        self._decoded: dict[tuple[int, bytes], Any] = {}

    def decode_value(self, node: Any, type_node: Any, value_node: Any, pdu_type: Any) -> Any:
        if value_node.children:
            return super().decode_value(node, type_node, value_node, pdu_type)
        # The mappings keep each type object alive, so its id stays its own.
        key = (id(pdu_type), bytes(self.retrieve_substrate(value_node)))
        decoded = self._decoded.pop(key, None)
        if decoded is None:
            made = super().decode_value(node, type_node, value_node, pdu_type)
            if len(self._decoded) >= _MAX_VALUES:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[key] = made.pdu
            return made
        self._decoded[key] = decoded       # back in as the youngest
        return create_and_append_node_from_pdu(value_node.document, decoded, value_node)


class _RememberingUriValidator(GeneralNameUriSyntaxValidator):  # type: ignore[misc] # pkilint has no type information
    """Looks at the syntax of each URL once; outside of name constraints it depends on nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._well_formed: dict[str, bool] = {}

    def validate_value(self, node: Any) -> bool:
        if is_nameconstraints_child_node(node):
            return bool(super().validate_value(node))
        url = str(node.pdu)
        found = self._well_formed.get(url)
        if found is None:
            found = bool(super().validate_value(node))
            if len(self._well_formed) < _MAX_VALUES:
                self._well_formed[url] = found
        return found


def _may_match(validator: NodeVisitor, path: str, value_class: type) -> bool:
    """The part of NodeVisitor.match that is the same for every node of this path and class."""
    if validator._path is not None and validator._path != path:
        return False
    if validator._path_re is not None and validator._path_re.match(path) is None:
        return False
    return validator._pdu_class is None or issubclass(value_class, validator._pdu_class)
