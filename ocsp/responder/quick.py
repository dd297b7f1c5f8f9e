"""The short way through the responder: from the bytes of plain HTTP requests to all bytes of their answers.

A canonical request differs from another for the same issuer and hash in its last 18 octets alone, the serial number. So
what stands before them, in base64 for a GET, is looked up in a table; clients send the same header fields again and
again, so everything behind the target of a GET, and the whole head of a POST, is remembered once it has been read
strictly. Who signed a stored value, and how long its signature is, name the form of the response around it; thisUpdate
and nextUpdate name what the responses of one minute have in common, the caching headers among them. What is not so
plain is left to the strict parsers, with the same result.
"""

from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64, hexlify
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote_from_bytes

from ca.pki.serial import SERIAL_BYTES
from ocsp.protocol.batch import (
    KEY_BYTES,
    VALUE_FLAGS,
    VALUE_FORM,
    VALUE_MINUTE,
    VALUE_NOT_AFTER,
    VALUE_PRODUCED,
    VALUE_REVOKED_AT,
    VALUE_SECOND_LENGTH,
    BatchError,
    in_record,
)
from ocsp.protocol.response import generalized_time
from ocsp.responder.answers import Answers, Asked
from ocsp.responder.memory import MemoryFault

Quick = Callable[[Sequence[bytes]], list[bytes | None]]

_MAX_REMEMBERED: Final = 512
_MAX_REMEMBERED_BYTES: Final = 1_024
_END_OF_HEAD: Final = b"\r\n\r\n"
# Of a record, which is a key and its value.
_FLAGS: Final = KEY_BYTES + VALUE_FLAGS
_FORM: Final = in_record(VALUE_FORM)
_SECOND_LENGTH: Final = in_record(VALUE_SECOND_LENGTH)
_MINUTE: Final = in_record(VALUE_MINUTE)
_REVOKED_FORM: Final = slice(_FLAGS, _FLAGS + 2)
_REVOKED_AT: Final = in_record(VALUE_REVOKED_AT)
_NOT_AFTER: Final = in_record(VALUE_NOT_AFTER)
_PRODUCED: Final = KEY_BYTES + VALUE_PRODUCED
_SECONDS: Final = tuple(b"%02dZ" % second for second in range(60))      # of a GeneralizedTime
# No certificate's: there is nothing to look up.
_NO_KEY: Final = bytes(KEY_BYTES)
# Of a GET: all before the serial number with the shorter hash and nothing escaped, which no two issuers have in common.
_TARGET_BYTES: Final = 93

# What the start of the request has behind _TARGET_BYTES up to the serial number's base64; the length of that start;
# where an unescaped rest is, and what follows it; what the rest decodes to before the serial number, how much in all
_Target = tuple[bytes, int, slice, slice, bytes, int, Asked]


class KnownHeads:
    """What has been read strictly and found plain: `tails` of GETs, from the space behind the target on, and heads of
    `posts` without their empty line, with the length of the body.
    """

    def __init__(self) -> None:
        self.tails: dict[bytes, bool] = {}
        self.posts: dict[bytes, int] = {}

    def remember_tail(self, tail: bytes) -> None:
        """What stood behind the target of a plain GET and a space."""
        if len(tail) <= _MAX_REMEMBERED_BYTES:
            if len(self.tails) >= _MAX_REMEMBERED:
                self.tails.clear()
            self.tails[b" " + tail] = True

    def remember_post(self, head: bytes, content_length: int) -> None:
        """The head of a plain POST."""
        if len(head) <= _MAX_REMEMBERED_BYTES:
            if len(self.posts) >= _MAX_REMEMBERED:
                self.posts.clear()
            self.posts[head] = content_length


def make_quick(answers: Answers, known: KnownHeads) -> Quick:
    """`quick(requests)`: to each whole request its answer; None for what is not so plain.

    One closure for all clients that sent something, because calls and attribute look-ups are a third of what an answer
    costs. All values are looked up together, in between.
    """
    target_of, asked_of = _targets(answers).get, answers.canonical.get
    tails, length_of = known.tails, known.posts.get
    memory, second, make_form = answers.memory, answers.second, answers.make_form
    minute_of = answers.minutes.get

    def unescaped(data: bytes, start: int) -> bytes:
        text, space, tail = data[start:].partition(b" ")
        return text.replace(b"%2B", b"+").replace(b"%2F", b"/").replace(b"%3D", b"=") if space + tail in tails else b""

    def quick(requests: Sequence[bytes]) -> list[bytes | None]:
        keys: list[bytes] = []
        subjects: list[tuple[Asked, bytes] | None] = []
        for data in requests:
            target = target_of(data[:_TARGET_BYTES])
            if target is not None:
                more, length, text_at, tail_at, lead, size, asked = target
                text = data[text_at]
                # Many clients escape what base64 has besides letters and digits.
                if (data[tail_at] in tails or (text := unescaped(data, length))) and (
                        not more or data.startswith(more, _TARGET_BYTES)):
                    try:
                        whole = a2b_base64(text, strict_mode=True)
                    except Base64Error:
                        whole = b""
                    if len(whole) == size:
                        serial = whole.removeprefix(lead)
                        if len(serial) == SERIAL_BYTES:
                            keys.append(asked.key_prefix + serial)
                            subjects.append((asked, serial))
                            continue
            else:
                end = data.find(_END_OF_HEAD)
                if length_of(data[:end]) == len(data) - end - 4:
                    found = asked_of(data[end + 4:-SERIAL_BYTES])
                    if found is not None:
                        serial = data[-SERIAL_BYTES:]
                        keys.append(found.key_prefix + serial)
                        subjects.append((found, serial))
                        continue
            keys.append(_NO_KEY)
            subjects.append(None)
        try:
            records = memory.look_up(keys)
        except MemoryFault:
            return [None] * len(keys)
        date_and_etag, now, now_s = second.date_and_etag, second.big_endian, second.now_s
        found_answers: list[bytes | None] = []
        append = found_answers.append
        for subject, record in zip(subjects, records, strict=True):
            if subject is None or record is None or record[_NOT_AFTER] < now:
                append(None)
                continue
            asked, serial = subject
            shape = record[_FORM]
            if asked.has_two_lengths:
                shape += record[_SECOND_LENGTH]
            if record[_FLAGS]:
                shape += record[_REVOKED_FORM]
            form, minute = asked.forms.get(shape), minute_of(record[_MINUTE])
            if form is None or minute is None or minute[0] <= now_s:
                try:
                    made = make_form(asked, record, shape)
                except (BatchError, MemoryFault):   # of this value, which the strict way will meet again
                    made = None
                if made is None:
                    append(None)
                    continue
                form, minute = made
            least, head, before, upto_serial, upto_revoked, upto_this_update, after, signature, etag, tail = form
            if len(record) < least:
                append(None)
                continue
            try:
                produced = _SECONDS[record[_PRODUCED]]
            except IndexError:
                append(None)
                continue
            if upto_revoked:
                upto_this_update = (
                    upto_revoked + generalized_time(int.from_bytes(record[_REVOKED_AT], "big")) + upto_this_update)
            _, caching, upto_second, this_to_next = minute
            append(b"".join((
                head, caching, date_and_etag, hexlify(record[etag]), before, upto_second, produced, upto_serial, serial,
                upto_this_update, this_to_next, after, record[signature], tail)))
        return found_answers

    return quick


def _targets(answers: Answers) -> dict[bytes, _Target]:
    """How a GET for each issuer and hash begins, unescaped and escaped."""
    found: dict[bytes, _Target] = {}
    for fixed, asked in answers.canonical.items():
        whole = len(fixed) // 3 * 3         # octets whose base64 has nothing of the serial number
        lead, text = fixed[whole:], b64encode(fixed[:whole])
        size = len(lead) + SERIAL_BYTES
        plain = -(-size // 3) * 4
        for form in {text, quote_from_bytes(text, safe="").encode("ascii")}:
            start = b"GET /" + form
            found.setdefault(start[:_TARGET_BYTES], (
                start[_TARGET_BYTES:], len(start), slice(len(start), len(start) + plain),
                slice(len(start) + plain, None), lead, size, asked))
    return found
