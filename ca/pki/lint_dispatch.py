"""pkilint's validators, asked only where they can have something to say, and not twice about the same bytes.

pkilint offers every node of a document to every validator, six thousand questions for a small certificate. Most answers
follow from the validator's path and ASN.1 class alone, so they are remembered by (path, class); what a validator looks
at beyond them it is still asked about, in the same order. Two things are remembered by value, because most of a CA's
certificates have them in common: decoded extension values, and whether a URL is well formed. The results are the same
but for those that found nothing, which are left out; tests compare them on good and bad certificates. lint_shape.py has
the larger memory, for certificates alone.
"""

import copy
from collections.abc import Callable
from typing import Any, Final

from pkilint.common.alternative_name import GeneralNameUriInternalDomainNameValidator
from pkilint.document import NodeVisitor, ValueDecoder, create_and_append_node_from_pdu
from pkilint.pkix.general_name import GeneralNameUriSyntaxValidator
from pkilint.validation import DecodingValidator, ValidationResult, Validator, ValidatorContainer
from pyasn1_alt_modules.rfc5280 import NameConstraints

_MAX_REMEMBERED: Final = 20_000      # (path, class) pairs; certificates with 100 names have some hundreds
_MAX_VALUES: Final = 1_000


def dispatching(validator: Validator) -> Validator:
    """The faster twin of a validator that has one, else the validator itself."""
    if isinstance(validator, ValidatorContainer):
        return DispatchingContainer(validator)
    if type(validator) is GeneralNameUriSyntaxValidator:
        return _RememberingUriValidator()
    if type(validator) is GeneralNameUriInternalDomainNameValidator:
        twin = copy.copy(validator)
        twin.__class__ = _UriDomainValidator
        return twin
    if isinstance(validator, DecodingValidator) and type(validator.decode_func) is ValueDecoder:
        twin = copy.copy(validator)
        twin.decode_func = _RememberingDecoder(validator.decode_func)
        return twin
    return validator


class DispatchingContainer(ValidatorContainer):  # type: ignore[misc] # pkilint has no type information
    """A ValidatorContainer that finds its validators by (path, class of the node's value).

    A subclass of Validator may narrow `match` further and must not widen it; pkilint's all begin with their parent's
    `match`.
    """

    def __init__(self, container: ValidatorContainer) -> None:
        super().__init__(
            validators=container.validators,
            path=container._path,
            path_re=container._path_re,
            pdu_class=container._pdu_class,
            pdu_supertype=container._pdu_supertype,
            predicate=container._predicate,
        )
        self._twins = [(validator, _undirected(dispatching(validator))) for validator in container.validators]
        self._candidates: dict[tuple[str, type], list[Validator]] = {}

    def candidates(self, path: str, value_class: type) -> list[Validator]:
        """The validators that may concern a node, with a `match` that leaves out what has been decided here."""
        key = (path, value_class)
        found = self._candidates.get(key)
        if found is None:
            found = [twin for validator, twin in self._twins if _may_match(validator, path, value_class)]
            if len(self._candidates) < _MAX_REMEMBERED:
                self._candidates[key] = found
        return found

    def validate(self, node: Any) -> list[ValidationResult]:
        found: list[ValidationResult] = []
        self.visit(node, found)
        return found

    def visit(self, node: Any, found: list[ValidationResult]) -> None:
        """Adds what the validators find in a node and below it, and no result that found nothing."""
        for validator in self.candidates(node.path, node.pdu.__class__):
            if validator.match(node):
                add_found(found, validator.validate_wrapper(node))
        for child in node.children.values():
            self.visit(child, found)


def add_found(found: list[ValidationResult], result: ValidationResult | list[ValidationResult]) -> None:
    """Adds a validator's result, or a container's list of them, without what found nothing."""
    if isinstance(result, list):
        found += [each for each in result if each.finding_descriptions]
    elif result.finding_descriptions:
        found.append(result)


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


class _Alone:
    """A node of which its validator sees the value, and nothing above it."""

    parents = ()

    def __init__(self, node: Any) -> None:
        self.pdu = node.pdu


class _RememberingUriValidator(GeneralNameUriSyntaxValidator):  # type: ignore[misc] # pkilint has no type information
    """Looks at the syntax of each URL once; outside of name constraints it depends on nothing else."""

    name = GeneralNameUriSyntaxValidator.__name__

    def __init__(self) -> None:
        super().__init__()
        self._well_formed: dict[str, bool] = {}

    def validate_value(self, node: Any) -> bool:
        if _in_name_constraints(node):
            return bool(super().validate_value(node))
        url = str(node.pdu)
        found = self._well_formed.get(url)
        if found is None:
            found = bool(super().validate_value(_Alone(node)))
            if len(self._well_formed) < _MAX_VALUES:
                self._well_formed[url] = found
        return found


class _UriDomainValidator(GeneralNameUriInternalDomainNameValidator):  # type: ignore[misc] # as above
    """Looks at the value of a URL and, outside of name constraints, at no other."""

    name = GeneralNameUriInternalDomainNameValidator.__name__

    def extract_domain_name(self, node: Any) -> str:
        return str(super().extract_domain_name(node if _in_name_constraints(node) else _Alone(node)))

    def validate_with_value(self, node: Any, value: str) -> Any:
        return super().validate_with_value(node if _in_name_constraints(node) else _Alone(node), value)


def value_class(node: Any) -> type:
    """The class of a node's value, without a look at the value (lint_shape.py notes those)."""
    return node.__dict__["pdu"].__class__  # type: ignore[no-any-return]


def _in_name_constraints(node: Any) -> bool:
    return any(issubclass(value_class(each), NameConstraints) for each in node.parents)


def always(validator: Validator) -> bool:
    """Whether a candidate concerns each node that it is a candidate for."""
    return (type(validator).match is NodeVisitor.match
            and validator._pdu_supertype is None and validator._predicate is None)


def _undirected(validator: Validator) -> Validator:
    """The same validator without path and class: `candidates` goes by them."""
    twin = copy.copy(validator)
    twin._path = twin._path_re = twin._pdu_class = None
    return twin


def _may_match(validator: NodeVisitor, path: str, value_class: type) -> bool:
    """The part of NodeVisitor.match that is the same for every node of this path and class."""
    if validator._path is not None and validator._path != path:
        return False
    if validator._path_re is not None and validator._path_re.match(path) is None:
        return False
    if validator._predicate is not None and _refused_by_path(validator._predicate, path):
        return False
    return validator._pdu_class is None or issubclass(value_class, validator._pdu_class)


class _PathAlone:
    """All that is known of a node when there is only its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = path.rpartition(".")[2]


def _refused_by_path(predicate: Callable[[Any], bool], path: str) -> bool:
    """Whether a predicate says no when it has seen the path and the name of a node, and nothing else of it."""
    try:
        return not predicate(_PathAlone(path))
    except AttributeError:
        return False
