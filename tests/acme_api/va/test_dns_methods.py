"""Promises of dns-account-01 and dns-persist-01 as the VA carries them out: rows DA1, DP2, DP3, RU1."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from acme_api.protocol.challenge import dns_account_label, dns_txt_value, offered
from acme_api.va.store import ClaimedRequest, Outcome
from tests.acme_api.va.queue_rows import EXPECTED
from tests.acme_api.va.test_check import NOW, checker_for, request
from tests.mock_dns import MockDns

ACCOUNT_ID = b"\x01" * 22
ACCOUNT = f"https://ca.example/{ACCOUNT_ID.hex()}"
LABEL = dns_account_label(ACCOUNT)
RECORD = f"ca.example; accounturi={ACCOUNT}"
PERSIST = "_validation-persist.a.example"
DAY = timedelta(days=1)


def persist_request(**changes: Any) -> ClaimedRequest:
    return request(**{"challenge_type": "dns-persist-01", "token": None, "persist_allowed": True} | changes)


async def check(mock_dns: MockDns, asked: ClaimedRequest, *, now: datetime = NOW, **options: Any) -> Outcome:
    return await checker_for(mock_dns, now=now, **options).check(asked)


def type_of(outcome: Outcome) -> str:
    assert outcome.problem is not None
    return str(outcome.problem["type"]).removeprefix("urn:ietf:params:acme:error:")


def test_da1_the_label_of_the_draft() -> None:
    """DA1: the vector of draft-ietf-acme-dns-account-label."""
    assert dns_account_label("https://example.com/acme/acct/ExampleAccount") == "_ujmmovf2vn55tgye"


def test_ch10_x1_what_is_offered() -> None:
    """CH10, X1, IP4: by DNS alone for wild cards, never for addresses; without a token only where allowed, and last."""
    assert offered("dns", wildcard=False, persist=False) == ("http-01", "dns-01", "tls-alpn-01", "dns-account-01")
    assert offered("dns", wildcard=True, persist=True) == ("dns-01", "dns-account-01", "dns-persist-01")
    assert offered("dns", wildcard=False, persist=True)[-1] == "dns-persist-01"
    assert offered("ip", wildcard=False, persist=True) == ("http-01", "tls-alpn-01")
    assert offered("ip", wildcard=True, persist=True) == offered("email", wildcard=False, persist=True) == ()


@pytest.mark.parametrize("wildcard", [False, True])
async def test_da1_the_value_at_the_accounts_own_name(mock_dns: MockDns, wildcard: bool) -> None:
    """DA1: the value of dns-01 under the account's label; wild cards at their base name; aliases are followed."""
    mock_dns.set(f"{LABEL}._acme-challenge.a.example", "CNAME", "x.acme-dns.example.")
    mock_dns.set("x.acme-dns.example", "TXT", dns_txt_value(EXPECTED))
    outcome = await check(mock_dns, request(challenge_type="dns-account-01", wildcard=wildcard))
    assert outcome.problem is None
    assert outcome.valid_until == NOW + 30 * DAY


async def test_da1_other_names_and_other_values_do_not_count(mock_dns: MockDns) -> None:
    """DA1, E90: the value at dns-01's name or at another account's label is type dns, a wrong one incorrectResponse."""
    other = dns_account_label(ACCOUNT + "x")
    for owner in ("_acme-challenge.a.example", f"{other}._acme-challenge.a.example", f"{LABEL}.a.example"):
        mock_dns.set(owner, "TXT", dns_txt_value(EXPECTED))
    assert type_of(await check(mock_dns, request(challenge_type="dns-account-01"))) == "dns"
    mock_dns.set(f"{LABEL}._acme-challenge.a.example", "TXT", "x" * 43)
    assert type_of(await check(mock_dns, request(challenge_type="dns-account-01"))) == "incorrectResponse"


async def test_da1_caa_names_the_method(mock_dns: MockDns) -> None:
    """CA7: validationmethods has to list dns-account-01; dns-01 is another one."""
    mock_dns.set(f"{LABEL}._acme-challenge.a.example", "TXT", dns_txt_value(EXPECTED))
    mock_dns.set("a.example", "CAA", '0 issue "ca.example; validationmethods=dns-01"')
    assert type_of(await check(mock_dns, request(challenge_type="dns-account-01"))) == "caa"
    mock_dns.set("a.example", "CAA", '0 issue "ca.example; validationmethods=dns-01,dns-account-01"')
    assert (await check(mock_dns, request(challenge_type="dns-account-01"))).problem is None


async def test_dp2_a_record_lets_the_account_in(mock_dns: MockDns) -> None:
    """DP2, DN5: strings are joined, other records ignored, aliases followed for the record alone."""
    mock_dns.set(PERSIST, "CNAME", "records.elsewhere.example.")
    mock_dns.set("records.elsewhere.example", "TXT", "v=spf1 -all", [RECORD[:20], RECORD[20:]])
    assert (await check(mock_dns, persist_request())).problem is None
    # BR 3.2.2.4.22: the alias's target never becomes the name that is validated: CAA is looked up at the name itself.
    assert "elsewhere.example" not in mock_dns.asked("CAA")


async def test_dp2_failures(mock_dns: MockDns) -> None:
    """DP2, SF4: the type says whether something is missing or wrong; the detail has the record's name, not its text."""
    outcome = await check(mock_dns, persist_request())
    assert type_of(outcome) == "unauthorized"
    assert outcome.problem is not None
    assert outcome.problem["detail"] == f"{PERSIST}: there is no TXT record"
    assert mock_dns.asked("TXT").count(PERSIST) == 3    # It may be on its way (CH5).
    for record, kind in ((RECORD + "0", "unauthorized"), (f"{RECORD}; persistUntil=1", "unauthorized"),
                         ("ca.example; policy=wildcard", "malformed")):
        mock_dns.set(PERSIST, "TXT", record)
        mock_dns.queries.clear()
        outcome = await check(mock_dns, persist_request())
        assert type_of(outcome) == kind
        assert mock_dns.asked("TXT") == [PERSIST]
        assert outcome.problem is not None
        assert record not in outcome.problem["detail"]
    mock_dns.misbehave(PERSIST, "servfail")
    assert type_of(await check(mock_dns, persist_request())) == "dns"


async def test_dp3_wildcards(mock_dns: MockDns) -> None:
    """DP3: a wild card is validated at its base name and needs policy=wildcard."""
    mock_dns.set(PERSIST, "TXT", RECORD)
    assert type_of(await check(mock_dns, persist_request(wildcard=True))) == "unauthorized"
    mock_dns.set(PERSIST, "TXT", f"{RECORD}; policy=wildcard")
    assert (await check(mock_dns, persist_request(wildcard=True))).problem is None


@pytest.mark.parametrize(("ttl_s", "policy", "expected"), [
    (0, 30 * DAY, timedelta(hours=8)), (60, 30 * DAY, timedelta(hours=8)), (86_400, 30 * DAY, DAY),
    (86_400 * 30, 30 * DAY, 10 * DAY), (86_400 * 30, 2 * DAY, 2 * DAY)])
async def test_dp3_reuse_follows_the_time_to_live(
    mock_dns: MockDns, ttl_s: int, policy: timedelta, expected: timedelta
) -> None:
    """DP3: the record's TTL, but eight hours at least (BR 3.2.2.4.22), ten days at most, never over the policy's."""
    mock_dns.ttl_s = ttl_s
    mock_dns.set(PERSIST, "TXT", RECORD)
    outcome = await check(mock_dns, persist_request(), reuse=policy)
    assert outcome.valid_until == NOW + expected


async def test_dp3_the_shortest_time_to_live_along_an_alias_counts(mock_dns: MockDns) -> None:
    """DP3: an alias that lives shorter than its target bounds what was read through it; persistUntil does, too."""
    mock_dns.ttl_s = 5 * 86_400
    mock_dns.set(PERSIST, "CNAME", "x.example.")
    mock_dns.set("x.example", "TXT", RECORD)
    mock_dns.ttls_s["x.example"] = 9 * 86_400
    assert (await check(mock_dns, persist_request())).valid_until == NOW + 5 * DAY
    until = int((NOW + timedelta(hours=1)).timestamp())
    mock_dns.set("x.example", "TXT", f"{RECORD}; persistUntil={until}")
    assert (await check(mock_dns, persist_request())).valid_until == NOW + timedelta(hours=1)


@pytest.mark.parametrize("changes", [{"persist_allowed": False}, {"identifier_type": "ip"}, {"thumbprint": b""}],
                         ids=str)
async def test_x1_nobody_is_believed_without_the_operators_word(mock_dns: MockDns, changes: dict[str, Any]) -> None:
    """X1: the VA asks again whether this account may use a method that the front end offered."""
    mock_dns.set(PERSIST, "TXT", RECORD)
    assert type_of(await check(mock_dns, persist_request(**changes))) == "malformed"
    assert mock_dns.queries == []
    if changes == {"persist_allowed": False}:
        assert (await check(mock_dns, persist_request(**changes), persist=True)).problem is None


@pytest.mark.parametrize(("now", "days"), [
    (datetime(2027, 3, 14, 23, 59, tzinfo=UTC), 200), (datetime(2027, 3, 15, tzinfo=UTC), 100),
    (datetime(2029, 3, 14, 23, 59, tzinfo=UTC), 100), (datetime(2029, 3, 15, tzinfo=UTC), 10)])
async def test_ru1_the_end_of_reuse_moves_with_the_schedule(mock_dns: MockDns, now: datetime, days: int) -> None:
    """RU1: what the VA stores is never longer than the BR let it be on that day, whatever the configuration says."""
    mock_dns.set("_acme-challenge.a.example", "TXT", dns_txt_value(EXPECTED))
    outcome = await check(mock_dns, request(challenge_type="dns-01"), now=now, reuse=timedelta(days=365))
    assert outcome.valid_until == now + timedelta(days=days)
