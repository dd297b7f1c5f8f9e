"""Identifiers: rows NM1 to NM10, IP1 and IP5 of the protocol checklist, one case each, and what holds always."""

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ca.pki.identifier import (
    Identifier,
    IdentifierError,
    NamePolicy,
    address_octets,
    authorizable_ancestors,
    general_names,
    parse_identifier,
    require_ancestor,
    require_permitted,
)

PUBLIC = NamePolicy(internal_suffixes=(), public=True)
ANY_INTERNAL = NamePolicy(internal_suffixes=("*",), public=False)
LISTED = NamePolicy(internal_suffixes=("corp.example", "lan", "10.in-addr.arpa"), public=False,
                    internal_prefixes=("10.0.0.0/8", "fd00::/8", "169.254.0.0/16", "127.0.0.0/8"))

_MALFORMED_NAMES = [
    "", ".", "a..example.com", ".a.com", "a.com.", "a." + "b" * 64 + ".com", "-a.com", "a-.com", "a_b.com", "a b.com",
    "a.com\n", "a\x00.com", "http://a.com", "a.com:80", "a.com/x", "u@a.com", "%61.com",       # E55
    "x." * 126 + "com", "localhost", "com", "1.2.3.4", "::1", "2130706433", "0x7f.1", "a.123", "127.1", "a.0x1f",
    "*", "*.", "*.com", "*.*.a.com", "a.*.com", "f*.a.com", "*a.a.com", "**.a.com",             # E57
    "b\u00fccher.com", "\u0430pple.com", "\uff45.com", "\u212a.com", "\u0130.com", "\u017f.com", "a\u200d.com",
    "a\u202e.com", "a\u3002com",                                                                # E58
    "xn--.com", "xn--a.com", "xn--99999999.com", "xn--abc-.com", "xn--ls8h.com", "xn--u-ccb.com",  # E59
    "a.b.c.d.e.f.g.h.i.j.com", "*.b.c.d.e.f.g.h.i.j.com",
]


@pytest.mark.parametrize("name", _MALFORMED_NAMES, ids=ascii)
def test_what_is_not_a_name_is_malformed(name: str) -> None:
    """NM1 to NM5 and NM7: nothing is repaired, and the answer repeats hostile text only as printable ASCII."""
    with pytest.raises(IdentifierError) as refused:
        parse_identifier("dns", name)
    assert refused.value.code == "malformed"
    assert refused.value.detail.isascii()
    assert refused.value.detail.isprintable()
    assert len(refused.value.detail) < 400


@pytest.mark.parametrize(("written", "value"), [
    ("example.com", "example.com"),
    ("A.EXAMPLE", "a.example"),
    ("*.Example.com", "*.example.com"),
    ("XN--BCHER-KVA.com", "xn--bcher-kva.com"),
    ("a.b.c.d.e.f.g.h.i.com", "a.b.c.d.e.f.g.h.i.com"),
    ("a1.2b.com", "a1.2b.com"),
    ("1.2.3.4.com", "1.2.3.4.com"),
    ("a-b--c.com", "a-b--c.com"),
    ("b" * 63 + ".com", "b" * 63 + ".com"),
])
def test_one_spelling_for_each_name(written: str, value: str) -> None:
    """Only ASCII letters are folded (NM10)."""
    assert parse_identifier("dns", written) == Identifier(type="dns", value=value)


def test_reserved_labels_are_rejected_not_malformed() -> None:
    """A label with hyphens in the third and fourth place that is no A-label is reserved (NM7)."""
    with pytest.raises(IdentifierError) as refused:
        parse_identifier("dns", "ab--c.com")
    assert refused.value.code == "rejectedIdentifier"


def test_single_labels_are_for_our_own_services() -> None:
    """`localhost` parses when asked for, and its wildcard never does."""
    assert parse_identifier("dns", "localhost", single_label=True).value == "localhost"
    for name in ("*.localhost", "123", ""):
        with pytest.raises(IdentifierError):
            parse_identifier("dns", name, single_label=True)


@pytest.mark.parametrize("kind", ["DNS", "", "uri", "email", "TNAuthList", "bundleEID", "__proto__"])
def test_other_types_are_unsupported(kind: str) -> None:
    """OR3, E54: the type is compared exactly."""
    with pytest.raises(IdentifierError) as refused:
        parse_identifier(kind, "example.com")
    assert refused.value.code == "unsupportedIdentifier"


@pytest.mark.parametrize("text", [
    "01.2.3.4", "1.2.3", "1.2.3.4\n", "\u0661.2.3.4", "[::1]", "::1%eth0", "2001:DB8::1", "::ffff:1.2.3.4",
    "1.2.3.0/24", "a.com", "0x7f.1", "", "2001:db8:0::1", "1.2.3.4.", "::ffff:102:304",
], ids=ascii)
def test_only_the_canonical_spelling_of_an_address(text: str) -> None:
    """IP1, E62: dotted decimal or RFC 5952."""
    with pytest.raises(IdentifierError) as refused:
        parse_identifier("ip", text)
    assert refused.value.code == "malformed"


@pytest.mark.parametrize("name", [
    "co.uk", "*.co.uk", "foo.ck", "a.internal", "a.local", "a.test", "a.home.arpa", "1.0.0.127.in-addr.arpa",
    "x.ip6.arpa", "a" * 56 + ".onion", "foo.corp", "a.localhost",
])
def test_public_mode_rejects(name: str) -> None:
    """NM6, NM8, E57, E60: public suffixes, special-use names and top-level domains outside the ICANN list."""
    with pytest.raises(IdentifierError) as refused:
        require_permitted(parse_identifier("dns", name), PUBLIC)
    assert refused.value.code == "rejectedIdentifier"


@pytest.mark.parametrize("name", ["www.ck", "example.com", "*.example.co.uk", "a.github.io", "github.io",
                                  "xn--bcher-kva.com", "foo.xn--55qx5d.cn"])
def test_public_mode_permits(name: str) -> None:
    """Exception rules are honoured, and the list's PRIVATE section is not (NM6)."""
    require_permitted(parse_identifier("dns", name), PUBLIC)


@pytest.mark.parametrize(("policy", "name", "permitted"), [
    (ANY_INTERNAL, "a.internal", True),
    (ANY_INTERNAL, "www.localhost", True),
    (ANY_INTERNAL, "example.com", True),
    (ANY_INTERNAL, "*.foo.corp", True),
    (ANY_INTERNAL, "co.uk", False),
    (ANY_INTERNAL, "*.co.uk", False),
    (ANY_INTERNAL, "1.0.0.127.in-addr.arpa", False),
    (ANY_INTERNAL, "a.onion", False),
    (LISTED, "corp.example", True),
    (LISTED, "a.b.corp.example", True),
    (LISTED, "*.corp.example", True),
    (LISTED, "x.lan", True),
    (LISTED, "xlan.com", False),
    (LISTED, "evilcorp.example", False),
    (LISTED, "1.10.in-addr.arpa", True),
])
def test_internal_mode_issues_below_its_suffixes(policy: NamePolicy, name: str, permitted: bool) -> None:
    """A suffix covers itself and whole labels in front of it; the star covers no reverse zone and no .onion."""
    identifier = parse_identifier("dns", name)
    if permitted:
        require_permitted(identifier, policy)
        return
    with pytest.raises(IdentifierError) as refused:
        require_permitted(identifier, policy)
    assert refused.value.code == "rejectedIdentifier"


_SPECIAL_ADDRESSES = ["127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "::1", "fe80::1", "64:ff9b::7f00:1",
                      "2002:7f00:1::", "224.0.0.1", "fec0::1", "fd00::1", "192.168.1.1", "4000::1"]


@pytest.mark.parametrize("text", _SPECIAL_ADDRESSES)
def test_special_purpose_addresses_need_a_listed_prefix(text: str) -> None:
    """IP5, E61: never in public mode, in internal mode by prefix, and loopback and link-local not even so."""
    identifier = parse_identifier("ip", text)
    for policy in (PUBLIC, ANY_INTERNAL):
        with pytest.raises(IdentifierError) as refused:
            require_permitted(identifier, policy)
        assert refused.value.code == "rejectedIdentifier"
    if text in ("10.0.0.1", "fd00::1"):
        require_permitted(identifier, LISTED)
    else:
        with pytest.raises(IdentifierError):
            require_permitted(identifier, LISTED)


def test_global_addresses_are_the_internets() -> None:
    """A global address is certified in public mode, and internally where every suffix is."""
    for text in ("1.1.1.1", "2606:4700::1111"):
        identifier = parse_identifier("ip", text)
        require_permitted(identifier, PUBLIC)
        require_permitted(identifier, ANY_INTERNAL)
        with pytest.raises(IdentifierError):
            require_permitted(identifier, LISTED)


def test_loopback_only_where_the_configuration_says_so() -> None:
    """The demo allows loopback; public mode never does."""
    demo = NamePolicy(internal_suffixes=("*",), public=False, allow_loopback=True)
    for text in ("127.0.0.1", "::1"):
        require_permitted(parse_identifier("ip", text), demo)
        with pytest.raises(IdentifierError):
            require_permitted(parse_identifier("ip", text),
                              NamePolicy(internal_suffixes=(), public=True, allow_loopback=True))


def test_general_names_are_sorted_and_unique() -> None:
    """The subjectAltName has names before addresses, each once."""
    dns = parse_identifier("dns", "b.example")
    other = parse_identifier("dns", "*.a.example")
    address = parse_identifier("ip", "192.0.2.1")
    assert general_names([address, dns, other, dns]) == (other, dns, address)
    assert address_octets(address) == bytes((192, 0, 2, 1))
    assert other.is_wildcard
    assert other.base == "a.example"
    assert dns.base == "b.example"


@given(st.text(max_size=300))
def test_parsing_never_fails_otherwise_and_is_idempotent(text: str) -> None:
    """Any text is a name that parses to itself again, or an IdentifierError; nothing else is raised."""
    for kind in ("dns", "ip"):
        try:
            parsed = parse_identifier(kind, text)
        except IdentifierError:
            continue
        assert parse_identifier(kind, parsed.value) == parsed
        assert parsed.value.isascii()
        assert parsed.value == parsed.value.lower()


_labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda x: x[2:4] != "--")


@given(st.lists(_labels, min_size=1, max_size=8), st.sampled_from(["com", "example", "internal"]), st.booleans())
def test_every_ldh_name_parses(labels: list[str], suffix: str, wildcard: bool) -> None:
    """Letters, digits and inner hyphens make a name, with or without a wildcard, in any case."""
    base = ".".join([*labels, suffix])
    assume(len(base) <= 251)
    name = f"*.{base}" if wildcard else base
    assert parse_identifier("dns", name.upper()) == Identifier(type="dns", value=name)
    with pytest.raises(IdentifierError):
        parse_identifier("dns", name + ".")
    with pytest.raises(IdentifierError):
        parse_identifier("dns", name + "\n")


@given(st.ip_addresses())
def test_addresses_have_one_spelling(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """The text that Python writes is RFC 5952, and the exploded form of IPv6 is refused."""
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    assume(not mapped)
    assert parse_identifier("ip", str(address)).value == str(address)
    assert address_octets(parse_identifier("ip", str(address))) == address.packed
    if address.exploded != str(address):
        with pytest.raises(IdentifierError):
            parse_identifier("ip", address.exploded)


@pytest.mark.parametrize(("kind", "value", "ancestors"), [
    ("dns", "a.b.example.com", ("b.example.com", "example.com")), ("dns", "*.b.example.com", ("b.example.com",
                                                                                             "example.com")),
    ("dns", "*.example.com", ("example.com",)), ("dns", "example.com", ()), ("dns", "a.b.co.uk", ("b.co.uk",)),
    ("dns", "a.b.github.io", ("b.github.io",)), ("dns", "b.github.io", ()), ("dns", "a.b.lan", ("b.lan",)),
    ("ip", "10.0.0.1", ())])
def test_su1_domains_above(kind: str, value: str, ancestors: tuple[str, ...]) -> None:
    """SU1: by whole labels, the nearest first, none that is a public suffix of either section."""
    assert authorizable_ancestors(Identifier(type=kind, value=value)) == ancestors


_LABELS = st.lists(st.sampled_from(["a", "b", "ab", "www", "example", "com"]), min_size=1, max_size=5)


@given(labels=_LABELS, above=_LABELS, wildcard=st.booleans())
def test_su1_an_ancestor_is_a_shorter_suffix_of_whole_labels(
    labels: list[str], above: list[str], wildcard: bool
) -> None:
    """SU1: exactly those labels at the end, at least one before them, at least two of them; every other is refused."""
    identifier = Identifier(type="dns", value=".".join((["*"] if wildcard else []) + labels))
    has = (["*"] if wildcard else []) + labels
    is_ancestor = len(above) < len(has) and has[-len(above):] == above
    is_suffix = authorizable_ancestors(Identifier(type="dns", value="x." + ".".join(above))) == ()
    if is_ancestor and not is_suffix:
        found = require_ancestor(".".join(above).upper(), identifier)
        assert found == ".".join(above) in authorizable_ancestors(identifier)
        return
    with pytest.raises(IdentifierError) as refused:
        require_ancestor(".".join(above).upper(), identifier)
    assert refused.value.code == ("rejectedIdentifier" if is_ancestor else "malformed")
