"""revokeCert: requests and rights (rows RV1 to RV5, E98 to E101)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from acme_api.protocol.problem import Problem
from acme_api.protocol.revocation import (
    CertificateFacts,
    RevocationRequest,
    Signer,
    decide_revocation,
    parse_revocation,
)
from ca.pki.identifier import Identifier
from tests.acme_client import b64

_NOW = datetime(2026, 11, 24, tzinfo=UTC)
_NAMES = frozenset({Identifier(type="dns", value="d.example"), Identifier(type="dns", value="*.d.example")})
_CERTIFICATE = CertificateFacts(account_id=b"owner", names=_NAMES, not_after=_NOW + timedelta(days=1), revoked_for=None,
                                key_is_blocked=False)
_OWNER = Signer(account_id=b"owner")
_KEY = Signer(account_id=None, is_certificate_key=True)


def _request(reason: int = 0) -> RevocationRequest:
    return RevocationRequest(certificate_der=b"x", reason=reason)


def _refusal(certificate: CertificateFacts, signer: Signer, reason: int = 0) -> tuple[str, int]:
    with pytest.raises(Problem) as caught:
        decide_revocation(_request(reason), certificate, signer, _NOW)
    return caught.value.type, caught.value.status


@pytest.mark.parametrize("certificate", [None, 1, "", "-----BEGIN CERTIFICATE-----", "QQ==", "+/8", [], {}])
def test_e98_certificates_of_another_spelling(certificate: Any) -> None:
    """Rows RV1, E98: malformed."""
    with pytest.raises(Problem) as caught:
        parse_revocation({"certificate": certificate})
    assert caught.value.type == "malformed"


@pytest.mark.parametrize("reason", [2, 6, 7, 8, 10, -1, 11, 256, 10**20])
def test_e100_reasons_that_are_not_allowed(reason: int) -> None:
    """Rows RV4, E100: badRevocationReason, and the detail lists those that are."""
    with pytest.raises(Problem) as caught:
        parse_revocation({"certificate": b64(b"x"), "reason": reason})
    assert (caught.value.type, caught.value.status) == ("badRevocationReason", 400)
    assert "0, 1, 3, 4, 5, 9" in caught.value.detail


@pytest.mark.parametrize("reason", ["1", 1.0, 1.5, True, None])
def test_e100_reasons_that_are_no_integers(reason: Any) -> None:
    """Rows RV4, E100: malformed."""
    with pytest.raises(Problem) as caught:
        parse_revocation({"certificate": b64(b"x"), "reason": reason})
    assert caught.value.type == "malformed"


def test_rv1_a_plain_request() -> None:
    """Row RV1: the reason may be left out."""
    assert parse_revocation({"certificate": b64(b"x")}) == _request(0)
    assert parse_revocation({"certificate": b64(b"x"), "reason": 4, "foo": 1}) == _request(4)


def test_rv2_three_ways_to_have_the_right() -> None:
    """Row RV2: the owner's reason stands; authorizations mean 5, the certificate's key means 1 (spec/pki.md 7)."""
    by_owner = decide_revocation(_request(4), _CERTIFICATE, _OWNER, _NOW)
    assert (by_owner.reason, by_owner.authority) == (4, "account")
    holder = Signer(account_id=b"other", authorized=_NAMES)
    by_holder = decide_revocation(_request(1), _CERTIFICATE, holder, _NOW)
    assert (by_holder.reason, by_holder.authority) == (5, "authorizations")
    by_key = decide_revocation(_request(0), _CERTIFICATE, _KEY, _NOW)
    assert (by_key.reason, by_key.authority) == (1, "certificate_key")


@pytest.mark.parametrize("signer", [
    Signer(account_id=b"other"),
    Signer(account_id=b"other", authorized={Identifier(type="dns", value="d.example")}),
    Signer(account_id=b"other", authorized={Identifier(type="dns", value="*.d.example")}),
    Signer(account_id=None),
])
def test_e99_others_have_no_right(signer: Signer) -> None:
    """Rows RV2, E99: no authorizations, some of them, the base name alone for a wildcard, another key."""
    assert _refusal(_CERTIFICATE, signer) == ("unauthorized", 403)


def test_e99_nobody_owns_a_service_certificate() -> None:
    """A certificate without account is not the account-less signer's."""
    assert _refusal(replace(_CERTIFICATE, account_id=None, names=frozenset()), Signer(account_id=None)) == (
        "unauthorized", 403)
    assert _refusal(replace(_CERTIFICATE, names=frozenset()), Signer(account_id=b"other")) == ("unauthorized", 403)


def test_rv5_expired_certificates() -> None:
    """Rows RV5, E99: 403."""
    assert _refusal(replace(_CERTIFICATE, not_after=_NOW - timedelta(seconds=1)), _OWNER) == ("unauthorized", 403)


@pytest.mark.parametrize(("revoked_for", "signer", "upgrades"), [
    (0, _OWNER, False), (4, _OWNER, False), (1, _OWNER, False), (0, _KEY, True), (9, _KEY, True), (1, _KEY, False)])
def test_rv3_again(revoked_for: int, signer: Signer, upgrades: bool) -> None:
    """Rows RV3, E101: alreadyRevoked, but the certificate's own key makes another reason keyCompromise."""
    certificate = replace(_CERTIFICATE, revoked_for=revoked_for, key_is_blocked=revoked_for == 1)
    if upgrades:
        assert decide_revocation(_request(0), certificate, signer, _NOW).reason == 1
    else:
        assert _refusal(certificate, signer, 1) == ("alreadyRevoked", 400)


def test_rv6_a_proof_after_a_claim() -> None:
    """Row RV6: revoked for keyCompromise on somebody's word, the key's own proof is still news: it gets blocked."""
    certificate = replace(_CERTIFICATE, revoked_for=1)
    assert decide_revocation(_request(0), certificate, _KEY, _NOW).authority == "certificate_key"
    assert _refusal(certificate, _OWNER, 1) == ("alreadyRevoked", 400)
