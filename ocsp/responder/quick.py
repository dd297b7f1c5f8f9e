"""The short way through the responder: from the bytes of a plain HTTP request to all bytes of its answer.

A canonical request differs from another for the same issuer and hash in its last 18 octets alone, the serial number. So
what stands before them, in base64 for a GET, is looked up in a table; clients send the same header fields again and
again, so everything behind the target of a GET, and the whole head of a POST, is remembered once it has been read
strictly. The stored value's first bytes (its times, the length of its signature) name the template and the HTTP header
around it. What is not so plain is left to the strict parsers, with the same result.
"""

from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64, hexlify
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_from_bytes

from ca.pki.serial import SERIAL_BYTES
from ocsp.protocol.batch import VALUE_FLAGS, VALUE_NOT_AFTER, VALUE_REVOKED_AT
from ocsp.protocol.response import generalized_time
from ocsp.responder.answers import ETAG_BYTES, Answers, Asked
from ocsp.responder.memory import MemoryFault

Quick = Callable[[bytes], bytes | None]

_MAX_REMEMBERED: Final = 512
_MAX_REMEMBERED_BYTES: Final = 1_024
_END_OF_HEAD: Final = b"\r\n\r\n"
_REVOKED_FORM: Final = slice(VALUE_FLAGS, VALUE_FLAGS + 2)
# Of a GET: most of the issuer's hashes, whichever characters are escaped, and nothing of the serial number.
_ISSUER: Final = slice(32, 93)

# The start of the request up to the serial number's base64, its length, the length of an unescaped rest, what the rest
# decodes to before the serial number, how much that is, how much it is in all
_Target = tuple[bytes, int, int, bytes, int, int, Asked]


class KnownHeads:
    """What has been read strictly and found plain: `tails` of GETs, from the space behind the target on, and heads of
    `posts` without their empty line, with the length of the body.
    """

    def __init__(self) -> None:
        self.tails: dict[bytes, bool] = {}
        self.posts: dict[bytes, int] = {}

    def remember_tail(self, tail: bytes) -> None:
        """What stood behind the target of a plain GET."""
        if len(tail) <= _MAX_REMEMBERED_BYTES:
            if len(self.tails) >= _MAX_REMEMBERED:
                self.tails.clear()
            self.tails[tail] = True

    def remember_post(self, head: bytes, content_length: int) -> None:
        """The head of a plain POST."""
        if len(head) <= _MAX_REMEMBERED_BYTES:
            if len(self.posts) >= _MAX_REMEMBERED:
                self.posts.clear()
            self.posts[head] = content_length


def make_quick(answers: Answers, known: KnownHeads) -> Quick:
    """`quick(data)`: the answer to one whole request; None for everything that is not so plain.

    One closure, because calls and attribute look-ups are a third of what an answer costs.
    """
    target_of, asked_of = _targets(answers).get, answers.canonical.get
    tails, length_of = known.tails, known.posts.get
    memory, second, make_form = answers.memory, answers.second, answers.make_form

    def quick(data: bytes) -> bytes | None:
        target = target_of(data[_ISSUER])
        if target is not None:
            start, length, plain, lead, skip, size, asked = target
            end = data.find(b" ", length)
            if not data.startswith(start) or data[end:] not in tails:
                return None
            text = data[length:end]
            if len(text) != plain:          # many clients escape what base64 has besides letters and digits
                text = text.replace(b"%2B", b"+").replace(b"%2F", b"/").replace(b"%3D", b"=")
            try:
                serial = a2b_base64(text, strict_mode=True)
            except Base64Error:
                return None
            if len(serial) != size or not serial.startswith(lead):
                return None
            serial = serial[skip:]
        else:
            end = data.find(_END_OF_HEAD)
            if length_of(data[:end]) != len(data) - end - 4:
                return None
            found = asked_of(data[end + 4:-SERIAL_BYTES])
            if found is None:
                return None
            asked, serial = found, data[-SERIAL_BYTES:]
        key_prefix, form_of_value, forms = asked.hot
        try:
            value = memory.get(key_prefix + serial)
        except MemoryFault:
            return None
        if value is None or value[VALUE_NOT_AFTER] < second.big_endian:
            return None
        shape = value[form_of_value]
        if value[VALUE_FLAGS]:
            shape += value[_REVOKED_FORM]
        form = forms.get(shape)
        if form is None or form[0] <= second.now_s:
            form = make_form(asked, value, shape)
            if form is None:
                return None
        _, head, before, after, behind, where, tail = form
        signature = value[where]
        etag = hexlify(signature[-ETAG_BYTES:])
        if not behind:
            return b"".join((head, second.date_and_etag, etag, before, serial, after, signature, tail))
        revoked = generalized_time(int.from_bytes(value[VALUE_REVOKED_AT], "big"))
        return b"".join((head, second.date_and_etag, etag, before, serial, after, revoked, behind, signature, tail))

    return quick


def _targets(answers: Answers) -> dict[bytes, _Target]:
    """How a GET for each issuer and hash begins, unescaped and escaped."""
    found: dict[bytes, _Target] = {}
    for fixed, asked in answers.canonical.items():
        whole = len(fixed) // 3 * 3         # octets whose base64 has nothing of the serial number
        lead, text = fixed[whole:], b64encode(fixed[:whole])
        size = len(lead) + SERIAL_BYTES
        for form in {text, quote_from_bytes(text, safe="").encode("ascii")}:
            start = b"GET /" + form
            found.setdefault(start[_ISSUER], (start, len(start), -(-size // 3) * 4, lead, len(lead), size, asked))
    return found
