"""Linting before signing (BR 4.3.1.2): pkilint in process, and our own rules where it has none (ca/pki/lint_rules.py).

A finding of WARNING or above stops the certificate unless an allowance names its code and says why. A linter that
crashes is a fatal finding, never a pass.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

from pkilint import finding_filter, loader, pkix
from pkilint.cabf import cabf_crl, serverauth
from pkilint.cabf.serverauth.serverauth_constants import CertificateType
from pkilint.pkix import certificate, crl, extension, name

from ca.pki import der, lint_rules
from ca.pki.issuer import Issuer
from ca.pki.lint_dispatch import dispatching
from ca.pki.lint_shape import ShapedLinter
from ca.pki.precertificate import POISON, is_precertificate
from ca.pki.profile import CLASSIC, Profile
from ca.pki.refusal import Refusal, RefusalReason


class Severity(IntEnum):
    """How bad a finding is; pkilint's scale, where less is worse."""

    FATAL = 0
    ERROR = 1
    WARNING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that the object breaks. The code is dotted and stable; ours begin with `chancery.`."""

    severity: Severity
    code: str
    detail: str

    def __str__(self) -> str:
        return f"{self.severity.name} {self.code}" + (f": {self.detail}" if self.detail else "")


_CLASSIC_ALLOWANCES: Final = MappingProxyType({
    "cabf.serverauth.dv.common_name_attribute_present":
        "old clients read the common name; it repeats a name of the SAN (BR 7.1.2.7.2: NOT RECOMMENDED)",
    "cabf.serverauth.subscriber.subject_key_identifier_extension_present":
        "old path builders look for it (BR 7.1.2.7.6: NOT RECOMMENDED)",
    "cabf.serverauth.subscriber_rsa_digitalsignature_and_keyencipherment_present":
        "TLS 1.2 clients with RSA key transport need both (BR 7.1.2.7.11: NOT RECOMMENDED)",
})
# A private CA certifies names and addresses that the Internet does not know; ca/pki/identifier.py says which ones.
_INTERNAL_ALLOWANCES: Final = MappingProxyType({
    "cabf.internal_domain_name": "a private CA's names, and the URLs of its own services, are internal by purpose",
    "cabf.internal_ip_address": "a private CA certifies the private addresses that its policy lists",
    "cabf.serverauth.ip_reverse_zone_domain_name_present":
        "only below a reverse zone that the policy lists by name",
    "pkix.invalid_uri_syntax": "URLs of our own services on single-label hosts, such as localhost",
})
_NO_ALLOWANCES: Final[Mapping[str, str]] = MappingProxyType({})
# pkilint takes milliseconds for each hundred entries, and every entry has the same few forms.
_LINTED_CRL_ENTRIES: Final = 50


def allowances(profile: Profile, *, public: bool) -> Mapping[str, str]:
    """The codes that do not stop a certificate of this profile, each with its reason."""
    own = _CLASSIC_ALLOWANCES if profile is CLASSIC else _NO_ALLOWANCES
    return own if public else {**own, **_INTERNAL_ALLOWANCES}


def crl_allowances(*, public: bool) -> Mapping[str, str]:
    """The codes that do not stop a CRL."""
    return _NO_ALLOWANCES if public else _INTERNAL_ALLOWANCES


def lint_certificate(certificate_der: bytes, issuer: Issuer) -> list[Finding]:
    """What is wrong with a subscriber certificate, or with a precertificate, whatever key signed it."""
    return _findings_of(lambda: _pkilint_certificate(certificate_der, _kind(certificate_der)),
                        lambda: _own(lint_rules.certificate_faults(certificate_der, issuer)))


def lint_responder(certificate_der: bytes) -> list[Finding]:
    """What is wrong with the certificate of a delegated OCSP responder (BR 7.1.2.8)."""
    return _findings_of(lambda: _pkilint_certificate(certificate_der, CertificateType.OCSP_RESPONDER))


def lint_crl(crl_der: bytes, issuer: Issuer, url: str) -> list[Finding]:
    """What is wrong with the CRL of a shard, whatever key signed it. pkilint sees its first fifty entries, our own
    rules see all."""
    return _findings_of(lambda: _pkilint_crl(lint_rules.shortened_crl(crl_der, _LINTED_CRL_ENTRIES)),
                        lambda: _own(lint_rules.crl_faults(crl_der, issuer, url)))


def require_clean(findings: Iterable[Finding], allowed: Mapping[str, str], what: str) -> None:
    """Returns when every finding is allowed. Raises Refusal: what was about to be signed breaks a rule."""
    faults = [str(finding) for finding in findings if finding.code not in allowed]
    if faults:
        raise Refusal(RefusalReason.LINT, f"{what} would break a rule and is not signed: {'; '.join(faults)}")


def warm_up(*, precertificates: bool = False) -> None:
    """Builds the linters (a third of a second each), so that the first certificate does not wait for it."""
    _certificate_linter(CertificateType.DV_FINAL_CERTIFICATE)
    if precertificates:
        _certificate_linter(CertificateType.DV_PRE_CERTIFICATE)
    _crl_linter()


def _findings_of(*linters: Callable[[], Iterable[Finding]]) -> list[Finding]:
    findings: list[Finding] = []
    for linter in linters:
        try:
            for finding in linter():      # one by one: what was found before a crash stays
                findings.append(finding)
        except Exception as fault:
            findings.append(Finding(severity=Severity.FATAL, code="chancery.linter_crashed",
                                    detail=f"{type(fault).__name__}: {fault}"))
    return findings


def _own(faults: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    for code, detail in faults:
        yield Finding(severity=Severity.ERROR, code=f"chancery.{code}", detail=detail)


@functools.cache
def _certificate_linter(kind: CertificateType) -> tuple[ShapedLinter, Any]:
    container = certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(kind))
    return ShapedLinter(container), serverauth.create_serverauth_finding_filters(kind)


@functools.cache
def _crl_linter() -> Any:
    kind = crl.CertificateRevocationListType.CRL
    return dispatching(crl.create_pkix_crl_validator_container(
        [pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
         pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS)],
        [crl.create_issuer_validator_container([]),
         crl.create_validity_validator_container([cabf_crl.create_validity_period_validator(kind)]),
         crl.create_extensions_validator_container([]),
         cabf_crl.CabfCrlReasonCodeAllowlistValidator(kind)]))


def _kind(certificate_der: bytes) -> CertificateType:
    if POISON not in certificate_der:
        return CertificateType.DV_FINAL_CERTIFICATE
    tbs = der.children(certificate_der, der.read_only(certificate_der, der.SEQUENCE))[0]
    return (CertificateType.DV_PRE_CERTIFICATE if is_precertificate(der.whole(certificate_der, tbs))
            else CertificateType.DV_FINAL_CERTIFICATE)


def _pkilint_certificate(certificate_der: bytes, kind: CertificateType) -> list[Finding]:
    linter, filters = _certificate_linter(kind)
    return _findings(finding_filter.filter_results(filters, linter.results(certificate_der))[0])


def _pkilint_crl(crl_der: bytes) -> list[Finding]:
    document = loader.RFC5280CertificateListDocumentLoader().load_der_document(crl_der, "crl")
    return _findings(_crl_linter().validate(document.root))


def _findings(results: Sequence[Any]) -> list[Finding]:
    return [Finding(severity=Severity(int(described.finding.severity)), code=described.finding.code,
                    detail=described.message or "")
            for result in results for described in result.finding_descriptions
            if int(described.finding.severity) <= Severity.WARNING]
