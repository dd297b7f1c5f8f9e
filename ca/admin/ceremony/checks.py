"""What is released has been looked at once more, from its bytes alone, by other code than that which made it."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.verification import VerificationError

from ca.admin.ceremony.errors import CheckError
from ca.pki.issuer import read_issuer
from ca.pki.public_key import PublicKeyError, require_acceptable


def require_certificate(certificate_der: bytes, issuer_der: bytes) -> None:
    """Returns when `issuer_der` signed this CA certificate and both fit (RFC 5280 6.1). Raises CheckError."""
    certificate, issuer = x509.load_der_x509_certificate(certificate_der), x509.load_der_x509_certificate(issuer_der)
    name = certificate.subject.rfc4514_string()
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, VerificationError) as fault:
        raise CheckError(f"{name}: the signature of {issuer.subject.rfc4514_string()} does not verify: {fault}"
                         ) from fault
    subject, above = read_issuer(certificate_der), read_issuer(issuer_der)
    try:
        require_acceptable(subject.spki_der)
    except PublicKeyError as fault:
        raise CheckError(f"{name}: the key is weak: {fault.detail}") from fault
    if subject.authority_key_id != above.key_id:
        raise CheckError(f"{name}: the authority key identifier is not its issuer's key identifier")
    if not (above.validity.not_before <= subject.validity.not_before
            and subject.validity.not_after <= above.validity.not_after):
        raise CheckError(f"{name}: its life is not within its issuer's")
    if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise CheckError(f"{name}: it is not a CA")


def require_cross(cross_der: bytes, root_der: bytes) -> None:
    """Returns when a cross-signed certificate stands beside its root: same subject, key and key identifier."""
    cross, root = read_issuer(cross_der), read_issuer(root_der)
    if (cross.subject_der, cross.spki_der, cross.key_id) != (root.subject_der, root.spki_der, root.key_id):
        raise CheckError("a cross-signed certificate has another subject, key or key identifier than its root")


def require_crl(crl_der: bytes, issuer_der: bytes) -> None:
    """Returns when `issuer_der` signed this CRL. Raises CheckError."""
    crl, issuer = x509.load_der_x509_crl(crl_der), read_issuer(issuer_der)
    if not crl.is_signature_valid(issuer.public_key):
        raise CheckError(f"the CRL of {crl.issuer.rfc4514_string()} does not verify")
    key_id = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    if crl.issuer.public_bytes() != issuer.subject_der or key_id != issuer.key_id:
        raise CheckError(f"the CRL of {crl.issuer.rfc4514_string()} names another issuer")
