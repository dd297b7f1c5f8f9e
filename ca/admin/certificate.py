"""A certificate of the database as people see it: its bytes, names and state, and its JSON document."""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.admin.output import moment_json
from ca.admin.records import Certificate
from ca.pki import object_id
from ca.pki.revocation import REASON_NAMES
from ca.pki.serial import serial_hex
from ca.pki.tbs import assemble

# By the names that people write.
REASONS = {name: number for number, name in REASON_NAMES.items()}
_UNSIGNED = b"\x00"


def certificate_der(certificate: Certificate) -> bytes:
    """The certificate; of one that is not signed yet with an empty signature, which is good for reading it only."""
    return assemble(certificate.tbs, certificate.signature or _UNSIGNED)


def parsed(certificate: Certificate) -> x509.Certificate:
    """What is in it."""
    return x509.load_der_x509_certificate(certificate_der(certificate))


def names_of(content: x509.Certificate) -> list[str]:
    """Every name and address, in the certificate's order."""
    names = content.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def key_name(content: x509.Certificate) -> str:
    """'RSA 2048' or 'P-256'."""
    key = content.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "P-256", "secp384r1": "P-384"}.get(key.curve.name, key.curve.name)
    return type(key).__name__


def certificate_state(certificate: Certificate, now: datetime) -> str:
    """'unsigned', 'revoked', 'expired' or 'good', the most telling one. Revoked stays revoked beyond its end."""
    if certificate.revocation is not None:
        return "revoked"
    if certificate.not_after < now:
        return "expired"
    return "good" if certificate.signature is not None else "unsigned"


def certificate_document(certificate: Certificate, now: datetime) -> dict[str, object]:
    """The certificate as JSON, without its bytes."""
    content = parsed(certificate)
    revocation = certificate.revocation
    return {
        "serial": serial_hex(certificate.serial),
        "state": certificate_state(certificate, now),
        "names": names_of(content),
        "issuer": certificate.issuer_name,
        "profile": certificate.profile,
        "key": key_name(content),
        "spki_sha256": certificate.spki_sha256.hex(),
        "not_before": moment_json(certificate.not_before),
        "not_after": moment_json(certificate.not_after),
        "signed_at": moment_json(certificate.signed_at),
        "account": None if certificate.account_id is None else object_id.to_text(certificate.account_id),
        "request": object_id.to_text(certificate.request_id),
        "revocation": None if revocation is None else {
            "revoked_at": moment_json(revocation.revoked_at), "reason": REASON_NAMES[revocation.reason],
            "authority": revocation.authority, "evidence": revocation.evidence},
    }
