"""pkilint over certificates that have most of their bytes in common, asked again only about the rest.

The certificates of one issuer, profile and kind of key differ in serial number, validity, subject, key, names, CRL and
signature alone. The first certificate of such a shape is linted whole, and each validator is watched: one that has
read nothing of what differs has to say the same about the next certificate of the shape, and what it said is kept.
Validity and CRL differ and come again: the certificates of one second share the one, those of one shard the other. A
validator that has read nothing else of what differs is watched further, and what it said is kept by those values. The
others are asked about each certificate, in their order. Nothing is assumed about what a validator looks at: whatever
leads to bytes that differ is a property that notes the access. The findings are the same, in a small part of the time
that pkilint takes alone; tests compare them on good, bad and mutated certificates.
"""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pkilint import loader
from pkilint.document import PDUNode
from pkilint.pkix.certificate import RFC5280Certificate
from pkilint.validation import ValidationResult, Validator
from pyasn1_fasder import decode_der

from ca.pki import der
from ca.pki.lint_dispatch import DispatchingContainer, add_found, always, dispatching, value_class

# Issuers, profiles, kinds of keys, precertificates: some dozens. A shape is about a hundred kilobytes.
_MAX_SHAPES: Final = 128
# version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, extensions
_TBS_TAGS: Final = [0xA0, der.INTEGER, der.SEQUENCE, der.SEQUENCE, der.SEQUENCE, der.SEQUENCE, der.SEQUENCE, 0xA3]
# The values of subjectAltName, subjectKeyIdentifier, cRLDistributionPoints and SCT list differ within a shape.
_CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"
_VARYING_EXTENSIONS: Final = ("2.5.29.17", "2.5.29.14", _CRL_DISTRIBUTION_POINTS, "1.3.6.1.4.1.11129.2.4.2")
_VARYING_IDS: Final = tuple(der.object_identifier(oid) for oid in _VARYING_EXTENSIONS)
_Answer = TypeVar("_Answer")
_UNCHECKED: Final = {"verifyConstraints": False, "matchTags": False, "matchConstraints": False}

# How much a shape knows of what comes again before it begins anew: some seconds, more shards than most CAs have, and
# what is said by either or both. Each value is about ten kilobytes.
_MAX_VALIDITIES: Final = 16
_MAX_CRLS: Final = 256
_MAX_ANSWERS: Final = 4096
_ALL: Final = -1        # every bit: something was read that all that differs is part of

_AGAIN: Final = 1       # a validator that is asked about its node again
_PERHAPS: Final = 2     # ... after it has been asked whether the node concerns it
_WITHIN: Final = 3      # everything below a node that differs


class ShapedLinter:
    """A container of pkilint's validators for certificates. Threads take turns."""

    def __init__(self, container: Validator) -> None:
        self._container = dispatching(container)
        self._shapes: dict[tuple[bytes, ...], _Shape] = {}
        self._lock = threading.Lock()

    def results(self, certificate_der: bytes) -> list[ValidationResult]:
        """What the validators found, without the results that found nothing. Raises what pkilint raises about a
        document that it cannot read."""
        try:
            key, parts = _split(certificate_der)
        except ValueError:
            return self._plain(certificate_der)
        with self._lock:
            shape = self._shapes.pop(key, None)
            try:
                if shape is not None:
                    found = shape.results(certificate_der, parts)
                else:
                    shape, found = _record(self._container, certificate_der, parts)
            except Exception:
                # Whatever it was, it is pkilint's to say: the whole document. What was kept is dropped.
                return self._plain(certificate_der)
            if len(self._shapes) >= _MAX_SHAPES:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[key] = shape           # back in as the youngest
        return found

    def _plain(self, certificate_der: bytes) -> list[ValidationResult]:
        document = loader.RFC5280CertificateDocumentLoader().load_der_document(certificate_der, "certificate")
        return self._container.validate(document.root)  # type: ignore[no-any-return]


class _WatchedCertificate(RFC5280Certificate):  # type: ignore[misc] # pkilint has no type information
    """A certificate that notes when bytes are read that differ from certificate to certificate: the bits of their
    places."""

    touched = 0

    @property
    def substrate(self) -> bytes:
        self.touched = _ALL
        return self.__dict__["substrate"]  # type: ignore[no-any-return]

    @substrate.setter
    def substrate(self, value: bytes) -> None:
        self.__dict__["substrate"] = value

    def forget(self) -> None:
        """What it has found out about itself: whoever wants it has to read it again."""
        for name in _FOUND_OUT:
            self.__dict__.pop(name, None)


_FOUND_OUT: Final = tuple(name for kind in _WatchedCertificate.__mro__ for name, value in vars(kind).items()
                          if isinstance(value, functools.cached_property))


class _Above(PDUNode):  # type: ignore[misc] # pkilint has no type information
    """A node above some that differ, whose `bits` it has: which children it has is the same, its value is not."""

    @property
    def pdu(self) -> Any:
        self.document.touched |= self.bits
        return self.__dict__["pdu"]


class _Varying(_Above):
    """A node whose value differs, and with it what is below."""

    @property
    def children(self) -> dict[str, PDUNode]:
        self.document.touched |= self.bits
        return self.__dict__["children"]  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Slot:
    """A place for bytes that differ: its node, and where its value is in the value of the node above. `contents`: the
    values that are known, with what is below the node, and `room` for so many; None when they never come again."""

    node: PDUNode
    above: Any
    position: int
    schema: Any
    room: int
    contents: dict[bytes, tuple[Any, dict[str, PDUNode]]] | None
    part: bytes = b""

    def fill(self, part: bytes) -> None:
        """Another certificate's bytes. Raises what pyasn1 raises when they are not of the schema."""
        if part == self.part:
            return
        known = None if self.contents is None else self.contents.get(part)
        value = known[0] if known else decode_der(part, asn1Spec=self.schema)[0]
        self.above.setComponentByPosition(self.position, value, **_UNCHECKED)
        self.node.__dict__["pdu"] = value
        children = known[1] if known else self.node._generate_child_nodes()
        self.node.__dict__["children"] = children
        self.part = part
        if self.contents is not None:
            # What is decoded further below is added to this very dictionary.
            self.contents[part] = value, children


@dataclass(slots=True)
class _Step:
    """Something to do about each certificate of a shape. `reads`: the bits of what it has ever read that differs;
    `answers`: what it found, by the values at the places `by`, as long as all of them are of the kind that comes again.
    """

    kind: int
    validator: Any
    node: PDUNode
    reads: int
    by: tuple[int, ...] = ()
    answers: dict[tuple[bytes, ...], list[ValidationResult]] | None = None

    def ask(self) -> list[ValidationResult]:
        """What the validator finds now."""
        found: list[ValidationResult] = []
        if self.kind == _WITHIN:
            self.validator.visit(self.node, found)
        elif self.kind == _AGAIN or self.validator.match(self.node):
            add_found(found, self.validator.validate_wrapper(self.node))
        return found


@dataclass(slots=True)
class _Shape:
    """A certificate whose varying bytes are exchanged, and what there is to do about each, in order."""

    document: _WatchedCertificate
    slots: list[_Slot]
    again: int                  # the bits of the slots whose values come again
    steps: list[_Step | ValidationResult] = field(default_factory=list)
    answers: int = 0

    def results(self, certificate_der: bytes, parts: list[bytes]) -> list[ValidationResult]:
        self.document.forget()
        self.document.substrate = certificate_der
        if self.answers >= _MAX_ANSWERS or any(slot.contents and len(slot.contents) >= slot.room
                                               for slot in self.slots):
            self._begin_anew()
        for slot, part in zip(self.slots, parts, strict=True):
            slot.fill(part)
        found: list[ValidationResult] = []
        for step in self.steps:
            if step.__class__ is not _Step:
                found.append(step)
            elif step.answers is None:
                found += step.ask()
            else:
                answer = step.answers.get(tuple([parts[each] for each in step.by]))
                found += self._watched(step, parts) if answer is None else answer
        return found

    def add(self, kind: int, validator: Any, node: PDUNode, reads: int) -> None:
        """A step whose first answer is known to have read this."""
        step = _Step(kind, validator, node, 0)
        self._note(step, reads)
        self.steps.append(step)

    def _watched(self, step: _Step, parts: list[bytes]) -> list[ValidationResult]:
        """The answer of a step about values that it has not been asked about before."""
        answer, reads = _watch(self.document, step.ask)
        self._note(step, reads)
        if step.answers is not None:
            step.answers[tuple([parts[each] for each in step.by])] = answer
            self.answers += 1
        return answer

    def _note(self, step: _Step, reads: int) -> None:
        """Answers are kept by all that was ever read; of one that reads more than before, those so far say nothing."""
        if step.reads | reads != step.reads:
            step.reads |= reads
            step.by = tuple(each for each in range(len(self.slots)) if step.reads >> each & 1)
            step.answers = None if step.reads & ~self.again else {}

    def _begin_anew(self) -> None:
        """Forgets values and answers together: an answer is kept only as long as what was decoded for it."""
        self.answers = 0
        for slot in self.slots:
            if slot.contents is not None:
                slot.contents.clear()
                slot.part = b""
        for step in self.steps:
            if step.__class__ is _Step and step.answers is not None:
                step.answers.clear()


def _record(
    container: DispatchingContainer, certificate_der: bytes, parts: list[bytes]
) -> tuple[_Shape, list[ValidationResult]]:
    """The shape of a certificate, and what was found in it. Raises what validators raise when they are asked whether a
    node concerns them: then there is no saying what they would raise about the next certificate."""
    document = _WatchedCertificate(None, certificate_der, "certificate")
    document.decode()
    slots = _slots(document.root)
    if len(slots) != len(parts):
        raise ValueError("pkilint reads the certificate's layout otherwise")
    shape = _Shape(document, slots, sum(1 << number for number, slot in enumerate(slots) if slot.contents is not None))
    found: list[ValidationResult] = []

    def visit(container: DispatchingContainer, node: PDUNode) -> None:
        for validator in container.candidates(node.path, value_class(node)):
            concerned, reads = ((True, 0) if always(validator)
                                else _watch(document, functools.partial(validator.match, node)))
            if reads:
                if concerned:
                    add_found(found, validator.validate_wrapper(node))
                shape.add(_PERHAPS, validator, node, reads)
            elif concerned and isinstance(validator, DispatchingContainer):
                visit(validator, node)
            elif concerned:
                result, reads = _watch(document, functools.partial(validator.validate_wrapper, node))
                said: list[ValidationResult] = []
                add_found(said, result)
                found.extend(said)
                if reads:
                    shape.add(_AGAIN, validator, node, reads)
                else:
                    shape.steps += said
        for child in list(node.__dict__["children"].values()):
            if child.__class__ is _Varying:
                container.visit(child, found)
                shape.add(_WITHIN, container, child, child.bits)
            else:
                visit(container, child)

    visit(container, document.root)
    return shape, found


def _watch(document: _WatchedCertificate, ask: Callable[[], _Answer]) -> tuple[_Answer, int]:
    """The answer, and the bits of what was read for it that differs from certificate to certificate."""
    document.forget()
    document.touched = 0
    answer = ask()
    return answer, document.touched


def _split(certificate_der: bytes) -> tuple[tuple[bytes, ...], list[bytes]]:
    """The bytes that make a certificate's shape, and those that differ within it. Raises ValueError for bytes that
    are not laid out like the certificates that we sign."""
    outer = der.children(certificate_der, der.read_only(certificate_der, der.SEQUENCE))
    fields = der.children(certificate_der, outer[0]) if len(outer) == 3 else []
    if [each.tag for each in fields] != _TBS_TAGS or outer[0].tag != der.SEQUENCE:
        raise der.DerError("not laid out like a subscriber certificate")
    key_algorithm, *key = der.children(certificate_der, fields[6])
    extensions, *more = der.children(certificate_der, fields[7])
    if len(key) != 1 or more or extensions.tag != der.SEQUENCE:
        raise der.DerError("not laid out like a subscriber certificate")
    shape = [certificate_der[part.start:part.end]
             for part in (outer[1], fields[0], fields[2], fields[3], key_algorithm)]
    varying = [fields[1], fields[4], key[0]]
    if fields[5].content == fields[5].end:
        shape.append(b"")
    else:
        varying.append(fields[5])
    for extension in der.children(certificate_der, extensions):
        if extension.tag == der.SEQUENCE and certificate_der.startswith(_VARYING_IDS, extension.content):
            *_, value = der.children(certificate_der, extension)
            shape.append(certificate_der[extension.content:value.start])
            varying.append(value)
        else:
            shape.append(certificate_der[extension.start:extension.end])
    varying.append(outer[2])
    return tuple(shape), [certificate_der[part.start:part.end] for part in varying]


def _slots(root: PDUNode) -> list[_Slot]:
    """The places in a certificate's tree for what `_split` finds to differ, in its order; the nodes at and above them
    note from now on that they are read."""
    tbs = root.children["tbsCertificate"]
    extensions = tbs.children["extensions"]
    key = tbs.children["subjectPublicKeyInfo"]
    places = [(tbs, "serialNumber", 0), (tbs, "validity", _MAX_VALIDITIES), (key, "subjectPublicKey", 0)]
    if len(tbs.pdu["subject"].getComponent()):
        places.append((tbs, "subject", 0))
    for extension in extensions.children.values():
        kind = str(extension.children["extnID"].pdu)
        if kind in _VARYING_EXTENSIONS:
            places.append((extension, "extnValue", _MAX_CRLS if kind == _CRL_DISTRIBUTION_POINTS else 0))
    places.append((root, "signature", 0))
    slots = [_slot(*place) for place in places]
    for number, slot in enumerate(slots):
        _watch_over(slot.node, _Varying, 1 << number)
        for node in slot.node.parents:
            _watch_over(node, _Above, 1 << number)
    return slots


def _watch_over(node: PDUNode, kind: type[_Above], bits: int) -> None:
    node.__class__ = kind
    node.bits = node.__dict__.get("bits", 0) | bits


def _slot(above: PDUNode, name: str, room: int) -> _Slot:
    kinds = above.pdu.componentType
    position = kinds.getPositionByName(name)
    return _Slot(above.children[name], above.pdu, position, kinds.getTypeByPosition(position), room,
                 {} if room else None)
