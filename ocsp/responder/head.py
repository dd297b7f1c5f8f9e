"""The head of an HTTP/1 request (RFC 9112), read strictly: what two parsers could read differently is refused."""

import re
from dataclasses import dataclass
from typing import Final

MAX_HEAD_BYTES: Final = 8_192
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\xff]+) HTTP/(\d)\.(\d)")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE: Final = re.compile(rb"http://[^/?#]*", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\d{1,9}")
# Fields that would change the framing or the target if there were two of them.
_SINGLE: Final = frozenset({b"content-length", b"transfer-encoding", b"host", b"expect", b"content-type"})


class BadHead(Exception):
    """The request is refused with this status, and the connection ends: where the next one begins is not certain."""

    def __init__(self, status: bytes, headers: bytes = b"") -> None:
        super().__init__(status.decode("ascii"))
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the responder has to know of a request."""

    method: bytes
    target: bytes                       # origin form
    minor_version: int
    persistent: bool
    content_length: int | None
    content_type: bytes | None
    if_none_match: bytes | None
    if_modified_since: bytes | None
    expects_continue: bool
    forwarded_for: bytes | None = None  # X-Forwarded-For, its lines joined

    @property
    def is_plain(self) -> bool:
        """HTTP/1.1 that stays open and asks for nothing but the answer, so that the answer has no variants."""
        return (self.minor_version == 1 and self.persistent and self.if_none_match is None
                and self.if_modified_since is None and not self.expects_continue)


def read_head(head: bytes) -> Head:
    """The head without its empty line. Raises BadHead."""
    lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(lines[0])
    if line is None:
        raise BadHead(b"400 Bad Request")
    if line[3] != b"1":
        raise BadHead(b"505 HTTP Version Not Supported")
    minor_version = min(int(line[4]), 1)
    fields = _fields(lines[1:])
    if minor_version == 1 and b"host" not in fields:
        raise BadHead(b"400 Bad Request")
    if b"transfer-encoding" in fields:
        raise BadHead(b"411 Length Required")
    options = {option.strip(b" \t").lower() for option in fields.get(b"connection", b"").split(b",")}
    expected = fields.get(b"expect", b"").lower()
    if expected not in (b"", b"100-continue"):
        raise BadHead(b"417 Expectation Failed")
    return Head(
        method=line[1], target=_origin_form(line[2]), minor_version=minor_version,
        persistent=b"close" not in options and (minor_version == 1 or b"keep-alive" in options),
        content_length=_content_length(fields.get(b"content-length")), content_type=fields.get(b"content-type"),
        if_none_match=fields.get(b"if-none-match"), if_modified_since=fields.get(b"if-modified-since"),
        expects_continue=bool(expected) and minor_version == 1, forwarded_for=fields.get(b"x-forwarded-for"))


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadHead(b"400 Bad Request")
        name, value = field[1].lower(), field[2].rstrip(b" \t")
        if name not in fields:
            fields[name] = value
        elif name in _SINGLE:
            raise BadHead(b"400 Bad Request")
        else:
            fields[name] += b", " + value
    return fields


def _origin_form(target: bytes) -> bytes:
    """Servers must take the absolute form, too (RFC 9112 3.2.2)."""
    absolute = _ABSOLUTE.match(target)
    if absolute:
        target = target[absolute.end():] or b"/"
    if not target.startswith(b"/"):
        raise BadHead(b"400 Bad Request")
    return target


def _content_length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not _LENGTH.fullmatch(value):
        raise BadHead(b"400 Bad Request")
    return int(value)
