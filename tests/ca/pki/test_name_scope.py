"""The names of an external account (row NM9)."""

import pytest

from ca.pki.identifier import Identifier, IdentifierError
from ca.pki.name_scope import parse_scope, require_in_scope


@pytest.mark.parametrize(("text", "entry"), [
    ("Example.COM", "example.com"), ("corp", "corp"), ("10.0.0.0/8", "10.0.0.0/8"), ("10.1.2.3", "10.1.2.3/32"),
    ("2001:db8::/32", "2001:db8::/32"), ("2001:DB8::1", "2001:db8::1/128")])
def test_entries(text: str, entry: str) -> None:
    """Names and prefixes, each in its one spelling."""
    assert parse_scope(text) == entry


@pytest.mark.parametrize("text", ["", "*.a.com", "a_b.com", "10.0.0.1/8", "a/b", "1.2.3", "b\u00fccher.com", ".com"])
def test_what_is_no_entry(text: str) -> None:
    """ValueError, with a word about what is wrong."""
    with pytest.raises(ValueError, match=r"."):
        parse_scope(text)


@pytest.mark.parametrize(("value", "inside"), [
    ("example.com", True), ("www.example.com", True), ("*.example.com", True), ("*.a.example.com", True),
    ("badexample.com", False), ("example.com.evil.org", False), ("10.1.2.3", True), ("11.1.2.3", False),
    ("2001:db8::1", False)])
def test_what_is_inside(value: str, inside: bool) -> None:
    """Row NM9: a name with all below it, the addresses of a prefix; the rest is rejectedIdentifier."""
    identifier = Identifier(type="ip" if value[0].isdigit() else "dns", value=value)
    require_in_scope(identifier, ())
    if inside:
        require_in_scope(identifier, ("example.com", "10.0.0.0/8"))
    else:
        with pytest.raises(IdentifierError) as refused:
            require_in_scope(identifier, ("example.com", "10.0.0.0/8"))
        assert refused.value.code == "rejectedIdentifier"
