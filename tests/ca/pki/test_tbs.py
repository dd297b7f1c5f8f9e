"""Certificates: the same bytes as cryptography's builder makes, the very extension values of the specification."""

import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.pki import der
from ca.pki.identifier import Identifier, general_names
from ca.pki.issuer import read_issuer
from ca.pki.profile import PROFILES, Profile
from ca.pki.public_key import CertificateKey, require_acceptable
from ca.pki.serial import serial_int, serial_number
from ca.pki.tbs import StatusUrls, assemble, tbs_certificate
from ca.pki.validity import Validity, validity
from tests.ca.pki.authority import NOW, Authority, authority

URLS = StatusUrls(ocsp="http://o.example", ca_issuers="http://i.example/issuing-e1.crt",
                  crl="http://c.example/e1/17.crl")
EC_AUTHORITY = authority(ec.generate_private_key(ec.SECP256R1()))
P384_AUTHORITY = authority(ec.generate_private_key(ec.SECP384R1()))
RSA_AUTHORITY = authority(rsa.generate_private_key(65_537, 2048))
AUTHORITIES = {"p256": EC_AUTHORITY, "p384": P384_AUTHORITY, "rsa": RSA_AUTHORITY}
EC_LEAF = ec.generate_private_key(ec.SECP256R1())
RSA_LEAF = rsa.generate_private_key(65_537, 2048)
SERIAL = serial_number(NOW, bytes(range(16)))


def names(*values: str) -> list[Identifier]:
    """Identifiers of either type."""
    return [Identifier(type="ip" if ":" in value or value[0].isdigit() else "dns", value=value) for value in values]


def _key(leaf: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> CertificateKey:
    return require_acceptable(leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _tbs(profile: str, identifiers: list[Identifier], *, by: Authority = EC_AUTHORITY, serial: bytes = SERIAL,
         leaf: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = EC_LEAF, period: Validity | None = None) -> bytes:
    kind = PROFILES[profile]
    period = period or validity(NOW, length_s=kind.length_s, issuer=by.issuer.validity)
    return tbs_certificate(profile=kind, issuer=by.issuer, serial=serial, validity=period,
                           identifiers=identifiers, key=_key(leaf), urls=URLS)


def _certificate(tbs: bytes, by: Authority = EC_AUTHORITY) -> x509.Certificate:
    return x509.load_der_x509_certificate(assemble(tbs, by.sign(tbs)))


def _oracle(profile: Profile, identifiers: list[Identifier], by: Authority, serial: bytes,
            leaf: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, period: Validity) -> bytes:
    """The TBS that cryptography's own builder makes of the same facts."""
    common = next((name.value for name in identifiers if name.type == "dns" and len(name.value) <= 64), None)
    # cryptography writes UTF8String unless told; a wildcard's star is not a PrintableString character.
    subject = x509.Name([] if common is None or not profile.common_name else [x509.NameAttribute(
        NameOID.COMMON_NAME, common, x509.name._ASN1Type.UTF8String if "*" in common
        else x509.name._ASN1Type.PrintableString)])
    with_encipherment = isinstance(leaf, rsa.RSAPrivateKey) and profile.rsa_key_encipherment
    general = [x509.DNSName(name.value) if name.type == "dns" else x509.IPAddress(ipaddress.ip_address(name.value))
               for name in general_names(identifiers)]
    key_id = x509.SubjectKeyIdentifier(by.issuer.key_id)
    builder = (
        x509.CertificateBuilder().serial_number(serial_int(serial)).issuer_name(by.certificate.subject)
        .subject_name(subject).public_key(leaf.public_key())
        .not_valid_before(period.not_before).not_valid_after(period.not_after)
        .add_extension(x509.KeyUsage(True, False, with_encipherment, False, False, False, False, False, False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.BasicConstraints(False, None), True))
    if profile.subject_key_identifier:
        bits = der.children(_key(leaf).spki_der, der.read_only(_key(leaf).spki_der, der.SEQUENCE))[1]
        digest = hashes.Hash(hashes.SHA256())
        digest.update(der.contents(_key(leaf).spki_der, bits)[1:])
        builder = builder.add_extension(x509.SubjectKeyIdentifier(digest.finalize()[:20]), False)
    builder = (
        builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False)
        .add_extension(x509.AuthorityInformationAccess([
            *([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(URLS.ocsp))]
              if profile.ocsp else []),
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS,
                                   x509.UniformResourceIdentifier(URLS.ca_issuers))]), False)
        .add_extension(x509.SubjectAlternativeName(general), not subject.rdns)
        .add_extension(x509.CertificatePolicies([x509.PolicyInformation(
            x509.ObjectIdentifier("2.23.140.1.2.1"), None)]), False)
        .add_extension(x509.CRLDistributionPoints([x509.DistributionPoint(
            [x509.UniformResourceIdentifier(URLS.crl)], None, None, None)]), False))
    algorithm = hashes.SHA384() if by is P384_AUTHORITY else hashes.SHA256()
    return builder.sign(by.key, algorithm).tbs_certificate_bytes


_labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
_dns_names = st.builds(lambda star, labels: Identifier(type="dns", value=star + ".".join([*labels, "example"])),
                       st.sampled_from(["", "*."]), st.lists(_labels, min_size=1, max_size=3))
_addresses = st.ip_addresses().map(lambda address: Identifier(type="ip", value=str(address)))


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(PROFILES)), st.lists(_dns_names | _addresses, min_size=1, max_size=8, unique=True),
    st.sampled_from(sorted(AUTHORITIES)), st.sampled_from([EC_LEAF, RSA_LEAF]), st.binary(min_size=16, max_size=16),
    st.integers(min_value=3600, max_value=34 * 365 * 86_400),
)
def test_same_bytes_as_the_library(profile: str, identifiers: list[Identifier], by: str,
                                   leaf: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, random16: bytes,
                                   length_s: int) -> None:
    """Whatever the profile, names, keys and dates: byte for byte what cryptography's builder encodes."""
    period = Validity(not_before=NOW, not_after=NOW + timedelta(seconds=length_s))
    serial = serial_number(NOW, random16)
    issued_by = AUTHORITIES[by]
    ours = _tbs(profile, identifiers, by=issued_by, serial=serial, leaf=leaf, period=period)
    assert ours == _oracle(PROFILES[profile], identifiers, issued_by, serial, leaf, period)


@pytest.mark.parametrize("by", sorted(AUTHORITIES))
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_chain_verifies(profile: str, by: str) -> None:
    """The assembled certificate is signed by its issuer, and a verifier for TLS servers builds the chain."""
    issued_by = AUTHORITIES[by]
    leaf = RSA_LEAF if by == "rsa" else EC_LEAF
    certificate = _certificate(_tbs(profile, names("www.a.example", "*.b.example"), by=issued_by, leaf=leaf), issued_by)
    certificate.verify_directly_issued_by(issued_by.certificate)
    verifier = PolicyBuilder().store(Store([issued_by.root_certificate])).time(NOW + timedelta(days=1))
    chain = verifier.build_server_verifier(x509.DNSName("www.a.example")).verify(certificate, [issued_by.certificate])
    assert len(chain) == 3
    assert certificate.serial_number == serial_int(SERIAL)


def _extension_values(tbs: bytes) -> list[tuple[str, bool, str]]:
    """(OID, critical, value in hex) in the order of the TBS."""
    fields = der.children(tbs, der.read_only(tbs, der.SEQUENCE))
    found = []
    for element in der.children(tbs, der.children(tbs, fields[-1])[0]):
        parts = der.children(tbs, element)
        oid = next(extension.oid for extension in _certificate(tbs).extensions
                   if der.object_identifier(extension.oid.dotted_string) == der.whole(tbs, parts[0]))
        found.append((oid.dotted_string, len(parts) == 3, der.contents(tbs, parts[-1]).hex()))
    return found


@pytest.mark.parametrize(("profile", "leaf", "key_usage"), [
    ("classic", EC_LEAF, "03020780"), ("classic", RSA_LEAF, "030205a0"),
    ("tlsserver", EC_LEAF, "03020780"), ("tlsserver", RSA_LEAF, "03020780"),
    ("shortlived", EC_LEAF, "03020780"), ("shortlived", RSA_LEAF, "03020780"),
], ids=["classic-ec", "classic-rsa", "tlsserver-ec", "tlsserver-rsa", "shortlived-ec", "shortlived-rsa"])
def test_extension_values(profile: str, leaf: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, key_usage: str) -> None:
    """The order and the very bytes of spec/pki.md 0, criticality included; IP4: an address is an iPAddress."""
    values = _extension_values(_tbs(profile, names("a.example", "192.0.2.1"), leaf=leaf))
    found = {oid: (critical, value) for oid, critical, value in values}
    with_key_id = [oid for oid in ("2.5.29.14",) if profile == "classic"]
    assert [oid for oid, _, _ in values] == [
        "2.5.29.15", "2.5.29.37", "2.5.29.19", *with_key_id, "2.5.29.35", "1.3.6.1.5.5.7.1.1", "2.5.29.17",
        "2.5.29.32", "2.5.29.31"]
    assert found["2.5.29.15"] == (True, key_usage)
    assert found["2.5.29.37"] == (False, "300a06082b06010505070301")
    assert found["2.5.29.19"] == (True, "3000")
    assert found["2.5.29.35"] == (False, "30168014" + EC_AUTHORITY.issuer.key_id.hex())
    assert found["2.5.29.32"] == (False, "300a3008060667810c010201")
    assert found["2.5.29.17"] == (profile != "classic", "3011" + "8209" + b"a.example".hex() + "8704c0000201")
    ca_issuers = "06082b0601050507300286" + f"{len(URLS.ca_issuers):02x}" + URLS.ca_issuers.encode().hex()
    ocsp = "06082b0601050507300186" + f"{len(URLS.ocsp):02x}" + URLS.ocsp.encode().hex()
    access = "".join(f"30{len(each) // 2:02x}{each}" for each in (
        (ca_issuers,) if profile == "shortlived" else (ocsp, ca_issuers)))
    assert found["1.3.6.1.5.5.7.1.1"] == (False, f"30{len(access) // 2:02x}{access}")
    crl = URLS.crl.encode()
    general_name = f"86{len(crl):02x}" + crl.hex()
    inner = len(general_name) // 2
    assert found["2.5.29.31"] == (
        False, f"30{inner + 6:02x}30{inner + 4:02x}a0{inner + 2:02x}a0{inner:02x}" + general_name)


def test_common_name_rules() -> None:
    """Classic: the first name of the order that fits into 64 characters; never an address; else an empty subject."""
    long_name = f"{'a' * 60}.{'b' * 10}.example"
    cases = {
        ("b.example", "a.example"): "b.example",
        (long_name, "a.example"): "a.example",
        (long_name,): None,
        ("192.0.2.1", "2001:db8::1"): None,
        ("192.0.2.1", "a.example"): "a.example",
        ("*.a.example",): "*.a.example",
        ("a" * 56 + ".example",): "a" * 56 + ".example",
        ("a" * 57 + ".example",): None,
    }
    for values, common_name in cases.items():
        certificate = _certificate(_tbs("classic", names(*values)))
        found = [attribute.value for attribute in certificate.subject]
        assert found == ([] if common_name is None else [common_name])
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert alternative.critical is (common_name is None)
    assert not list(_certificate(_tbs("tlsserver", names("a.example"))).subject)


def test_issuer_name_and_key_are_copied() -> None:
    """An issuer Name in an unusual encoding stays byte for byte what its certificate says (RFC 5280 4.1.2.4)."""
    odd = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Old", x509.name._ASN1Type.T61String),
                     x509.NameAttribute(NameOID.COMMON_NAME, "CA", x509.name._ASN1Type.BMPString)])
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (x509.CertificateBuilder().subject_name(odd).issuer_name(odd).public_key(key.public_key())
                   .serial_number(5).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=900))
                   .add_extension(x509.SubjectKeyIdentifier(bytes(20)), False).sign(key, hashes.SHA256()))
    issuer = read_issuer(certificate.public_bytes(Encoding.DER))
    tbs = tbs_certificate(profile=PROFILES["classic"], issuer=issuer, serial=SERIAL, identifiers=names("a.example"),
                          validity=Validity(not_before=NOW, not_after=NOW), key=_key(EC_LEAF), urls=URLS)
    assert issuer.subject_der in tbs
    assert issuer.subject_der in certificate.tbs_certificate_bytes
    assert _key(EC_LEAF).spki_der in tbs


def test_who_cannot_be_an_issuer() -> None:
    """No subject key identifier, or a key that we do not sign with."""
    def certificate(key: ec.EllipticCurvePrivateKey, *, key_id: bool) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
        builder = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                   .serial_number(5).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=900)))
        if key_id:
            builder = builder.add_extension(x509.SubjectKeyIdentifier(bytes(20)), False)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    with pytest.raises(ValueError, match="subject key identifier"):
        read_issuer(certificate(ec.generate_private_key(ec.SECP256R1()), key_id=False))
    with pytest.raises(ValueError, match="RSA, P-256 or P-384"):
        read_issuer(certificate(ec.generate_private_key(ec.SECP521R1()), key_id=True))
    assert EC_AUTHORITY.issuer.authority_key_id is not None
