"""The request parser and the GET path: what clients send is read, everything else is refused without a crash."""

import base64
import random
from collections.abc import Callable
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from ocsp.protocol.request import MAX_REQUEST_BYTES, MalformedRequest, decode_path, parse_request
from ocsp.protocol.response import HashName
from tests.ca.pki.authority import authority
from tests.ocsp.protocol import reference

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
SERIAL = bytes.fromhex("0ad0") + bytes(range(200, 216))
ABSENT = {"sha1": bytes.fromhex("300706052b0e03021a"), "sha256": bytes.fromhex("300b0609608648016503040201")}
NONCE = "2b0601050507300102"
ACCEPTABLE = "2b0601050507300104"
LOCATOR = "2b0601050507300107"
TRUE = b"\x01\x01\xff"
REQUESTOR = reference.tlv(0xA1, reference.tlv(0xA4, reference.tlv(0x30, b"")))
VERSION = reference.tlv(0xA0, b"\x02\x01\x00")


def cid(name: str = "sha1", serial: bytes = SERIAL, *, alg: bytes | None = None) -> bytes:
    """A CertID of our issuer."""
    return reference.certid(name, OWN.issuer.subject_der, OWN.issuer.key_bits, serial, alg=alg)


def nonce(length: int, *, critical: bytes = b"") -> bytes:
    """A nonce of `length` octets in its OCTET STRING."""
    return reference.extension(NONCE, reference.tlv(4, bytes(length)), critical=critical)


@pytest.mark.parametrize("name", ["sha1", "sha256"])
@pytest.mark.parametrize("parameters", ["NULL", "absent"])
def test_both_parameter_forms_are_one_request(name: str, parameters: str) -> None:
    """OpenSSL and NSS send NULL, Apple leaves it out (spec 5.2)."""
    asked_for = cid(name, alg=ABSENT[name] if parameters == "absent" else None)
    asked, = parse_request(reference.request([asked_for])).cert_ids
    assert asked.hash_name is HashName(name)
    assert asked.serial == SERIAL


@pytest.mark.parametrize(("algorithm", "name"), [
    (hashes.SHA1(), HashName.SHA1),  # noqa: S303 - what clients send
    (hashes.SHA256(), HashName.SHA256)])
def test_what_cryptography_builds_is_read(algorithm: hashes.HashAlgorithm, name: HashName) -> None:
    """With a nonce, too; the hashes are those of the issuer's certificate."""
    built = (ocsp.OCSPRequestBuilder().add_certificate(OWN.certificate, OWN.certificate, algorithm)
             .add_extension(x509.OCSPNonce(bytes(range(16))), critical=False).build())
    asked, = parse_request(built.public_bytes(Encoding.DER)).cert_ids
    assert (asked.hash_name, asked.name_hash, asked.key_hash) == (name, built.issuer_name_hash, built.issuer_key_hash)


IGNORED: dict[str, bytes] = {
    "version": reference.request([cid()], before=VERSION),
    "requestor": reference.request([cid()], before=REQUESTOR),
    "both": reference.request([cid()], before=VERSION + REQUESTOR),
    "nonce of 1": reference.request([cid()], extensions=[nonce(1)]),
    "nonce of 128": reference.request([cid()], extensions=[nonce(128)]),
    "critical nonce": reference.request([cid()], extensions=[nonce(32, critical=TRUE)]),
    "bare nonce": reference.request([cid()], extensions=[reference.extension(NONCE, b"old clients send it bare")]),
    "acceptable responses": reference.request(
        [cid()], extensions=[reference.extension(ACCEPTABLE, b"0\0", critical=TRUE), nonce(16)]),
    "locator": reference.request([cid()], single_extensions=[reference.extension(LOCATOR, b"0\0")]),
    "unknown": reference.request([cid()], extensions=[reference.extension("550403", b"", critical=b"\x01\x01\x00")]),
    "signed": reference.request([cid()], signature=reference.tlv(0xA0, reference.tlv(0x30, b""))),
    "no parameters": reference.request([cid(alg=ABSENT["sha1"])]),
}
MALFORMED: dict[str, bytes] = {
    "no request": reference.request([]), "trailing": reference.request([cid()]) + b"\0",
    "truncated": reference.request([cid()])[:-1], "empty": b"", "empty sequence": b"0\0",
    "nonce of 0": reference.request([cid()], extensions=[nonce(0)]),
    "nonce of 129": reference.request([cid()], extensions=[nonce(129)]),
    "two nonces": reference.request([cid()], extensions=[nonce(16), nonce(16)]),
    "critical": reference.request([cid()], extensions=[reference.extension("550403", b"", critical=TRUE)]),
    "critical of one": reference.request([cid()], single_extensions=[
        reference.extension(LOCATOR, b"0\0", critical=TRUE)]),
    "version 2": reference.request([cid()], before=reference.tlv(0xA0, b"\x02\x01\x01")),
    "parameters": reference.request([cid(alg=bytes.fromhex("300a06052b0e03021a020100"))]),
    "no algorithm": reference.request([cid(alg=bytes.fromhex("3000"))]),
    "not a list": reference.tlv(0x30, reference.tlv(0x30, reference.tlv(0x31, b""))),
    "too many": reference.request([cid()] * 101),
    "too long": reference.request([cid()]).ljust(MAX_REQUEST_BYTES + 1, b"\0"),
    "indefinite": b"0\x80" + reference.request([cid()])[2:] + b"\0\0", "high tag": b"\x1f\x85\x01" + bytes(20),
    "long length": b"0\x81\x53" + reference.request([cid()])[2:],
    "length of 4 GB": b"0\x84\xff\xff\xff\xff" + reference.request([cid()])[2:],
}


@pytest.mark.parametrize("form", sorted(IGNORED))
def test_what_does_not_change_the_answer_is_ignored(form: str) -> None:
    """Requestor, signature, nonce and extensions that are not critical (spec 5.2)."""
    assert [asked.serial for asked in parse_request(IGNORED[form]).cert_ids] == [SERIAL]


@pytest.mark.parametrize("form", sorted(MALFORMED))
def test_everything_else_is_malformed(form: str) -> None:
    """One way out for every input that is not a request we understand."""
    with pytest.raises(MalformedRequest):
        parse_request(MALFORMED[form])


def test_an_unknown_hash_is_a_request_that_is_not_authorized() -> None:
    """SHA-384 is legal; nobody can answer it here."""
    sha384 = bytes.fromhex("300d06096086480165030402020500")
    asked, = parse_request(reference.request([cid(alg=sha384)])).cert_ids
    assert asked.hash_name is None


def test_the_order_of_cert_ids_is_kept() -> None:
    """The first of two CertIDs of one certificate decides the answer."""
    found = parse_request(reference.request([cid("sha256"), cid("sha1")])).cert_ids
    assert [asked.hash_name for asked in found] == [HashName.SHA256, HashName.SHA1]


@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    """No other exception than MalformedRequest leaves the parser."""
    with pytest.raises(MalformedRequest):
        parse_request(data)


def test_a_hundred_thousand_damaged_requests_never_crash_the_parser() -> None:
    """Bits flipped, bytes cut, doubled and inserted: a result or MalformedRequest, and a result is self-consistent."""
    source = random.Random(6960)
    seeds = [reference.request([cid()]), reference.request([cid("sha256"), cid()], before=VERSION + REQUESTOR),
             reference.request([cid()], extensions=[nonce(16)], single_extensions=[nonce(3)])]
    read = 0
    for _ in range(100_000):
        data = bytearray(source.choice(seeds))
        for _ in range(source.choice((1, 1, 1, 2, 5))):
            at, kind = source.randrange(len(data)), source.randrange(4)
            if kind == 0:
                data[at] ^= 1 << source.randrange(8)
            elif kind == 1:
                del data[at:at + source.randrange(1, 8)]
            elif kind == 2:
                data[at:at] = source.randbytes(source.randrange(1, 4))
            else:
                data[at] = source.choice((0x00, 0x02, 0x04, 0x05, 0x30, 0x7F, 0x80, 0x81, 0x84, 0xA0, 0xA2, 0xFF))
            if not data:
                break
        try:
            cert_ids = parse_request(bytes(data)).cert_ids
        except MalformedRequest:
            continue
        read += 1
        assert cert_ids
    assert read, "some damage hits only hashes and serial numbers"


@given(data=st.data(), extra=st.binary(min_size=1, max_size=4))
def test_a_cut_or_extended_request_is_malformed(data: st.DataObject, extra: bytes) -> None:
    """Every proper prefix, and every continuation."""
    whole = reference.request([cid()], extensions=[nonce(16)])
    for damaged in (whole[:data.draw(st.integers(0, len(whole) - 1))], whole + extra):
        with pytest.raises(MalformedRequest):
            parse_request(damaged)


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda text: text,
    "leading slash": lambda text: b"/" + text,
    "two leading slashes": lambda text: b"//" + text,
    "escaped": lambda text: quote(text, safe="").encode(),
    "escaped in lower case": lambda text: text.replace(b"+", b"%2b").replace(b"/", b"%2f").replace(b"=", b"%3d"),
    "slash not escaped": lambda text: quote(text, safe="/").encode(),
    "without padding": lambda text: text.rstrip(b"="),
    "base64url": lambda text: text.replace(b"+", b"-").replace(b"/", b"_"),
    "slash at the end": lambda text: text + b"/",
    "space for plus": lambda text: text.replace(b"+", b"%20"),
}


@pytest.mark.parametrize("form", sorted(FORMS))
@given(serial=st.binary(min_size=1, max_size=20), name=st.sampled_from(["sha1", "sha256"]),
       nonce_bytes=st.sampled_from([None, 1, 15, 16, 17, 32]))
def test_each_form_of_a_get_path_is_decoded(form: str, serial: bytes, name: str, nonce_bytes: int | None) -> None:
    """The ten forms that clients and proxies are known to send (A.2)."""
    request = reference.request([cid(name, serial)], extensions=None if nonce_bytes is None else [nonce(nonce_bytes)])
    assert decode_path(FORMS[form](base64.b64encode(request))) == request


@pytest.mark.parametrize("raw", [b"", b"/", b"////", b"M", b"favicon.ico", b"%", b"%zz", b"MFEwTzBN", b"AAAA",
                                 b"\xff" * 40, b"M" * 1001, base64.b64encode(reference.request([cid()])) + b"AAAA"])
def test_other_paths_hold_no_request(raw: bytes) -> None:
    """None, never an exception; nothing may follow the request."""
    assert decode_path(raw) is None


def test_double_escaping_is_not_undone() -> None:
    """Percent-decoding happens once (A.2)."""
    text = base64.b64encode(reference.request([cid(serial=b"\x0a" + b"\xff" * 17)]))
    assert b"/" in text
    assert decode_path(quote(quote(text, safe=""), safe="").encode()) is None


@given(raw=st.binary(max_size=1200))
def test_any_path_gives_a_request_or_none(raw: bytes) -> None:
    """Whatever bytes a client puts there."""
    found = decode_path(raw)
    assert found is None or found[:1] == b"0"
