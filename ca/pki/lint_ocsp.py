"""Linting of OCSP responses (spec/pki.md 4): pkilint in process, and our own rules where it has none.

Millions of responses come out of a few templates and differ in serial number, times and signature alone, so a sample of
each template is linted before it is used.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.x509 import ReasonFlags, ocsp
from cryptography.x509.oid import OCSPExtensionOID
from pkilint import loader, pkix
from pkilint.pkix import extension, name
from pkilint.pkix import ocsp as pkilint_ocsp

from ca.pki import der
from ca.pki.issuer import Issuer
from ca.pki.lint import Finding, Severity
from ca.pki.lint_rules import Fault

# BR 4.9.9: a response is in force for eight hours to ten days, both ends included.
_SHORTEST: Final = timedelta(hours=8)
_LONGEST: Final = timedelta(days=10)
_SECOND: Final = timedelta(seconds=1)
_REASONS: Final = frozenset({
    ReasonFlags.key_compromise, ReasonFlags.affiliation_changed, ReasonFlags.superseded,
    ReasonFlags.cessation_of_operation, ReasonFlags.privilege_withdrawn})


def lint_ocsp_response(
    response_der: bytes, signer: Issuer, *, delegated: bool, live: bool = False
) -> list[Finding]:
    """What is wrong with a response of this signer, the issuer or its delegated responder; its signature is not looked
    at. `live`: it was made for one request, so it may have a nonce, say `unknown`, and be about several certificates.
    """
    findings: list[Finding] = []
    linters: tuple[Callable[[], Iterable[Finding]], ...] = (
        lambda: _pkilint(response_der),
        lambda: (Finding(severity=Severity.ERROR, code=f"chancery.{code}", detail=detail)
                 for code, detail in ocsp_faults(response_der, signer, delegated=delegated, live=live)))
    for linter in linters:
        try:
            findings += linter()
        except Exception as fault:
            findings.append(Finding(severity=Severity.FATAL, code="chancery.linter_crashed",
                                    detail=f"{type(fault).__name__}: {fault}"))
    return findings


def ocsp_faults(response_der: bytes, signer: Issuer, *, delegated: bool, live: bool = False) -> Iterator[Fault]:
    """What our rules have against a response, read by `cryptography` and not by who wrote it."""
    response = ocsp.load_der_ocsp_response(response_der)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        yield "ocsp_status", "only successful responses are signed"
        return
    if signer.signature_algorithm not in _basic_algorithms(response_der):
        yield "signature_algorithm", "the AlgorithmIdentifier is not the signer's, byte for byte (BR 7.1.3.2)"
    if response.responder_key_hash is None or response.responder_name is not None:
        yield "ocsp_responder_id", "the responder is named by its key (RFC 9919)"
    if bool(response.certificates) is not delegated:
        yield "ocsp_certificates", "the certificate of a delegated responder is there, and no other ever is"
    if live:
        if any(one.oid != OCSPExtensionOID.NONCE or one.critical for one in response.extensions):
            yield "ocsp_extensions", "a response has no extension but the nonce, which is not critical"
    elif list(response.extensions):
        yield "ocsp_extensions", "a response that is made before it is asked for has no extensions"
    singles = list(response.responses)
    if len(singles) != 1 and not (live and singles):
        yield "ocsp_responses", "a response is about one certificate"
    elif len(singles) == 1 and list(response.single_extensions):
        yield "ocsp_single_extensions", "a single response has no extensions"
    if any(response.produced_at_utc < single.this_update_utc for single in singles):
        yield "ocsp_produced_at", "producedAt is before thisUpdate"
    for single in singles:
        yield from _single_faults(single, live=live)


def _single_faults(response: ocsp.OCSPSingleResponse, *, live: bool) -> Iterator[Fault]:
    this_update, next_update = response.this_update_utc, response.next_update_utc
    if next_update is None or not _SHORTEST <= next_update - this_update + _SECOND <= _LONGEST:
        yield "ocsp_life", "nextUpdate is not eight hours to ten days after thisUpdate (BR 4.9.9)"
    if response.certificate_status is ocsp.OCSPCertStatus.UNKNOWN and not live:
        yield "ocsp_certificate_status", "the status unknown is never signed before it is asked for"
    revoked_at: datetime | None = response.revocation_time_utc
    if revoked_at is not None and response.revocation_reason not in (*_REASONS, None):
        yield "ocsp_reason", f"{response.revocation_reason} is not a reason of BR 7.2.2"


def _basic_algorithms(response_der: bytes) -> list[bytes]:
    """signatureAlgorithm of the BasicOCSPResponse, found by its place."""
    outer = der.children(response_der, der.read_only(response_der, der.SEQUENCE))
    explicit = der.read(response_der, outer[1].content, end=outer[1].end, tag=der.SEQUENCE)
    octets = der.children(response_der, explicit)[1]
    basic = der.contents(response_der, octets)
    return [der.whole(basic, field) for field in der.children(basic, der.read_only(basic, der.SEQUENCE))[1:2]]


@functools.cache
def _linter() -> Any:
    return pkilint_ocsp.create_pkix_ocsp_response_validator_container(
        [pkilint_ocsp.create_response_decoder(), pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
         pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS)], [])


def _pkilint(response_der: bytes) -> list[Finding]:
    document = loader.RFC6960OCSPResponseDocumentLoader().load_der_document(response_der, "ocsp")
    return [Finding(severity=Severity(int(described.finding.severity)), code=described.finding.code,
                    detail=described.message or "")
            for result in _linter().validate(document.root) for described in result.finding_descriptions
            if int(described.finding.severity) <= Severity.WARNING]
