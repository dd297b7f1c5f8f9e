"""Accounts: requests and objects (rows AC1 to AC8, E36 to E40)."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol.account import (
    Account,
    AccountStatus,
    account_object,
    account_status,
    only_return_existing,
    parse_update,
    require_contacts,
    require_open,
    require_terms,
)
from acme_api.protocol.problem import Problem

_NOW = datetime(2026, 11, 24, 2, 38, tzinfo=UTC)
_TERMS = "https://ca.example/terms"
_ACCOUNT = Account(id=bytes(22), thumbprint=bytes(32), jwk="{}", contacts=("mailto:a@x.example",), terms_agreed_at=_NOW,
                   deactivated_at=None, revoked_at=None)


def _refusal(contact: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        require_contacts({"contact": contact})
    return caught.value


@pytest.mark.parametrize("contact", ["x", {}, [None], [["mailto:a@x.example"]], [1], None, ["mailto:a@x.example"] * 11])
def test_ac5_contacts_of_another_shape(contact: Any) -> None:
    """Rows AC5, E37: not an array of at most ten strings is malformed."""
    assert _refusal(contact).type == "malformed"


@pytest.mark.parametrize("contact", ["tel:+1", "https://x", "javascript:x", "a@x.example", "", "mailto",
                                     ":mailto:a@b.c"])
def test_e39_other_schemes(contact: str) -> None:
    """Rows AC5, E39: unsupportedContact, and the detail names the scheme that works."""
    problem = _refusal([contact])
    assert (problem.type, problem.status) == ("unsupportedContact", 400)
    assert "mailto" in problem.detail


@pytest.mark.parametrize("contact", [
    "mailto:a@x.example?bcc=b@y.example", "mailto:a@x.example,b@y.example", "mailto:", "mailto:a", "mailto:@x.example",
    "mailto:a@", "mailto:a@b@x.example", 'mailto:"E"<e@x.example>', "mailto:E <e@x.example>", "mailto:<e@x.example>",
    "mailto:a@x.example%0d%0aBcc:b@y.example", "mailto:\u00fc@x.example", "mailto:a@\u00fc.example",
    "mailto:a@x.example#f", "mailto:a@x.example\n", "mailto: a@x.example", "mailto:a@*.x.example",
    "mailto:.a@x.example", "mailto:a@localhost",
    "mailto:a@x..example", "mailto:a@1.2.3.4", "mailto:" + "a" * 65 + "@x.example", "mailto:a@x.example" + "x" * 61_440,
    "mailto://a@x.example", "mailto:a@[127.0.0.1]",
])
def test_e38_other_addresses(contact: str) -> None:
    """Rows AC5, E37, E38: invalidContact, with a detail that stays short and printable."""
    problem = _refusal(["mailto:good@x.example", contact])
    assert (problem.type, problem.status) == ("invalidContact", 400)
    assert problem.detail.isascii()
    assert len(problem.detail) < 500


@pytest.mark.parametrize("contact", ["mailto:a@x.example", "MAILTO:first.last+tag@Sub.X.example",
                                     "mailto:o'hara@x.example"])
def test_ac5_plain_addresses_are_kept_as_written(contact: str) -> None:
    """Ordinary addresses pass unchanged."""
    assert require_contacts({"contact": [contact]}) == (contact,)


def test_ac5_absent_and_empty_differ() -> None:
    """Absent leaves contacts alone, an empty array clears them (row AC6)."""
    assert require_contacts({}) is None
    assert require_contacts({"contact": []}) == ()


@given(st.lists(st.text()))
def test_ac5_any_text_is_judged(contacts: list[str]) -> None:
    """No text is a fault of ours."""
    try:
        require_contacts({"contact": contacts})
    except Problem as problem:
        assert problem.status == 400  # noqa: PT017 - most texts are refused, some are not


@pytest.mark.parametrize("payload", [{}, {"termsOfServiceAgreed": False}, {"termsOfServiceAgreed": "true"},
                                     {"termsOfServiceAgreed": 1}, {"termsOfServiceAgreed": None}])
def test_ac4_terms_have_to_be_agreed(payload: dict[str, Any]) -> None:
    """Rows AC4, E36: malformed, with the link that leads to the terms."""
    with pytest.raises(Problem) as caught:
        require_terms(payload, _TERMS)
    assert (caught.value.type, caught.value.terms_of_service) == ("malformed", _TERMS)


def test_ac4_without_terms_nothing_has_to_be_agreed() -> None:
    """No terms configured: absent and false are fine, what is no boolean is still malformed."""
    assert [require_terms(payload, "") for payload in ({}, {"termsOfServiceAgreed": False})] == [False, False]
    assert require_terms({"termsOfServiceAgreed": True}, "") is True
    with pytest.raises(Problem):
        require_terms({"termsOfServiceAgreed": "true"}, "")


def test_ac3_only_return_existing_is_a_boolean() -> None:
    """Row AC3."""
    assert only_return_existing({"onlyReturnExisting": True})
    assert not only_return_existing({})
    with pytest.raises(Problem):
        only_return_existing({"onlyReturnExisting": 1})


def test_ac6_updates() -> None:
    """Contacts are replaced or cleared, deactivation stands alone, everything else is ignored (rows AC6, AC7, E45)."""
    assert parse_update({"contact": []}).contacts == ()
    assert parse_update({"status": "deactivated", "contact": 5}).deactivate
    ignored: list[dict[str, Any]] = [{"status": "valid"}, {"status": "revoked"}, {"status": 5}, {"key": {}},
                                     {"orders": "x"}, {}]
    for payload in ignored:
        update = parse_update(payload)
        assert (update.contacts, update.deactivate) == (None, False)


def test_ac1_the_object_shows_facts_alone() -> None:
    """Row AC1: status, contact if any, the agreement if given, orders."""
    found = account_object("https://ca.example", _ACCOUNT)
    assert found == {"status": "valid", "contact": ["mailto:a@x.example"], "termsOfServiceAgreed": True,
                     "orders": "https://ca.example/acme/account/" + "A" * 30 + "/orders"}
    bare = account_object("https://ca.example", replace(_ACCOUNT, contacts=(), terms_agreed_at=None))
    assert set(bare) == {"status", "orders"}


def test_ac7_ac8_closed_accounts_may_do_nothing() -> None:
    """Rows AC7, AC8, J13: 401 unauthorized; revoked is stronger than deactivated."""
    require_open(_ACCOUNT)
    for account, status in ((replace(_ACCOUNT, deactivated_at=_NOW), AccountStatus.DEACTIVATED),
                            (replace(_ACCOUNT, revoked_at=_NOW), AccountStatus.REVOKED),
                            (replace(_ACCOUNT, deactivated_at=_NOW, revoked_at=_NOW), AccountStatus.REVOKED)):
        assert account_status(account) is status
        with pytest.raises(Problem) as caught:
            require_open(account)
        assert (caught.value.type, caught.value.status) == ("unauthorized", 401)
