"""Promises of dns-persist-01's decision: rows DP1 to DP3."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol.dns_persist import (
    MAX_ISSUER_NAMES,
    PersistRefused,
    PersistRequest,
    issuer_domain_names,
    require_persistent_grant,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
ACCOUNT = "https://ca.example/acme/account/AZ0"
RIGHT = f"ca.example; accounturi={ACCOUNT}"


def request(*, wildcard: bool = False, now: datetime = NOW) -> PersistRequest:
    return PersistRequest(issuer_names=frozenset({"ca.example", "ca2.example"}), account_url=ACCOUNT,
                          wildcard=wildcard, now=now)


ACCEPTED = {
    "plain": RIGHT,
    "no space": f"ca.example;accounturi={ACCOUNT}",
    "much white space": f" \t ca.example \t; \t accounturi = {ACCOUNT} ; policy = x",
    "another of our names": f"ca2.example; accounturi={ACCOUNT}",
    "issuer in upper case": f"CA.EXAMPLE; accounturi={ACCOUNT}",
    "tags in any case": f"ca.example; AccountURI={ACCOUNT}; POLICY=wildcard; persistuntil={SECONDS}",
    "unknown tags, twice too": f"ca.example; accounturi={ACCOUNT}; future=1; future=2",
    "unknown policy is none": f"ca.example; accounturi={ACCOUNT}; policy=strange",
    "the very second": f"ca.example; accounturi={ACCOUNT}; persistUntil={SECONDS}",
    "the year 9999": f"ca.example; accounturi={ACCOUNT}; persistUntil=253402300799",
}


@pytest.mark.parametrize("record", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_dp2_records_that_let_the_account_in(record: str) -> None:
    """DP2, DP3: alone, and behind records of others that may be anything."""
    require_persistent_grant([record.encode()], request())
    others = [b"", b"v=spf1 -all", b"other.example; accounturi=%%", b"\xff\xfe;", RIGHT.replace("AZ0", "AZ1").encode(),
              b"ca.example; accounturi"]
    assert require_persistent_grant([*others, record.encode()], request()).index == len(others)


REFUSED = {
    "no record": ([], "unauthorized"),
    "other issuer": ([f"other.example; accounturi={ACCOUNT}"], "unauthorized"),
    "nobody": ([f"; accounturi={ACCOUNT}"], "unauthorized"),
    "a name below ours": ([f"www.ca.example; accounturi={ACCOUNT}"], "unauthorized"),
    "another account": ([RIGHT + "x"], "unauthorized"),
    "account in other case": ([RIGHT.replace("AZ0", "az0")], "unauthorized"),
    "over": ([f"{RIGHT}; persistUntil={SECONDS - 1}"], "unauthorized"),
    "no parameters": (["ca.example"], "malformed"),
    "no accounturi": (["ca.example; policy=wildcard"], "malformed"),
    "empty accounturi": (["ca.example; accounturi="], "malformed"),
    "accounturi twice": ([f"{RIGHT}; accounturi={ACCOUNT}"], "malformed"),
    "policy twice": ([f"{RIGHT}; policy=wildcard; policy=wildcard"], "malformed"),
    "persistUntil twice": ([f"{RIGHT}; persistUntil=9999999999; persistuntil=9999999999"], "malformed"),
    "persistUntil no number": ([f"{RIGHT}; persistUntil=2030-01-01"], "malformed"),
    "persistUntil negative": ([f"{RIGHT}; persistUntil=-1"], "malformed"),
    "persistUntil with a sign": ([f"{RIGHT}; persistUntil=+9999999999"], "malformed"),
    "persistUntil in hexadecimal": ([f"{RIGHT}; persistUntil=0xffffffff"], "malformed"),
    "persistUntil empty": ([f"{RIGHT}; persistUntil="], "malformed"),
    "persistUntil beyond 9999": ([f"{RIGHT}; persistUntil=253402300800"], "malformed"),
    "persistUntil of 60 digits": ([f"{RIGHT}; persistUntil={'9' * 60}"], "malformed"),
    "a parameter without value": ([f"{RIGHT}; policy"], "malformed"),
    "semicolon at the end": ([f"{RIGHT};"], "malformed"),
    "not ASCII": ([f"{RIGHT}; x=ü"], "malformed"),
    "a mistake and another's record": (["other.example; accounturi=x:y", "ca.example; accounturi"], "malformed"),
    "another account and a mistake": ([RIGHT + "x", "ca.example"], "malformed"),
}


@pytest.mark.parametrize(("records", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_dp2_records_that_do_not(records: list[str], code: str) -> None:
    """DP2: unauthorized when nobody let us in, malformed when the record that names us is a mistake; SF4: its text is
    not repeated."""
    with pytest.raises(PersistRefused) as caught:
        require_persistent_grant([record.encode() for record in records], request())
    assert caught.value.code == code
    assert ACCOUNT not in caught.value.detail


@pytest.mark.parametrize(("parameters", "allowed"), [
    ("", False), ("; policy=wildcard", True), ("; POLICY=WildCard", True), ("; policy=specific", False),
    ("; policy=", False)])
def test_dp3_wildcards_need_the_policy(parameters: str, allowed: bool) -> None:
    """DP3: policy=wildcard, whatever its case, and nothing else; a plain name does not need it."""
    record = (RIGHT + parameters).encode()
    require_persistent_grant([record], request())
    if allowed:
        require_persistent_grant([record], request(wildcard=True))
    else:
        with pytest.raises(PersistRefused, match="policy=wildcard") as caught:
            require_persistent_grant([record], request(wildcard=True))
        assert caught.value.code == "unauthorized"


def test_dp3_persist_until_is_told_and_ends_it() -> None:
    """DP3: the moment is part of the grant; one second later there is none."""
    record = f"{RIGHT}; persistUntil={SECONDS}".encode()
    assert require_persistent_grant([record], request()).until == NOW
    assert require_persistent_grant([RIGHT.encode()], request()).until is None
    with pytest.raises(PersistRefused, match="persistUntil"):
        require_persistent_grant([record], request(now=NOW + timedelta(seconds=1)))


def test_dp1_issuer_names_are_ten_lower_case_names_without_a_dot_at_the_end() -> None:
    """DP1: what a challenge shows is what a record may say."""
    names = issuer_domain_names(["CA.Example.", *(f"n{number}.example" for number in range(12))])
    assert names[0] == "ca.example"
    assert len(names) == MAX_ISSUER_NAMES


@given(st.lists(st.binary(max_size=60) | st.text("ca.example; ourint=policyPUU1289", max_size=60).map(str.encode),
                max_size=5))
def test_no_record_is_a_fault(records: list[bytes]) -> None:
    """Whatever a zone holds is answered by one of the two refusals, unless it names the account in full."""
    refused = None
    try:
        require_persistent_grant(records, request())
    except PersistRefused as fault:
        refused = fault
    assert (refused is None) == any(ACCOUNT.encode() in record for record in records)
