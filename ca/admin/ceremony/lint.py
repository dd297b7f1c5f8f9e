"""pkilint over what a ceremony signs, before and after: nothing with a finding of WARNING or above is released.

BR 4.3.1.2 demands the lint before the signature. It is made on an object with the very TBS bytes and the signature of a
throw-away key, and once more on the object itself. What a plan accepts nevertheless, it lists with a reason.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from pkilint import finding_filter, loader, pkix
from pkilint.cabf import cabf_crl, serverauth
from pkilint.cabf.serverauth.serverauth_constants import CertificateType
from pkilint.pkix import certificate, crl, extension, name
from pkilint.validation import ValidationFindingSeverity

from ca.admin.ceremony.errors import LintError


class LintType(Enum):
    """What the object is meant to be, in the words of the linter."""

    ROOT = "ROOT_CA"
    CROSS = "INTERNAL_CROSS_CA"
    INTERMEDIATE = "INTERNAL_UNCONSTRAINED_TLS_CA"
    ROOT_CRL = "ARL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One objection (or remark) of the linter."""

    severity: str
    code: str
    message: str
    is_objection: bool          # WARNING or graver


def require_clean(der: bytes, kind: LintType, accepted: Collection[str] = ()) -> list[Finding]:
    """The remarks, and the objections whose code is accepted. Raises LintError with every other objection."""
    findings = _findings(der, kind)
    objections = [finding for finding in findings if finding.is_objection and finding.code not in accepted]
    if objections:
        raise LintError(f"{kind.value}: " + "; ".join(f"{finding.severity} {finding.code} {finding.message}".strip()
                                                      for finding in objections))
    return findings


def _findings(der: bytes, kind: LintType) -> list[Finding]:
    if kind is LintType.ROOT_CRL:
        document = loader.load_crl(der, kind.value)
        results = _crl_validator().validate(document.root)
    else:
        document = loader.load_certificate(der, kind.value)
        validator, filters = _certificate_validator(kind)
        results, _ = finding_filter.filter_results(filters, validator.validate(document.root))
    # FATAL is 0, DEBUG is 5: the smaller, the graver.
    return [Finding(severity=described.finding.severity.name, code=described.finding.code,
                    message=described.message or "",
                    is_objection=described.finding.severity <= ValidationFindingSeverity.WARNING)
            for result in results for described in result.finding_descriptions]


@cache
def _certificate_validator(kind: LintType) -> tuple[Any, Any]:
    type_ = CertificateType[kind.value]
    validator = certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(type_))
    return validator, serverauth.create_serverauth_finding_filters(type_)


@cache
def _crl_validator() -> Any:
    kind = crl.CertificateRevocationListType.ARL
    return crl.create_pkix_crl_validator_container(
        [pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
         pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS)],
        [crl.create_issuer_validator_container([]),
         crl.create_validity_validator_container([cabf_crl.create_validity_period_validator(kind)]),
         crl.create_extensions_validator_container([]),
         cabf_crl.CabfCrlReasonCodeAllowlistValidator(kind)])
