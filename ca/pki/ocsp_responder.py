"""Delegated OCSP responders: which issuers have one, and what its certificate says (spec/pki.md 1.4; BR 7.1.2.8).

RSA-4096 and P-384 are 20 times slower than P-256, so those issuers let a P-256 key sign their responses; responses are
500 octets longer then, for the certificate. RSA-2048 and P-256 issuers sign themselves. Both are only the default.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ca.pki import der
from ca.pki.ca_certificate import ca_subject
from ca.pki.issuer import Issuer
from ca.pki.key_identifier import key_identifier
from ca.pki.policy import BACKDATE_S, DAY_S
from ca.pki.tbs import authority_key_identifier, extension
from ca.pki.validity import Validity

PROFILE_NAME: Final = "ocsp-responder"
_LIFE_S: Final = 90 * DAY_S
# A new certificate is made this long before the last one ends, so that no response has to be shorter for it, and there
# are weeks to notice when none is made.
RENEWED_BEFORE_END: Final = timedelta(days=30)
_MAX_NAME_CHARS: Final = 64
_NAME_END: Final = " OCSP"

_VERSION_3: Final = bytes.fromhex("a003020102")
_KEY_USAGE: Final = der.object_identifier("2.5.29.15")
_EXTENDED_KEY_USAGE: Final = der.object_identifier("2.5.29.37")
_SUBJECT_KEY_IDENTIFIER: Final = der.object_identifier("2.5.29.14")
_NO_CHECK: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.5")
_DIGITAL_SIGNATURE: Final = bytes.fromhex("03020780")
_OCSP_SIGNING: Final = bytes.fromhex("300a06082b06010505070309")
_NULL: Final = bytes.fromhex("0500")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """Whose responses are signed by a delegate: those of slow issuers, of all or of none, and issuers named apart."""

    rule: Literal["slow", "all", "none"]
    delegated: Collection[str] = ()
    direct: Collection[str] = ()

    def holds_for(self, issuer: Issuer, name: str) -> bool:
        """Whether a delegated responder signs for this issuer; it has to where the issuer's certificate has no
        digitalSignature (BR 7.1.2.10.7)."""
        if not _may_sign_responses(issuer) or name in self.delegated:
            return True
        if name in self.direct:
            return False
        return self.rule == "all" or (self.rule == "slow" and _is_slow(issuer))


def _is_slow(issuer: Issuer) -> bool:
    key = issuer.public_key
    return key.key_size > (2048 if isinstance(key, rsa.RSAPublicKey) else 256)


def _may_sign_responses(issuer: Issuer) -> bool:
    certificate = x509.load_der_x509_certificate(issuer.certificate_der)
    return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature


def responder_validity(now: datetime, issuer: Issuer) -> Validity:
    """90 days, from an hour ago, within the issuer's own life. Raises ValueError when that is over."""
    not_before = max((now - timedelta(seconds=BACKDATE_S)).replace(microsecond=0), issuer.validity.not_before)
    not_after = min(not_before + timedelta(seconds=_LIFE_S - 1), issuer.validity.not_after)
    if not_after <= now:
        raise ValueError(f"the issuer has ended at {issuer.validity.not_after}")
    return Validity(not_before=not_before, not_after=not_after)


def require_responder_key(csr_der: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a request whose signature proves who has the key. Raises ValueError.

    Only P-256: everything else would be slower or longer.
    """
    csr = x509.load_der_x509_csr(csr_der)
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ValueError("a responder's key is P-256")
    if not csr.is_signature_valid:
        raise ValueError("the request is not signed by its own key")
    info = der.children(csr_der, der.read_only(csr_der, der.SEQUENCE))[0]
    return der.whole(csr_der, der.children(csr_der, info)[2])


def tbs_responder(*, issuer: Issuer, spki_der: bytes, serial: bytes, validity: Validity) -> bytes:
    """The TBSCertificate: OCSPSigning alone, nocheck, nobody's name; signed by the issuer whose responses it signs."""
    return der.sequence(
        _VERSION_3,
        der.tlv(der.INTEGER, serial),
        issuer.signature_algorithm,
        issuer.subject_der,
        der.sequence(der.time(validity.not_before), der.time(validity.not_after)),
        _subject(issuer),
        spki_der,
        der.tlv(0xA3, der.sequence(
            extension(_KEY_USAGE, _DIGITAL_SIGNATURE, critical=True),
            extension(_EXTENDED_KEY_USAGE, _OCSP_SIGNING),
            extension(_SUBJECT_KEY_IDENTIFIER, der.tlv(der.OCTET_STRING, key_identifier(spki_der))),
            authority_key_identifier(issuer),
            extension(_NO_CHECK, _NULL))),
    )


def _subject(issuer: Issuer) -> bytes:
    """Country and organization of the issuer, and its common name with OCSP behind it."""
    subject = x509.load_der_x509_certificate(issuer.certificate_der).subject

    def value(oid: x509.ObjectIdentifier) -> str:
        found = subject.get_attributes_for_oid(oid)
        if not found:
            raise ValueError(f"the issuer's name has no {oid._name}")
        return str(found[0].value)

    name = value(NameOID.COMMON_NAME)[:_MAX_NAME_CHARS - len(_NAME_END)].rstrip() + _NAME_END
    return ca_subject(country=value(NameOID.COUNTRY_NAME), organization=value(NameOID.ORGANIZATION_NAME),
                      common_name=name)
