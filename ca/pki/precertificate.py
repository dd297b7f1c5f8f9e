"""Precertificate and final certificate out of one TBSCertificate, and the proof that they correspond (spec/pki.md 1.5).

A precertificate is the certificate with a critical poison extension, which keeps every client from accepting it; the
final certificate has the logs' SCT list in its place. Both stand last, and everything else is the same, byte for byte.
"""

from typing import Final

from ca.pki import der

_POISON_OID: Final = der.object_identifier("1.3.6.1.4.1.11129.2.4.3")
_SCT_LIST_OID: Final = der.object_identifier("1.3.6.1.4.1.11129.2.4.2")
POISON: Final = der.sequence(_POISON_OID, bytes.fromhex("0101ff"), der.tlv(der.OCTET_STRING, bytes.fromhex("0500")))
_EXTENSIONS: Final = 0xA3


class CorrespondenceError(ValueError):
    """A final certificate is not what its precertificate promised: it must not be signed."""


def with_poison(tbs: bytes) -> bytes:
    """The precertificate's TBS for a TBS that has neither poison nor SCT list."""
    return _with_last(tbs, POISON)


def with_sct_list(tbs: bytes, value: bytes) -> bytes:
    """The final TBS for a TBS that has neither; `value` is the extnValue's contents (`sct_list_value`)."""
    return _with_last(tbs, der.sequence(_SCT_LIST_OID, der.tlv(der.OCTET_STRING, value)))


def is_precertificate(tbs: bytes) -> bool:
    """Whether this is the TBS of a precertificate of ours: its last extension is the poison."""
    return tbs.endswith(POISON)


def without_poison(tbs: bytes) -> bytes:
    """The TBS that logs sign, from a precertificate's. Raises DerError when there is not exactly one poison."""
    return _without(tbs, _POISON_OID)


def without_sct_list(tbs: bytes) -> bytes:
    """The same from a final certificate's. Raises DerError when there is not exactly one SCT list."""
    return _without(tbs, _SCT_LIST_OID)


def sct_list_of(tbs: bytes) -> bytes | None:
    """extnValue contents of the SCT list, or None when there is none."""
    for extension in der.children(tbs, _extensions(tbs)):
        parts = der.children(tbs, extension)
        if der.whole(tbs, parts[0]) == _SCT_LIST_OID:
            return der.contents(tbs, parts[-1])
    return None


def require_correspondence(precertificate_tbs: bytes, final_tbs: bytes) -> None:
    """Returns when both are one TBS with poison and SCT list at its end, byte for byte. Raises CorrespondenceError."""
    try:
        tbs, value = without_poison(precertificate_tbs), sct_list_of(final_tbs)
        same = (value is not None and precertificate_tbs == with_poison(tbs)
                and final_tbs == with_sct_list(tbs, value))
    except der.DerError as fault:
        raise CorrespondenceError(f"precertificate and certificate cannot be compared: {fault}") from fault
    if not same:
        raise CorrespondenceError("the certificate is not what its precertificate promised")


def _extensions(tbs: bytes) -> der.Element:
    """SEQUENCE OF Extension inside [3], which is the last field."""
    last = der.children(tbs, der.read_only(tbs, der.SEQUENCE))[-1]
    if last.tag != _EXTENSIONS:
        raise der.DerError("there are no extensions")
    return der.read(tbs, last.content, end=last.end, tag=der.SEQUENCE)


def _with_last(tbs: bytes, extension: bytes) -> bytes:
    return _rebuilt(tbs, der.contents(tbs, _extensions(tbs)) + extension)


def _without(tbs: bytes, oid: bytes) -> bytes:
    kept = []
    removed = 0
    for extension in der.children(tbs, _extensions(tbs)):
        if der.whole(tbs, der.children(tbs, extension)[0]) == oid:
            removed += 1
        else:
            kept.append(der.whole(tbs, extension))
    if removed != 1:
        raise der.DerError(f"the extension that is removed occurs {removed} times")
    return _rebuilt(tbs, b"".join(kept))


def _rebuilt(tbs: bytes, extensions: bytes) -> bytes:
    """The TBS with other extensions; every other field is copied."""
    outer = der.read_only(tbs, der.SEQUENCE)
    last = der.children(tbs, outer)[-1]
    return der.sequence(tbs[outer.content:last.start], der.tlv(_EXTENSIONS, der.sequence(extensions)))
