"""Blocked names: what has to be looked up, and what a block reaches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.blocked_name import lookup_names, require_unblocked
from ca.pki.identifier import Identifier
from ca.pki.refusal import Refusal, RefusalReason

_LABELS = st.lists(st.sampled_from(["a", "b", "example", "com"]), min_size=1, max_size=5)


def _dns(value: str) -> Identifier:
    return Identifier(type="dns", value=value)


def test_what_is_looked_up() -> None:
    """Each name once with all that it is below, wildcards by their base; an address by itself."""
    assert lookup_names([_dns("*.a.example.com"), _dns("b.example.com"), Identifier(type="ip", value="10.0.0.1")]) == [
        "10.0.0.1", "a.example.com", "b.example.com", "com", "example.com"]


@pytest.mark.parametrize(("name", "blocked", "refused"), [
    ("example.com", {"example.com": True}, True), ("www.example.com", {"example.com": True}, True),
    ("*.example.com", {"example.com": False}, True), ("www.example.com", {"example.com": False}, False),
    ("notexample.com", {"example.com": True}, False), ("example.com", {"www.example.com": True}, False),
    ("example.com", {}, False), ("a.b.c.example.com", {"example.com": True, "b.c.example.com": False}, True),
])
def test_what_a_block_reaches(name: str, blocked: dict[str, bool], refused: bool) -> None:
    """The name and its wildcard; what is below only when it says so; never what is above or beside."""
    if not refused:
        require_unblocked([_dns(name)], blocked)
        return
    with pytest.raises(Refusal) as raised:
        require_unblocked([_dns(name)], blocked)
    assert raised.value.reason is RefusalReason.REJECTED_IDENTIFIER
    assert name in raised.value.detail


def test_an_address() -> None:
    """An address is blocked by itself; its text is no name with labels."""
    require_unblocked([Identifier(type="ip", value="10.0.0.1")], {"0.0.1": True, "1": True})
    with pytest.raises(Refusal):
        require_unblocked([Identifier(type="ip", value="10.0.0.1")], {"10.0.0.1": True})


def test_each_blocked_name_is_a_subproblem() -> None:
    """RFC 8555 6.7.1: whose fault it is, name by name."""
    with pytest.raises(Refusal) as raised:
        require_unblocked([_dns("a.example.com"), _dns("b.org"), _dns("c.example.com")], {"example.com": True})
    assert [each.identifier.value for each in raised.value.subproblems] == ["a.example.com", "c.example.com"]


@given(_LABELS, _LABELS, st.booleans())
def test_a_block_is_found_by_its_lookup(labels: list[str], above: list[str], and_below: bool) -> None:
    """Whatever refuses a name is among the names that are looked up for it."""
    identifier, blocked = _dns(".".join(labels)), {".".join(above): and_below}
    looked_up = {name: blocked[name] for name in lookup_names([identifier]) if name in blocked}

    def refuses(found: dict[str, bool]) -> bool:
        try:
            require_unblocked([identifier], found)
        except Refusal:
            return True
        return False

    assert refuses(looked_up) == refuses(blocked)
