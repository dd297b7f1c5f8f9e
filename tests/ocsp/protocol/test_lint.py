"""pkilint's OCSP linter over one response of each template."""

from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkilint import loader, pkix
from pkilint.pkix import extension, name, ocsp
from pkilint.validation import ValidationFindingSeverity

from ocsp.protocol.response import CertStatus, HashName, ResponseTemplate
from tests.ca.pki.authority import authority
from tests.ocsp.signing import NOW_S, TIMES, Delegate, delegate_of, serial_of

_ISSUERS = {"p256": authority(ec.generate_private_key(ec.SECP256R1())),
            "p384": authority(ec.generate_private_key(ec.SECP384R1())),
            "rsa2048": authority(rsa.generate_private_key(65_537, 2048))}
_DELEGATES: dict[str, Delegate | None] = {"own": None, "delegated": delegate_of(_ISSUERS["p384"])}
_STATUSES = {"good": CertStatus(), "revoked": CertStatus(revoked_at_s=NOW_S - 500)} | {
    f"reason-{reason}": CertStatus(revoked_at_s=NOW_S - 500, reason=reason) for reason in (1, 3, 4, 5, 9)}


@cache
def _linter() -> Any:
    return ocsp.create_pkix_ocsp_response_validator_container(
        [ocsp.create_response_decoder(), pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
         pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS)], [])


def findings(response: bytes) -> list[str]:
    """Codes of WARNING or graver."""
    document = loader.RFC6960OCSPResponseDocumentLoader().load_der_document(response, "response")
    return [described.finding.code for result in _linter().validate(document.root)
            for described in result.finding_descriptions
            if described.finding.severity <= ValidationFindingSeverity.WARNING]


@pytest.mark.parametrize("issuer", [*sorted(_ISSUERS), "p384-delegated"])
@pytest.mark.parametrize("hash_name", list(HashName), ids=lambda one: one.value)
def test_every_template_is_clean(issuer: str, hash_name: HashName) -> None:
    """Good, revoked, and revoked with each reason that is allowed; signed by the issuer or its delegate."""
    own = _ISSUERS[issuer.removesuffix("-delegated")]
    delegate = _DELEGATES["delegated" if issuer.endswith("-delegated") else "own"]
    template = ResponseTemplate(own.issuer, hash_name, None if delegate is None else delegate.certificate)
    for status, shown in _STATUSES.items():
        tbs = template.tbs(serial_of(5), shown, TIMES)
        response = template.response(serial_of(5), shown, TIMES, (delegate or own).sign(tbs))
        assert findings(response) == [], status


def test_the_linter_finds_what_is_wrong() -> None:
    """A response whose nextUpdate lies before its thisUpdate is noticed."""
    template = ResponseTemplate(_ISSUERS["p256"].issuer, HashName.SHA1)
    wrong = type(TIMES)(produced_at_s=TIMES.produced_at_s, this_update_s=TIMES.next_update_s,
                        next_update_s=TIMES.this_update_s)
    tbs = template.tbs(serial_of(5), CertStatus(), wrong)
    assert findings(template.response(serial_of(5), CertStatus(), wrong, _ISSUERS["p256"].sign(tbs)))
