"""A root and an issuing CA with software keys, made with cryptography's builder, which shares no code with us."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.pki.issuer import Issuer, read_issuer

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
_USAGE = {"key_cert_sign": True, "crl_sign": True, "digital_signature": True, "content_commitment": False,
          "key_encipherment": False, "data_encipherment": False, "key_agreement": False, "encipher_only": False,
          "decipher_only": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An issuing CA whose key is in memory."""

    root_certificate: x509.Certificate
    key: Key
    certificate: x509.Certificate
    issuer: Issuer

    def sign(self, message: bytes, *, deterministic: bool = False) -> bytes:
        """As the HSM would: PKCS#1 v1.5 with SHA-256, or ECDSA with the curve's hash."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        algorithm = hashes.SHA256() if self.key.curve.key_size == 256 else hashes.SHA384()
        return self.key.sign(message, ec.ECDSA(algorithm, deterministic_signing=deterministic))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
                      x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Chancery Test"),
                      x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_id(key: Key) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier(x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest)


def authority(
    key: Key, *, now: datetime = NOW, days: int = 1095, serials: tuple[int, int] = (1, 2), deterministic: bool = False,
) -> Authority:
    """A root and, below it, an issuing CA; both valid from one day before `now`."""
    root_key = ec.derive_private_key(1234567, ec.SECP256R1())
    root_id = _key_id(root_key)
    ecdsa_only = {"ecdsa_deterministic": True} if deterministic else {}

    def builder(subject: str, public: Key, serial: int, lifetime_days: int) -> x509.CertificateBuilder:
        return (x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name("Root R1"))
                .public_key(public.public_key()).serial_number(serial)
                .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=lifetime_days)))

    root = (builder("Root R1", root_key, serials[0], 3650)
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(x509.KeyUsage(**{**_USAGE, "digital_signature": False}), True)
            .add_extension(root_id, False)
            .sign(root_key, hashes.SHA256(), **ecdsa_only))  # type: ignore[arg-type]
    kind = "R" if isinstance(key, rsa.RSAPrivateKey) else "E"
    certificate = (builder(f"Issuing {kind}1", key, serials[1], days)
                   .add_extension(x509.BasicConstraints(True, 0), True)
                   .add_extension(x509.KeyUsage(**_USAGE), True)
                   .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
                   .add_extension(_key_id(key), False)
                   .add_extension(x509.AuthorityKeyIdentifier(root_id.digest, None, None), False)
                   .sign(root_key, hashes.SHA256(), **ecdsa_only))  # type: ignore[arg-type]
    return Authority(root_certificate=root, key=key, certificate=certificate,
                     issuer=read_issuer(certificate.public_bytes(Encoding.DER)))
