"""revokeCert: by the account, by authorizations for all names, or by the certificate's own key (RFC 8555 7.6)."""

from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acme_api.protocol import base64url, directory, problem
from acme_api.protocol.jws import jwk_of_public_key
from acme_api.protocol.revocation import CertificateFacts, RevocationPlan, Signer, decide_revocation, parse_revocation
from acme_api.wfe.certificate_store import StoredCertificate
from acme_api.wfe.context import Context
from acme_api.wfe.request import Post
from acme_api.wfe.response import Reply
from acme_api.wfe.waiters import wait_for
from ca.pki.identifier import Identifier
from ca.pki.object_id import object_id

_SERIAL_BYTES: Final = 18
_WAIT_S: Final = 2.0
_REVOCATION_CHANNEL: Final = "revocation"


async def revoke_cert(context: Context, post: Post) -> Reply:
    """Queues the revocation and waits a little for the CA to carry it out. 200 means that it is stored for good and
    will be carried out, whatever happens (row RV1); the body is empty, because acme.sh takes any for a failure."""
    request = parse_revocation(post.json())
    certificate = _parse(request.certificate_der)
    stored = await _stored(context, certificate, request.certificate_der)
    names = _names(certificate)
    signer = await _signer(context, post, certificate, stored, names)
    now = context.ambient.now()

    def decide(revoked_for: int | None, key_is_blocked: bool) -> RevocationPlan:
        facts = CertificateFacts(account_id=stored.account_id, names=names, not_after=stored.not_after,
                                 revoked_for=revoked_for, key_is_blocked=key_is_blocked)
        return decide_revocation(request, facts, signer, now)

    request_id = object_id(now, context.ambient.random_bytes(16))
    with context.waiters.waiting_for(request_id) as changed:
        await context.certificates.request_revocation(
            request_id, _serial(certificate), _evidence(context, post), now=now, decide=decide)
        context.notifier.notify(_REVOCATION_CHANNEL)
        await wait_for(changed, timeout_s=_WAIT_S)
    return Reply()


def _parse(certificate_der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        certificate.public_key()
        certificate.serial_number.bit_length()
    except Exception as fault:
        # Whatever a stranger's bytes do to the parser, they are not one of our certificates.
        raise problem.malformed("the certificate is not one in DER") from fault
    return certificate


def _serial(certificate: x509.Certificate) -> bytes:
    return certificate.serial_number.to_bytes(_SERIAL_BYTES, "big")


async def _stored(context: Context, certificate: x509.Certificate, certificate_der: bytes) -> StoredCertificate:
    """Ours, when it is byte for byte what we gave out. Raises 404 otherwise: a forged one with a serial number of ours
    never revokes the real one (rows RV5, E98)."""
    number = certificate.serial_number
    known = None
    if 0 < number.bit_length() <= 8 * _SERIAL_BYTES and number > 0:
        known = await context.certificates.certificate(_serial(certificate))
    if known is None or certificate_der not in known.forms:
        raise problem.not_found("this certificate was not issued here")
    return known


def _names(certificate: x509.Certificate) -> frozenset[Identifier]:
    """Our own certificates name everything in the subjectAltName."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset([Identifier(type="dns", value=name) for name in names.get_values_for_type(x509.DNSName)]
                     + [Identifier(type="ip", value=str(each)) for each in names.get_values_for_type(x509.IPAddress)])


async def _signer(
    context: Context, post: Post, certificate: x509.Certificate, stored: StoredCertificate, names: frozenset[Identifier]
) -> Signer:
    if post.account is None:
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return Signer(account_id=None, is_certificate_key=jwk_of_public_key(spki) == post.jwk)
    if post.account.id == stored.account_id:
        return Signer(account_id=post.account.id)
    authorized = await context.certificates.authorized(
        post.account.id, sorted(names), subdomains=context.order_policy.subdomains, now=context.ambient.now())
    return Signer(account_id=post.account.id, authorized=authorized)


def _evidence(context: Context, post: Post) -> dict[str, Any]:
    """What lets anybody verify later who asked: the request as it was signed, with the key."""
    signed = post.signed
    evidence: dict[str, Any] = {
        "jws": {"protected": base64url.encode(signed.protected_bytes),
                "payload": base64url.encode(signed.payload_bytes), "signature": base64url.encode(signed.signature)},
        "jwk": post.jwk,
    }
    if post.account is not None:
        evidence["account"] = directory.account_url(context.base_url, post.account.id)
    return evidence
