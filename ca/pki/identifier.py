"""ACME identifiers: one spelling for each name and address, and the policy which of them may stand in a certificate.

Parsing answers "is this a name at all" (rows NM1 to NM5, NM7, IP1); `require_permitted` answers "may we certify it"
(NM6, NM8, IP5). Nothing is repaired silently: only ASCII letters are folded, everything else is refused (NM10).
"""

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import idna
from publicsuffixlist import PublicSuffixList

from ca.pki.special_addresses import LOOPBACK, NEVER, IpAddress, IpNetwork, is_special, lies_in

IdentifierType = Literal["dns", "ip"]
IdentifierFault = Literal["malformed", "rejectedIdentifier", "unsupportedIdentifier"]

MAX_NAME_OCTETS: Final = 253
MAX_LABEL_OCTETS: Final = 63
MAX_LABELS: Final = 10

_WILDCARD: Final = "*."
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_ALLOWED_OCTETS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_SHOWN_CHARS: Final = 100
# RFC 6761, RFC 7686, RFC 8375, RFC 9476, BR 4.2.2: never in a certificate of the public Internet (NM8).
_SPECIAL_USE: Final = ("local", "localhost", "internal", "test", "invalid", "example", "onion", "alt", "home.arpa",
                       "in-addr.arpa", "ip6.arpa")
# A wild-card suffix policy does not reach these: a name under them means an address or a key, not a host's name.
_NEVER_BY_STAR: Final = ("onion", "in-addr.arpa", "ip6.arpa")


class IdentifierError(Exception):
    """The identifier is refused. `code` is the ACME error type of the answer, `detail` says what to change."""

    def __init__(self, code: IdentifierFault, detail: str) -> None:
        super().__init__(detail)
        self.code: IdentifierFault = code
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Identifier:
    """A name ('dns', lower case, `*.` kept) or an address ('ip', RFC 5952 text) in its one spelling."""

    type: str
    value: str

    @property
    def is_wildcard(self) -> bool:
        """Whether the leftmost label is `*`."""
        return self.value.startswith(_WILDCARD)

    @property
    def base(self) -> str:
        """The name that is validated: without `*.`."""
        return self.value.removeprefix(_WILDCARD)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePolicy:
    """Which names and addresses this CA certifies.

    public: the Internet's names only, below a suffix of the ICANN section. Otherwise the names at or below
    `internal_suffixes` ("*": any) and the addresses in `internal_prefixes` (and global ones, when "*" is listed).
    Loopback addresses need `allow_loopback`, link-local ones are never certified (row E61).
    """

    internal_suffixes: tuple[str, ...]
    public: bool
    internal_prefixes: tuple[str, ...] = ()
    allow_loopback: bool = False


def parse_identifier(kind: str, value: str, *, single_label: bool = False) -> Identifier:
    """The identifier of an order's (type, value). Raises IdentifierError.

    `single_label` admits names such as `localhost`, which only the certificates of our own services may have.
    """
    if kind == "dns":
        return Identifier(type="dns", value=_parse_dns(value, single_label=single_label))
    if kind == "ip":
        return Identifier(type="ip", value=_parse_ip(value))
    raise IdentifierError("unsupportedIdentifier",
                          f"identifier type {_shown(kind)} is not supported; this server knows dns and ip")


def require_permitted(identifier: Identifier, policy: NamePolicy) -> None:
    """Returns when the policy lets this identifier stand in a certificate; raises IdentifierError when not."""
    if identifier.type == "ip":
        _require_permitted_address(ipaddress.ip_address(identifier.value), policy)
        return
    name = identifier.base
    what = f"wildcard {identifier.value}" if identifier.is_wildcard else identifier.value
    suffix = _icann_suffixes().publicsuffix(name)
    if suffix == name:
        raise IdentifierError("rejectedIdentifier", f"{what}: {name} is a public suffix, not one subscriber's name")
    if policy.public:
        _require_public_name(name, what, suffix)
    elif not _covered(name, policy.internal_suffixes):
        raise IdentifierError("rejectedIdentifier", f"{what} is not below a suffix that this CA issues for")


def require_public_host(host: str) -> None:
    """Returns when the host of a URL is a name of the public Internet; raises IdentifierError when not."""
    require_permitted(parse_identifier("dns", host), NamePolicy(internal_suffixes=(), public=True))


def registered_domain(name: str) -> str:
    """The name below its public suffix (private section included: its owners are many) by which certificates are
    counted; a name that is a suffix itself counts for itself."""
    return _all_suffixes().privatesuffix(name) or name


def authorizable_ancestors(identifier: Identifier) -> tuple[str, ...]:
    """The domains that a name is below, by whole labels, of which control may stand for the name (RFC 9444, BR
    1.6.1 Authorization Domain Name): the nearest first, down to the one below the public suffix, whose section counts
    not. An address has none."""
    if identifier.type != "dns":
        return ()
    labels = identifier.value.split(".")
    above = (".".join(labels[first:]) for first in range(1, len(labels)))
    return tuple(name for name in above if _all_suffixes().privatesuffix(name) is not None)


def require_ancestor(name: str, identifier: Identifier) -> str:
    """The one spelling of the domain `name` when control of it may stand for the identifier (row SU1). Raises
    IdentifierError: malformed when the identifier is not below it, rejectedIdentifier for a public suffix."""
    ancestor = parse_identifier("dns", name, single_label=True)
    if ancestor.is_wildcard or identifier.type != "dns" or not identifier.value.endswith(f".{ancestor.value}"):
        raise IdentifierError("malformed", f"{_shown(name)} is not an ancestor domain of {identifier.value}")
    if ancestor.value not in authorizable_ancestors(identifier):
        raise IdentifierError("rejectedIdentifier", f"{ancestor.value} is a public suffix: control of it says nothing "
                                                    f"about {identifier.value}")
    return ancestor.value


def general_names(identifiers: Iterable[Identifier]) -> tuple[Identifier, ...]:
    """The identifiers in the order of the subjectAltName: names first, each once, sorted."""
    return tuple(sorted(set(identifiers)))


def address_octets(identifier: Identifier) -> bytes:
    """The 4 or 16 octets of an 'ip' identifier, as in iPAddress (RFC 5280 4.2.1.6)."""
    return ipaddress.ip_address(identifier.value).packed


def _parse_dns(value: str, *, single_label: bool) -> str:
    # Non-ASCII goes before folding: '\u212a'.lower() is 'k' (NM1).
    if not value.isascii():
        raise _malformed(value, "names are ASCII; write an internationalised name as its A-labels (xn--...)")
    name = value.lower()
    if not set(name) <= _ALLOWED_OCTETS:
        raise _malformed(value, "only letters, digits, '-', '.' and a leading '*.' may stand in a name")
    wildcard = name.startswith(_WILDCARD)
    base = name.removeprefix(_WILDCARD)
    if "*" in base:
        raise _malformed(value, "'*' may only be the whole leftmost label, once")
    if len(name) > MAX_NAME_OCTETS:
        raise _malformed(value, f"a name has at most {MAX_NAME_OCTETS} octets")
    labels = base.split(".")
    if "" in labels:
        raise _malformed(value, "there is an empty label, or a dot at the beginning or the end")
    if len(labels) < 2 and (wildcard or not single_label):
        raise _malformed(value, "a name has at least two labels")
    if len(labels) + wildcard > MAX_LABELS:
        raise _malformed(value, f"a name has at most {MAX_LABELS} labels")
    for label in labels:
        _require_label(label, value)
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        raise _malformed(value, "the last label is a number; an address is an identifier of type ip")
    for label in labels:
        _require_reserved_label(label, value)
    return name


def _require_label(label: str, value: str) -> None:
    if len(label) > MAX_LABEL_OCTETS:
        raise _malformed(value, f"a label has at most {MAX_LABEL_OCTETS} octets")
    if not _LABEL.fullmatch(label):
        raise _malformed(value, "a label begins or ends with a hyphen")


def _require_reserved_label(label: str, value: str) -> None:
    """NM7: an A-label must be what IDNA 2008 makes of its own U-label; other labels with `--` are reserved."""
    if label[2:4] != "--":
        return
    if not label.startswith("xn--"):
        raise IdentifierError("rejectedIdentifier", f"{_shown(value)}: label {label} is reserved (RFC 5890 2.3.1)")
    try:
        canonical = idna.alabel(idna.ulabel(label)).decode("ascii")
    except (idna.IDNAError, UnicodeError) as fault:
        raise _malformed(value, f"label {label} is not a valid A-label (IDNA 2008)") from fault
    if canonical != label:
        raise _malformed(value, f"label {label} is not a canonical A-label (IDNA 2008)")


def _parse_ip(value: str) -> str:
    """IP1: dotted decimal or RFC 5952, and no other spelling of the same address."""
    try:
        address: IpAddress = ipaddress.ip_address(value)
    except ValueError as fault:
        raise IdentifierError("malformed", f"{_shown(value)} is not an IP address") from fault
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    if mapped or str(address) != value or "%" in value:
        raise IdentifierError("malformed", f"{_shown(value)}: write an IPv4 address in dotted decimal and an IPv6 "
                                           "address as RFC 5952 says, without zone, brackets or prefix length")
    return value


def _require_public_name(name: str, what: str, suffix: str | None) -> None:
    for special in _SPECIAL_USE:
        if _is_at_or_below(name, special):
            raise IdentifierError("rejectedIdentifier", f"{what} is a special-use name (.{special})")
    if suffix is None:
        raise IdentifierError("rejectedIdentifier", f"{what} does not end in a public suffix of the ICANN section")


def _covered(name: str, suffixes: tuple[str, ...]) -> bool:
    if any(_is_at_or_below(name, suffix.lstrip(".").lower()) for suffix in suffixes if suffix != "*"):
        return True
    return "*" in suffixes and not any(_is_at_or_below(name, special) for special in _NEVER_BY_STAR)


def _require_permitted_address(address: IpAddress, policy: NamePolicy) -> None:
    if lies_in(address, LOOPBACK):
        permitted = policy.allow_loopback and not policy.public
    elif lies_in(address, NEVER):
        permitted = False
    elif policy.public:
        permitted = not is_special(address)
    else:
        permitted = (lies_in(address, _networks(policy.internal_prefixes))
                     or ("*" in policy.internal_suffixes and not is_special(address)))
    if not permitted:
        raise IdentifierError("rejectedIdentifier", f"{address} is not an address that this CA issues for")


@functools.lru_cache(maxsize=16)
def _networks(prefixes: tuple[str, ...]) -> tuple[IpNetwork, ...]:
    return tuple(ipaddress.ip_network(prefix) for prefix in prefixes)


def _is_at_or_below(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


@functools.cache
def _icann_suffixes() -> PublicSuffixList:
    """The ICANN section; the PRIVATE one only says how its owners share a name among themselves (NM6)."""
    return PublicSuffixList(only_icann=True, accept_unknown=False)


@functools.cache
def _all_suffixes() -> PublicSuffixList:
    """Both sections; a top-level domain that is in neither is a suffix."""
    return PublicSuffixList()


def _malformed(value: str, why: str) -> IdentifierError:
    return IdentifierError("malformed", f"{_shown(value)}: {why}")


def _shown(value: str) -> str:
    """The value as it may be repeated in an answer: printable ASCII, cut."""
    shown = value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "..."
    return ascii(shown)
