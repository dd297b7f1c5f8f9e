"""CA certificates have the very bytes of their profiles, and nothing outside of them is built."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ca.admin.ceremony.lint import LintType, require_clean
from ca.pki.ca_certificate import (
    CaCertificateError,
    CaUrls,
    ca_subject,
    signature_algorithm,
    tbs_cross,
    tbs_intermediate,
    tbs_root,
)
from ca.pki.ca_crl import CaCrlError, tbs_ca_crl
from ca.pki.crl import CrlEntry
from ca.pki.issuer import read_issuer
from ca.pki.serial import serial_number
from ca.pki.tbs import assemble
from ca.pki.validity import Validity

_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_NOW = datetime(2026, 11, 24, 3, 0, 0, tzinfo=UTC)
_SERIAL = serial_number(_NOW, bytes(range(16)))
_URLS = CaUrls(ca_issuers="http://aia.example.com/x1.crt", crl="http://crl.example.com/x1.crl")
_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_P384_KEY = ec.generate_private_key(ec.SECP384R1())
_P256_KEY = ec.generate_private_key(ec.SECP256R1())


def _spki(key: _Key | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _life(days: int, start: datetime = _NOW) -> Validity:
    return Validity(not_before=start, not_after=start + timedelta(days=days, seconds=-1))


def _name(common_name: str) -> bytes:
    return ca_subject(country="GB", organization="Chancery Tests", common_name=common_name)


def _signed(key: _Key, tbs: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return assemble(tbs, key.sign(tbs, padding.PKCS1v15(), hashes.SHA256()))
    return assemble(tbs, key.sign(tbs, ec.ECDSA(hashes.SHA256() if key.key_size == 256 else hashes.SHA384())))


def _root(key: _Key, name: str) -> bytes:
    return _signed(key, tbs_root(subject_der=_name(name), spki_der=_spki(key), serial=_SERIAL, validity=_life(3650)))


X1, X2 = _root(_RSA_KEY, "X1"), _root(_P384_KEY, "X2")
CROSS = _signed(_RSA_KEY, tbs_cross(issuer=read_issuer(X1), existing=read_issuer(X2), serial=_SERIAL,
                                    validity=_life(1825), urls=_URLS))


def _intermediate(key: _Key, issuer_key: _Key, issuer: bytes, *, signs_ocsp: bool = True) -> bytes:
    return _signed(issuer_key, tbs_intermediate(
        issuer=read_issuer(issuer), subject_der=_name("E1"), spki_der=_spki(key), serial=_SERIAL,
        validity=_life(1095), urls=_URLS, signs_ocsp=signs_ocsp))


def _values(certificate: bytes) -> dict[str, tuple[bool, str]]:
    """Dotted OID -> (critical, extnValue contents in hexadecimal)."""
    found = {}
    for each in x509.load_der_x509_certificate(certificate).extensions:
        found[each.oid.dotted_string] = (each.critical, each.value.public_bytes().hex())
    return found


def test_extensions_of_a_root() -> None:
    """keyUsage, basicConstraints, and its own key identifier twice; neither EKU, policies, CRLDP nor AIA."""
    key_id = read_issuer(X1).key_id.hex()
    assert list(_values(X1).items()) == [
        ("2.5.29.15", (True, "03020106")),
        ("2.5.29.19", (True, "30030101ff")),
        ("2.5.29.14", (False, f"0414{key_id}")),
        ("2.5.29.35", (False, f"30168014{key_id}")),
    ]


@pytest.mark.parametrize(("signs_ocsp", "usage"), [(True, "03020186"), (False, "03020106")])
def test_extensions_of_an_intermediate(signs_ocsp: bool, usage: str) -> None:
    """serverAuth alone, path length 0, domain-validated alone; digitalSignature only when it signs OCSP itself."""
    values = _values(_intermediate(_P256_KEY, _P384_KEY, X2, signs_ocsp=signs_ocsp))
    x2 = read_issuer(X2).key_id.hex()
    assert list(values) == ["2.5.29.15", "2.5.29.37", "2.5.29.19", "2.5.29.14", "2.5.29.35", "1.3.6.1.5.5.7.1.1",
                            "2.5.29.32", "2.5.29.31"]
    assert values["2.5.29.15"] == (True, usage)
    assert values["2.5.29.37"] == (False, "300a06082b06010505070301")
    assert values["2.5.29.19"] == (True, "30060101ff020100")
    assert values["2.5.29.35"] == (False, f"30168014{x2}")
    assert values["2.5.29.32"] == (False, "300a3008060667810c010201")
    assert values["1.3.6.1.5.5.7.1.1"] == (
        False, "302b302906082b06010505073002861d" + b"http://aia.example.com/x1.crt".hex())
    assert values["2.5.29.31"] == (False, "30253023a021a01f861d" + b"http://crl.example.com/x1.crl".hex())


def test_a_cross_sign_is_the_root_under_another_issuer() -> None:
    """Subject, SPKI and SKI bytes of the root; serverAuth, a policy, CRLDP and AIA of the issuer; no path length."""
    cross, x1, x2 = read_issuer(CROSS), read_issuer(X1), read_issuer(X2)
    assert (cross.subject_der, cross.spki_der, cross.key_id) == (x2.subject_der, x2.spki_der, x2.key_id)
    assert cross.authority_key_id == x1.key_id
    values = _values(CROSS)
    assert values["2.5.29.19"] == (True, "30030101ff")
    assert values["2.5.29.15"] == (True, "03020106")
    assert values["2.5.29.37"] == (False, "300a06082b06010505070301")
    assert values["2.5.29.32"] == (False, "300a3008060667810c010201")


def test_serial_version_and_algorithms() -> None:
    """Version 3, an 18-byte serial, and the AlgorithmIdentifier of the signing key, byte for byte (BR 7.1.3.2)."""
    for der, algorithm in ((X1, "300d06092a864886f70d01010b0500"), (X2, "300a06082a8648ce3d040303"),
                           (CROSS, "300d06092a864886f70d01010b0500")):
        certificate = x509.load_der_x509_certificate(der)
        assert certificate.version is x509.Version.v3
        assert certificate.serial_number.to_bytes(18, "big") == _SERIAL
        assert der.count(bytes.fromhex(algorithm)) == 2
    assert signature_algorithm(_spki(_P256_KEY)).hex() == "300a06082a8648ce3d040302"
    with pytest.raises(CaCertificateError, match="RSA, P-256 or P-384"):
        signature_algorithm(_spki(ec.generate_private_key(ec.SECP521R1())))


def test_the_linter_finds_nothing() -> None:
    """No finding of WARNING or above for each of the profiles, with URLs on the Internet."""
    require_clean(X2, LintType.ROOT)
    require_clean(CROSS, LintType.CROSS)
    require_clean(_intermediate(_P256_KEY, _P384_KEY, X2), LintType.INTERMEDIATE)


def test_openssl_verifies_both_ways(tmp_path: Path) -> None:
    """E1 verifies strictly under X2, and under X1 through the cross-sign."""
    files = {}
    for name, der in (("x1", X1), ("x2", X2), ("cross", CROSS), ("e1", _intermediate(_P256_KEY, _P384_KEY, X2))):
        files[name] = tmp_path / f"{name}.pem"
        files[name].write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    at = str(int((_NOW + timedelta(days=1)).timestamp()))
    for arguments in (["-CAfile", files["x2"]], ["-CAfile", files["x1"], "-untrusted", files["cross"]]):
        done = subprocess.run(["openssl", "verify", "-x509_strict", "-attime", at, "-no-CApath", *map(str, arguments),
                               str(files["e1"])], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_names_are_printable_strings_where_possible() -> None:
    """C, O, CN in this order, one attribute an RDN; UTF8String only for what PrintableString has no letter for."""
    assert ca_subject(country="GB", organization="A & B", common_name="R1").hex() == (
        "302a310b3009060355040613024742310e300c060355040a0c054120262042310b3009060355040313025231")
    name = x509.Name.from_bytes(ca_subject(country="GB", organization="Zürich", common_name="Root X1"))
    assert name.rfc4514_string() == "CN=Root X1,O=Zürich,C=GB"


@pytest.mark.parametrize(("country", "organization", "common_name"), [
    ("gb", "O", "CN"), ("GBR", "O", "CN"), ("G1", "O", "CN"), ("GB", "", "CN"), ("GB", "O", "x" * 65),
    ("GB", " O", "CN"), ("GB", "O", "C\nN"),
])
def test_impossible_names_are_refused(country: str, organization: str, common_name: str) -> None:
    """Countries are two capitals; names have 1 to 64 printable characters without space around them."""
    with pytest.raises(CaCertificateError):
        ca_subject(country=country, organization=organization, common_name=common_name)


@given(st.integers(1, 10_000))
def test_a_root_lives_8_to_25_years(days: int) -> None:
    """BR 6.3.2: exactly the lengths between both limits are built."""
    def build() -> bytes:
        return tbs_root(subject_der=_name("X1"), spki_der=_spki(_P384_KEY), serial=_SERIAL, validity=_life(days))

    if 2922 <= days <= 9132:
        assert build()
    else:
        with pytest.raises(CaCertificateError, match="lives 2922 to 9132 days"):
            build()


@pytest.mark.parametrize(("changed", "message"), [
    ({"validity": _life(1097)}, "lives 1096 days at most"),
    ({"validity": Validity(not_before=_NOW - timedelta(seconds=1), not_after=_NOW + timedelta(days=1))}, "within"),
    ({"validity": _life(1000, _NOW + timedelta(days=3000))}, "within"),
    ({"subject_der": _name("X1")}, "a name and a key of its own"),
    ({"spki_der": _spki(_RSA_KEY)}, "a name and a key of its own"),
    ({"urls": CaUrls(ca_issuers="https://a.example/x", crl="http://a.example/x")}, "http:// URLs"),
    ({"spki_der": _spki(ec.generate_private_key(ec.SECP521R1()))}, "RSA, P-256 or P-384"),
])
def test_what_no_intermediate_may_be(changed: dict[str, object], message: str) -> None:
    """Longer than three years, outside of its issuer's life, or its issuer over again."""
    arguments: dict[str, object] = {
        "issuer": read_issuer(X1), "subject_der": _name("R1"), "spki_der": _spki(_P256_KEY), "serial": _SERIAL,
        "validity": _life(1095), "urls": _URLS, "signs_ocsp": True}
    assert tbs_intermediate(**arguments)  # type: ignore[arg-type]
    with pytest.raises(CaCertificateError, match=message):
        tbs_intermediate(**(arguments | changed))  # type: ignore[arg-type]


def test_no_self_cross_sign() -> None:
    """A root is not cross-signed by its own key."""
    with pytest.raises(CaCertificateError, match="does not cross-sign itself"):
        tbs_cross(issuer=read_issuer(X1), existing=read_issuer(X1), serial=_SERIAL, validity=_life(1), urls=_URLS)


def test_a_roots_crl(tmp_path: Path) -> None:
    """Whole, for CA certificates alone, with a reason for each entry; openssl verifies it; the linter finds nothing."""
    entries = [CrlEntry(serial=serial_number(_NOW, bytes([each] * 16)), revoked_at=_NOW, reason=4) for each in (2, 1)]
    der = _signed(_RSA_KEY, tbs_ca_crl(issuer=read_issuer(X1), number=7, this_update=_NOW, entries=entries,
                                       next_update=_NOW + timedelta(days=364)))
    require_clean(der, LintType.ROOT_CRL)
    crl = x509.load_der_x509_crl(der)
    assert crl.is_signature_valid(_RSA_KEY.public_key())
    assert [entry.serial_number for entry in crl] == sorted(int.from_bytes(each.serial, "big") for each in entries)
    [scope] = [each for each in crl.extensions if isinstance(each.value, x509.IssuingDistributionPoint)]
    assert scope.critical
    assert scope.value.public_bytes().hex() == "30038201ff"
    (tmp_path / "x1.pem").write_bytes(x509.load_der_x509_certificate(X1).public_bytes(Encoding.PEM))
    (tmp_path / "x1.crl").write_bytes(der)
    done = subprocess.run(["openssl", "crl", "-inform", "DER", "-in", str(tmp_path / "x1.crl"), "-noout", "-CAfile",
                           str(tmp_path / "x1.pem")], capture_output=True, text=True, check=False)
    assert "verify OK" in done.stderr


@pytest.mark.parametrize("life", [timedelta(0), timedelta(days=365), timedelta(days=-1)])
def test_a_roots_crl_is_valid_for_less_than_12_months(life: timedelta) -> None:
    """BR 4.9.7."""
    with pytest.raises(CaCrlError, match="less than 12 months"):
        tbs_ca_crl(issuer=read_issuer(X1), number=1, this_update=_NOW, next_update=_NOW + life, entries=[])


def test_a_revoked_ca_has_a_reason() -> None:
    """BR 7.2.2: unspecified is not one."""
    with pytest.raises(CaCrlError, match="needs a reason"):
        tbs_ca_crl(issuer=read_issuer(X1), number=1, this_update=_NOW, next_update=_NOW + timedelta(days=1),
                   entries=[CrlEntry(serial=_SERIAL, revoked_at=_NOW, reason=0)])
