"""The short way through the responder: from the bytes of plain HTTP requests to all bytes of their answers.

A canonical request differs from another for the same issuer and hash in its last 18 octets alone, the serial number. So
what stands before them, in base64 for a GET, is looked up in a table; clients send the same header fields again and
again, so everything behind the target of a GET, and the whole head of a POST, is remembered once it has been read
strictly. Serial numbers of many requests are decoded together, and their records found together (shortcut.py). Who
signed a stored value, its status, and how long its signature is, name the form of the response around it; thisUpdate
and nextUpdate name a span, what their responses have in common, the caching headers among it. What is not so plain is
left to the strict parsers, with the same result.
"""

import struct
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64, hexlify
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote_from_bytes

import numpy as np

from ca.pki.serial import SERIAL_BYTES
from ocsp.protocol.batch import RECORD_PARTS, RECORD_REVOKED_AT, BatchError, is_whole, value_at
from ocsp.protocol.response import generalized_time
from ocsp.responder.answers import ETAG_BYTES, Answers, Asked, Form
from ocsp.responder.memory import MemoryFault
from ocsp.responder.shortcut import (
    EMPTY_VIEW,
    HASH_AT,
    RESERVED_AT,
    START_OF_WORD,
    WRITTEN_AT,
    View,
)

Quick = Callable[[Sequence[bytes]], list[bytes | None]]

_MAX_REMEMBERED: Final = 512
_MAX_REMEMBERED_BYTES: Final = 1_024
_END_OF_HEAD: Final = b"\r\n\r\n"
_TWO_DIGITS: Final = tuple(b"%02d" % number for number in range(60))
# Of a GET: all before the serial number with the shorter hash and nothing escaped, which no two issuers have in common.
_TARGET_BYTES: Final = 93
_AT_ONCE: Final = 128

# Serial numbers are decoded from text like that of the shorter hash: its length in DER, 18 octets, and what fills up.
_LEAD: Final = bytes((SERIAL_BYTES,))
_FILLER: Final = b"AA"
_TEXT_BYTES: Final = 26
_DECODED_BYTES: Final = len(_LEAD) + SERIAL_BYTES + 2
_NOBODYS_TEXT: Final = b64encode(_LEAD + bytes(SERIAL_BYTES))[:_TEXT_BYTES]
_HASHES: Final = np.dtype({"names": ["hash"], "formats": ["<i8"], "offsets": [len(_LEAD) + HASH_AT],
                           "itemsize": _DECODED_BYTES})

# How a record is read, forms, how keys end, who is asked
_Subject = tuple[Callable[..., tuple[Any, ...]], dict[bytes, Form], bytes, Asked | None]
_NOBODY: Final[_Subject] = (RECORD_PARTS[0], {}, b"", None)
# What the start of the request has behind _TARGET_BYTES up to the serial number's base64; the length of that start;
# what stands behind that base64, escaped and not; what it decodes to before the serial number, if that is not the same
# as with the shorter hash; who is asked
_Target = tuple[bytes, int, bytes, bytes, bytes, _Subject]


class KnownHeads:
    """What has been read strictly and found plain: `tails` of GETs, behind the target and a space, and heads of `posts`
    without their empty line, with the length of the body.
    """

    def __init__(self) -> None:
        self.tails: dict[bytes, bool] = {}
        self.posts: dict[bytes, int] = {}

    def remember_tail(self, tail: bytes) -> None:
        """What stood behind the target of a plain GET and a space."""
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
    """`quick(requests)`: to each whole request its answer; None for what is not so plain.

    One closure for all clients that sent something, because calls and attribute look-ups are a third of what an answer
    costs. All serial numbers are decoded together, in between.
    """
    canonical = {fixed: _subject(asked) for fixed, asked in answers.canonical.items()}
    target_of, subject_of = _targets(canonical).get, canonical.get
    tails, length_of = known.tails, known.posts.get
    compose = _make_compose(answers)

    def quick(requests: Sequence[bytes]) -> list[bytes | None]:
        count = len(requests)
        if count > _AT_ONCE:
            return quick(requests[:_AT_ONCE]) + quick(requests[_AT_ONCE:])
        texts: list[bytes] = []
        subjects: list[_Subject] = []
        for data in requests:
            target = target_of(data[:_TARGET_BYTES])
            if target is not None:
                more, length, behind, unescaped, lead, subject = target
                text, _, tail = data[length:].partition(behind)
                if tail not in tails:
                    text, _, tail = data[length:].partition(unescaped)
                if tail in tails and (not more or data.startswith(more, _TARGET_BYTES)):
                    # Many clients escape what base64 has besides letters and digits.
                    if len(text) != _TEXT_BYTES:
                        text = text.replace(b"%2B", b"+").replace(b"%2F", b"/")
                    if lead:
                        text = _alike(text, lead)
                    if len(text) == _TEXT_BYTES:
                        texts.append(text)
                        subjects.append(subject)
                        continue
            else:
                end = data.find(_END_OF_HEAD)
                if length_of(data[:end]) == len(data) - end - 4:
                    found = subject_of(data[end + 4:-SERIAL_BYTES])
                    if found is not None:
                        texts.append(b2a_base64(_LEAD + data[-SERIAL_BYTES:])[:_TEXT_BYTES])
                        subjects.append(found)
                        continue
            texts.append(_NOBODYS_TEXT)
            subjects.append(_NOBODY)
        try:
            decoded = a2b_base64(_FILLER.join(texts) + _FILLER, strict_mode=True)
        except Base64Error:
            decoded = b""
        serials_of, leads, zeros = _unpackers(count)
        if len(decoded) != _DECODED_BYTES * count or decoded[::_DECODED_BYTES] != leads or (
                decoded[-2::-_DECODED_BYTES] != zeros or decoded[-1::-_DECODED_BYTES] != zeros):
            # One of them is not as it has to be; the others do not suffer for it.
            return [None] if count == 1 else [answer for data in requests for answer in quick((data,))]
        return compose(subjects, serials_of(decoded), decoded)

    return quick


def _subject(asked: Asked) -> _Subject:
    return RECORD_PARTS[asked.hash_index], asked.forms, asked.key_suffix, asked


def _targets(canonical: dict[bytes, _Subject]) -> dict[bytes, _Target]:
    """How a GET for each issuer and hash begins, escaped and unescaped."""
    found: dict[bytes, _Target] = {}
    for fixed, subject in canonical.items():
        whole = len(fixed) // 3 * 3         # octets whose base64 has nothing of the serial number
        lead, text = fixed[whole:], b64encode(fixed[:whole])
        padding = b"=" * (-(len(lead) + SERIAL_BYTES) % 3)
        for form in (quote_from_bytes(text, safe="").encode("ascii"), text):
            start = b"GET /" + form
            found.setdefault(start[:_TARGET_BYTES], (
                start[_TARGET_BYTES:], len(start), padding.replace(b"=", b"%3D") + b" ", padding + b" ",
                b"" if lead == _LEAD else lead, subject))
    return found


def _alike(text: bytes, lead: bytes) -> bytes:
    """A serial number's base64 as it would be with the shorter hash; empty where it is none."""
    try:
        whole = a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except Base64Error:
        return b""
    if len(whole) != len(lead) + SERIAL_BYTES or not whole.startswith(lead):
        return b""
    return b2a_base64(_LEAD + whole[len(lead):])[:_TEXT_BYTES]


@lru_cache(maxsize=_AT_ONCE)
def _unpackers(count: int) -> tuple[Callable[[bytes], tuple[bytes, ...]], bytes, bytes]:
    """How so many serial numbers are taken out of what was decoded; what is before and behind them."""
    before, behind = len(_LEAD), _DECODED_BYTES - len(_LEAD) - SERIAL_BYTES
    return struct.Struct(f"{before}x{SERIAL_BYTES}s{behind}x" * count).unpack, _LEAD * count, bytes(count)


@lru_cache(maxsize=_AT_ONCE)
def _hashes_of(count: int) -> Callable[[bytes], tuple[int, ...]]:
    """The same for their hashes."""
    hash_at = len(_LEAD) + HASH_AT
    return struct.Struct("<" + f"{hash_at}xQ{_DECODED_BYTES - hash_at - 8}x" * count).unpack


def _at_hand(view: View, decoded: bytes, count: int) -> tuple[Any, Sequence[int]]:
    """Where the records of these serial numbers most probably are: in what, and where in it."""
    if count >= view.gathered_from:
        size = view.record_bytes
        return view.gather(np.frombuffer(decoded, _HASHES)["hash"]), range(0, count * size, size)
    slots, mask = view.slots, view.mask
    return view.ring, [slots[hashed & mask] & START_OF_WORD for hashed in _hashes_of(count)(decoded)]


def _make_compose(answers: Answers) -> Callable[[list[_Subject], tuple[bytes, ...], bytes], list[bytes | None]]:
    """The second half of `quick`: looks up serial numbers and puts together their answers."""
    memory, second, make_form, span_of = answers.memory, answers.second, answers.make_form, answers.spans.get

    def compose_with(view: View, subjects: list[_Subject], serials: tuple[bytes, ...], decoded: bytes
                     ) -> list[bytes | None]:
        at_hand, starts = _at_hand(view, decoded, len(serials))
        record_bytes = view.record_bytes
        get, date_and_etag, now_s = memory.get, second.date_and_etag, second.now_s
        composed: list[bytes | None] = []
        append = composed.append
        for (unpack, forms, suffix, asked), serial, start in zip(subjects, serials, starts, strict=True):
            source = at_hand
            found, shape, minute, in_minute, times, not_after_s = unpack(source, start)
            # A serial number alone does not say whose it is: the shape, by which the form is found, begins with that.
            if found != serial:
                key = serial + suffix
                source, start = view.ring, view.find(key)
                if start < 0:
                    value = get(key)
                    if value is None or not is_whole(value):
                        append(None)
                        continue
                    source, start = key + value, 0
                _, shape, minute, in_minute, times, not_after_s = unpack(source, start)
            form, span = forms.get(shape), span_of(times)
            if form is None or span is None or span[0] <= now_s:
                made = None
                if asked is not None and shape.startswith(suffix):
                    with suppress(BatchError, MemoryFault):     # of this value, which the strict way will meet again
                        made = make_form(asked, value_at(source, start), shape, times)
                if made is None:
                    append(None)
                    continue
                form, span = made
            behind_etag, seconds, upto_revoked, upto_this_update, after, signature_at, end, tail = form
            if not_after_s < now_s or end > record_bytes:
                append(None)
                continue
            if upto_revoked:
                revoked_at_s, = RECORD_REVOKED_AT(source, start)
                upto_this_update = upto_revoked + generalized_time(revoked_at_s) + upto_this_update
            _, lines, upto_minute, this_to_next = span
            signature = source[start + signature_at:start + end]
            append(b"".join((
                lines, date_and_etag, hexlify(signature[-ETAG_BYTES:]), behind_etag, upto_minute, _TWO_DIGITS[minute],
                seconds[in_minute], serial, upto_this_update, this_to_next, after, signature, tail)))
        return composed

    def compose(subjects: list[_Subject], serials: tuple[bytes, ...], decoded: bytes) -> list[bytes | None]:
        view = memory.view
        header = view.header
        written = header[WRITTEN_AT]
        try:
            composed = compose_with(view, subjects, serials, decoded)
            if header[RESERVED_AT] != written:      # perhaps over what has just been read
                composed = compose_with(EMPTY_VIEW, subjects, serials, decoded)
        except MemoryFault:
            return [None] * len(serials)
        return composed

    return compose
