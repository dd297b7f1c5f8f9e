"""The PROXY protocol, versions 1 and 2: what a TCP proxy puts in front of a connection to say whose it is.

It comes before TLS, so it is taken off the socket before anything else reads from it, byte for byte and no byte more.
"""

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from ca.process.client_address import IpAddress, parse_address

SIGNATURE_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PREFIX_V1: Final = b"PROXY "
_MAX_V1_BYTES: Final = 107
_FIXED_V2_BYTES: Final = 16
# A v2 header may carry 64 KiB of extensions; what proxies really send is far below this.
_MAX_V2_BYTES: Final = 2_048
MAX_BYTES: Final = _MAX_V2_BYTES
_ADDRESS_BYTES: Final = {0x1: 12, 0x2: 36, 0x3: 216}


class ProxyHeaderError(Exception):
    """The connection does not begin with a PROXY header that can be believed: it has to be closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """A whole header: its length in bytes, and the client's address; None: the proxy speaks for itself (health checks).
    """

    length: int
    client: IpAddress | None


def parse_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`, None while it is incomplete. Raises ProxyHeaderError."""
    if data.startswith(SIGNATURE_V2[:len(data)]) or data.startswith(SIGNATURE_V2):
        return _parse_v2(data) if len(data) >= _FIXED_V2_BYTES else None
    if data.startswith(_PREFIX_V1) or _PREFIX_V1.startswith(data):
        return _parse_v1(data)
    raise ProxyHeaderError("the connection does not begin with a PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _MAX_V1_BYTES)
    if end < 0:
        if len(data) >= _MAX_V1_BYTES:
            raise ProxyHeaderError("the PROXY line is too long")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyHeaderError("the PROXY line is not ASCII") from None
    if words[1] == "UNKNOWN":
        return ProxyHeader(length=end + 2, client=None)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6") or not (_is_port(words[4]) and _is_port(words[5])):
        raise ProxyHeaderError("the PROXY line is malformed")
    wanted = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
    try:
        source, _ = wanted(words[2]), wanted(words[3])
    except ValueError:
        raise ProxyHeaderError("the PROXY line has an address of another family") from None
    return ProxyHeader(length=end + 2, client=_plain(source))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) < 65_536


def _parse_v2(data: bytes) -> ProxyHeader | None:
    version_command, family_transport, rest = struct.unpack_from("!BBH", data, len(SIGNATURE_V2))
    length = _FIXED_V2_BYTES + rest
    if version_command >> 4 != 2 or version_command & 0xF > 1:
        raise ProxyHeaderError("the PROXY header is of an unknown version or command")
    if length > _MAX_V2_BYTES:
        raise ProxyHeaderError("the PROXY header is too long")
    if len(data) < length:
        return None
    if version_command & 0xF == 0:
        return ProxyHeader(length=length, client=None)
    family = family_transport >> 4
    if rest < _ADDRESS_BYTES.get(family, 0) or family_transport & 0xF != 1:
        raise ProxyHeaderError("the PROXY header is not that of a TCP connection")
    start = _FIXED_V2_BYTES
    if family == 0x1:
        return ProxyHeader(length=length, client=ipaddress.IPv4Address(data[start:start + 4]))
    if family == 0x2:
        return ProxyHeader(length=length, client=_plain(ipaddress.IPv6Address(data[start:start + 16])))
    raise ProxyHeaderError("the PROXY header has no IP address")


def _plain(address: IpAddress) -> IpAddress:
    return parse_address(str(address)) or address
