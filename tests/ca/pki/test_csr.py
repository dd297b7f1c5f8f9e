"""Certification requests: rows FI1, FI3, FI4, FI6, FI7 and the hostile ones E73 to E76."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca.pki import der
from ca.pki.csr import MAX_CSR_OCTETS, Csr, CsrError, CsrFault, parse_csr, require_names
from ca.pki.identifier import Identifier
from tests.ca.pki.csr_maker import (
    COMMON_NAME,
    EXTENSION_REQUEST,
    alternative_names,
    attribute,
    common_name,
    extension,
    request,
    sign,
    subject,
)

_EC_KEY = ec.generate_private_key(ec.SECP256R1())
_EMAIL, _URI = (0x81, b"a@x.example"), (0x86, b"http://x")
_OTHER_NAME, _DIRECTORY = (0xA0, b"\x06\x01\x2a"), (0xA4, b"")


def _names(*values: str) -> frozenset[Identifier]:
    return frozenset(Identifier(type="ip" if value[0].isdigit() or ":" in value else "dns", value=value)
                     for value in values)


def _fault(csr_der: bytes) -> CsrFault:
    with pytest.raises(CsrError) as refused:
        parse_csr(csr_der)
    assert refused.value.detail
    return refused.value.reason


def _parse(**parts: object) -> Csr:
    return parse_csr(request(_EC_KEY, **parts))  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [_EC_KEY, ec.generate_private_key(ec.SECP384R1()),
                                 rsa.generate_private_key(65_537, 2048)], ids=["p256", "p384", "rsa"])
@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda a: str(a.name))
def test_requests_of_a_library(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
                               algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512) -> None:
    """An ordinary request gives its names and the very bytes of its key."""
    csr = (x509.CertificateSigningRequestBuilder()
           .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example"),
                                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ignored")]))
           .add_extension(x509.SubjectAlternativeName([x509.DNSName("A.example"), x509.DNSName("*.b.example")]), False)
           .sign(key, algorithm))
    parsed = parse_csr(csr.public_bytes(Encoding.DER))
    assert parsed.names == _names("a.example", "*.b.example")
    assert parsed.spki_der == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert parsed.key_type == ("rsa" if isinstance(key, rsa.RSAPrivateKey) else "ec")


def test_names_are_san_and_common_name() -> None:
    """FI3, FI7: the union, folded, addresses in the CN as addresses; every kind of subject is fine."""
    assert _parse(names=["b.example"], subject_der=common_name("A.Example")).names == _names("a.example", "b.example")
    assert _parse(subject_der=common_name("a.example")).names == _names("a.example")
    assert _parse(subject_der=common_name("192.0.2.1")).names == _names("192.0.2.1")
    assert _parse(names=["2001:db8::1", "192.0.2.1"]).names == _names("2001:db8::1", "192.0.2.1")
    assert _parse(names=["a.example"], subject_der=common_name("")).names == _names("a.example")
    assert _parse(names=["a.example"]).names == _names("a.example")
    long_name = ".".join(["a" * 60, "b" * 60, "example"])
    assert _parse(names=[long_name], subject_der=common_name(long_name)).names == _names(long_name)
    bmp = subject((COMMON_NAME, 0x1E, "a.example".encode("utf-16-be")))
    assert _parse(subject_der=bmp).names == _names("a.example")
    repeated = ["a.example", "A.EXAMPLE"]
    assert _parse(names=repeated).names == _names("a.example")


@pytest.mark.parametrize("names", [
    [_EMAIL], ["a.example", _URI], ["a.example", _OTHER_NAME], [_DIRECTORY], ["a.com\x00.evil.com"], ["a.com."],
    ["a.example", (0x82, "b\u00fc.example".encode())], [(0x82, b"192.0.2.1")], [(0x87, b"\x01\x02\x03")],
    [(0x87, bytes(8))], ["localhost"], [(0x82, b"")],
], ids=ascii)
def test_other_names_are_refused(names: list[str | tuple[int, bytes]]) -> None:
    """E74: only dNSName and iPAddress, by the rules of identifiers."""
    assert _fault(request(_EC_KEY, names=names)) is CsrFault.NAMES


def test_other_faults_of_names() -> None:
    """E74: an empty SAN, no name at all, a CN that is no name."""
    assert _fault(request(_EC_KEY, extensions=[extension("2.5.29.17", b"\x30\x00")])) is CsrFault.NAMES
    assert _fault(request(_EC_KEY)) is CsrFault.NAMES
    assert _fault(request(_EC_KEY, names=["a.example"], subject_der=common_name("My Server"))) is CsrFault.NAMES
    assert _fault(request(_EC_KEY, names=["a.example"], subject_der=common_name("localhost"))) is CsrFault.NAMES


def test_single_labels_on_request() -> None:
    """The CSR of our own service may say localhost."""
    csr = parse_csr(request(_EC_KEY, names=["localhost", "127.0.0.1"]), single_label=True)
    assert csr.names == _names("localhost", "127.0.0.1")


def test_require_names() -> None:
    """FI3: exactly the identifiers of the order; the answer says which differ, and not all hundred of them."""
    csr = _parse(names=["a.example", "b.example"])
    require_names(csr, _names("b.example", "a.example"))
    for identifiers, said in ((_names("a.example"), "also asks for b.example"),
                              (_names("a.example", "b.example", "c.example"), "leaves out c.example"),
                              (_names("a.example", "*.b.example"), "leaves out *.b.example")):
        with pytest.raises(CsrError, match=said.replace("*", r"\*")) as refused:
            require_names(csr, identifiers)
        assert refused.value.reason is CsrFault.NAMES
    with pytest.raises(CsrError) as refused:
        require_names(csr, _names(*(f"n{number}.example" for number in range(100))))
    assert "and 95 more" in refused.value.detail


def test_ignored_extensions() -> None:
    """FI6: key usage, EKU, SKI, CA:FALSE, Microsoft's, a poison, unknown critical ones: not even parsed."""
    ignored = [extension("2.5.29.15", b"garbage", critical=True), extension("2.5.29.37", b""),
               extension("2.5.29.14", b"\x04\x00"), extension("2.5.29.19", b"\x30\x00", critical=True),
               extension("2.5.29.35", b"x"), extension("1.3.6.1.4.1.311.20.2", b"x"),
               extension("1.3.6.1.4.1.11129.2.4.3", b"\x05\x00", critical=True),
               extension("1.2.3.4", b"x", critical=True)]
    others = [attribute("1.3.6.1.4.1.311.13.2.3", der.tlv(der.UTF8_STRING, b"10.0")),
              attribute("1.2.840.113549.1.9.7", der.tlv(der.UTF8_STRING, b"challenge"))]
    csr = request(_EC_KEY, attributes=[*others, attribute(EXTENSION_REQUEST, der.sequence(
        alternative_names(["a.example"]), *ignored))])
    assert parse_csr(csr).names == _names("a.example")
    assert _parse(names=["a.example"], extensions=[extension("2.5.29.19", b"\x30\x03\x01\x01\x00")]).names


@pytest.mark.parametrize(("oid", "value"), [
    ("2.5.29.19", "30030101ff"), ("2.5.29.19", "30060101ff020100"), ("2.5.29.30", "3000"),
    ("2.5.29.32", "300630040604551d2000"), ("1.3.6.1.5.5.7.1.24", "3003020105"),
])
def test_refused_extensions(oid: str, value: str) -> None:
    """FI6, E76: CA:TRUE, name constraints, policies and must-staple are refused, never dropped silently."""
    csr = request(_EC_KEY, names=["a.example"], extensions=[extension(oid, bytes.fromhex(value))])
    assert _fault(csr) is CsrFault.EXTENSION


def test_proof_of_possession() -> None:
    """FI4, E75: another key's signature, a flipped bit, MD5, SHA-1, a PSS identifier over PKCS#1."""
    rsa_key = rsa.generate_private_key(65_537, 2048)
    good = request(_EC_KEY, names=["a.example"])
    other = ec.generate_private_key(ec.SECP256R1())
    assert _fault(request(_EC_KEY, names=["a.example"], signature=sign(other, b"x"))) is CsrFault.SIGNATURE
    assert _fault(request(_EC_KEY, names=["a.example"], signature=b"")) is CsrFault.SIGNATURE
    assert _fault(good[:-1] + bytes((good[-1] ^ 1,))) is CsrFault.SIGNATURE
    info = der.children(request(rsa_key, names=["a.example"]),
                        der.read_only(request(rsa_key, names=["a.example"]), der.SEQUENCE))[0]
    body = der.whole(request(rsa_key, names=["a.example"]), info)
    for algorithm, hash_algorithm in (("300d06092a864886f70d0101050500", hashes.SHA1()),  # noqa: S303 - refused
                                      ("300d06092a864886f70d0101040500", hashes.MD5())):  # noqa: S303 - refused
        signature = rsa_key.sign(body, padding.PKCS1v15(), hash_algorithm)
        assert _fault(request(rsa_key, names=["a.example"], signature=signature,
                              signature_algorithm=bytes.fromhex(algorithm))) is CsrFault.SIGNATURE
    assert _fault(request(rsa_key, names=["a.example"],
                          signature_algorithm=bytes.fromhex("300d06092a864886f70d01010b0601ff"))) is not None


def test_keys_are_judged() -> None:
    """FI4, E75: what public_key refuses, a CSR may not bring: small RSA, P-224, Ed25519, explicit curves."""
    small = rsa.generate_private_key(65_537, 1024)  # noqa: S505 - refused
    assert _fault(request(small, names=["a.example"])) is CsrFault.KEY
    assert _fault(request(ec.generate_private_key(ec.SECP224R1()), names=["a.example"])) is CsrFault.KEY
    edwards = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert _fault(request(_EC_KEY, names=["a.example"], spki=edwards)) is CsrFault.KEY
    explicit = der.sequence(der.sequence(bytes.fromhex("06072a8648ce3d0201"), b"\x30\x03\x02\x01\x01"),
                            der.bit_string(b"\x04" + bytes(64)))
    assert _fault(request(_EC_KEY, names=["a.example"], spki=explicit)) is CsrFault.KEY


def test_structures_that_are_not_pkcs10() -> None:
    """FI1, E73: random bytes, a certificate-like shape, BER, depth, version, doubled requests and extensions, size."""
    good = request(_EC_KEY, names=["a.example"])
    san = alternative_names(["a.example"])
    twice = attribute(EXTENSION_REQUEST, der.sequence(san))
    for wrong in (
        b"", b"\x00", b"\x30", b"random bytes that are no DER", good + b"\x00", good[:-1],
        b"\x30\x80" + good[4:] + b"\x00\x00", b"\x30\x84" * 1000, der.sequence(), der.sequence(good, good, good),
        b"-----BEGIN CERTIFICATE REQUEST-----", b"\x30" * (MAX_CSR_OCTETS + 1),
        request(_EC_KEY, names=["a.example"], version=1),
        request(_EC_KEY, attributes=[twice, twice]),
        request(_EC_KEY, attributes=[attribute(EXTENSION_REQUEST, der.sequence(san), der.sequence(san))]),
        request(_EC_KEY, extensions=[san, san]),
        request(_EC_KEY, attributes=[b"\x02\x01\x00"]),
        request(_EC_KEY, names=["a.example"], subject_der=subject((COMMON_NAME, 0x02, b"\x01"))),
        request(_EC_KEY, names=["a.example"], subject_der=subject((COMMON_NAME, 0x0C, b"\xff"))),
    ):
        assert _fault(wrong) is CsrFault.ENCODING


def test_ten_thousand_names_are_too_large() -> None:
    """E73: the size is looked at first."""
    many = subject(*((COMMON_NAME, der.UTF8_STRING, b"a.example") for _ in range(10_000)))
    assert _fault(request(_EC_KEY, subject_der=many)) is CsrFault.ENCODING


_GOOD = request(_EC_KEY, names=["a.example", "192.0.2.1"], subject_der=common_name("a.example"))


@given(st.integers(min_value=0, max_value=len(_GOOD) - 1))
def test_truncation_is_refused(length: int) -> None:
    """No prefix of a request is a request."""
    with pytest.raises(CsrError):
        parse_csr(_GOOD[:length])


@given(st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_refused(tail: bytes) -> None:
    """FI1: nothing may follow."""
    with pytest.raises(CsrError):
        parse_csr(_GOOD + tail)


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(min_value=0, max_value=len(_GOOD) - 1), st.integers(min_value=1, max_value=255))
def test_no_bit_can_be_changed(position: int, mask: int) -> None:
    """A changed octet is refused or leaves the outcome alone, and no other exception comes out."""
    changed = bytearray(_GOOD)
    changed[position] ^= mask
    with pytest.raises(CsrError):
        parse_csr(bytes(changed))


@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    """Only CsrError is ever raised."""
    with pytest.raises(CsrError):
        parse_csr(data)
