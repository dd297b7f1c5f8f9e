"""The reference encoder of spec/pki.md A.1, copied: our templates must give its bytes."""

import hashlib

ALG = {"sha1": bytes.fromhex("300906052b0e03021a0500"), "sha256": bytes.fromhex("300d06096086480165030402010500")}


def tlv(tag: int, content: bytes) -> bytes:
    """Definite length, minimal."""
    n = len(content)
    length = bytes([n]) if n < 128 else b"\x81" + bytes([n]) if n < 256 else b"\x82" + n.to_bytes(2, "big")
    return bytes([tag]) + length + content


def certid(name: str, issuer_name_der: bytes, issuer_key_bits: bytes, serial: bytes, *,
           alg: bytes | None = None) -> bytes:
    """CertID; `alg` replaces the AlgorithmIdentifier."""
    def digest(data: bytes) -> bytes:
        return tlv(4, hashlib.new(name, data).digest())
    return tlv(0x30, (ALG[name] if alg is None else alg) + digest(issuer_name_der) + digest(issuer_key_bits)
               + tlv(2, serial))


def status(revoked_at: bytes | None, reason: int) -> bytes:
    """CertStatus; reason 0 is left out."""
    if revoked_at is None:
        return b"\x80\x00"
    return tlv(0xA1, tlv(0x18, revoked_at) + (tlv(0xA0, tlv(0x0A, bytes([reason]))) if reason else b""))


def single(cid: bytes, cert_status: bytes, this: bytes, following: bytes) -> bytes:
    """SingleResponse."""
    return tlv(0x30, cid + cert_status + tlv(0x18, this) + tlv(0xA0, tlv(0x18, following)))


def tbs(key_sha1: bytes, produced: bytes, singles: list[bytes]) -> bytes:
    """ResponseData, byKey."""
    return tlv(0x30, tlv(0xA2, tlv(4, key_sha1)) + tlv(0x18, produced) + tlv(0x30, b"".join(singles)))


def response(data: bytes, sigalg: bytes, signature: bytes) -> bytes:
    """OCSPResponse without certificates."""
    basic = tlv(0x30, data + sigalg + tlv(3, b"\0" + signature))
    return tlv(0x30, b"\x0a\x01\x00" + tlv(0xA0, tlv(0x30, bytes.fromhex("06092b0601050507300101") + tlv(4, basic))))


def request(cids: list[bytes], *, extensions: list[bytes] | None = None, single_extensions: list[bytes] | None = None,
            before: bytes = b"", signature: bytes = b"") -> bytes:
    """OCSPRequest; `before` is what stands in front of the list: version, requestor's name."""
    each = tlv(0xA0, tlv(0x30, b"".join(single_extensions))) if single_extensions is not None else b""
    listed = tlv(0x30, b"".join(tlv(0x30, cid + each) for cid in cids))
    outer = tlv(0xA2, tlv(0x30, b"".join(extensions))) if extensions is not None else b""
    return tlv(0x30, tlv(0x30, before + listed + outer) + signature)


def extension(oid: str, value: bytes, *, critical: bytes = b"") -> bytes:
    """Extension with the OID's DER contents in hexadecimal."""
    return tlv(0x30, tlv(6, bytes.fromhex(oid)) + critical + tlv(4, value))
