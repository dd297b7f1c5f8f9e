"""From a DER request to a response, by the strict parser; and what the short way (quick.py) puts its answers together
from: for each issuer and hash the bytes around a serial number and a signature.
"""

from binascii import hexlify
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from ca.pki.issuer import Issuer, read_issuer
from ca.pki.serial import SERIAL_BYTES
from ocsp.protocol.batch import (
    HASHES,
    KEY_BYTES,
    VALUE_BYTES,
    read_value,
    store_key,
)
from ocsp.protocol.request import CertId, MalformedRequest, parse_request
from ocsp.protocol.response import (
    INTERNAL_ERROR,
    MALFORMED_REQUEST,
    TRY_LATER,
    UNAUTHORIZED,
    HashName,
    ResponseTemplate,
    Times,
    generalized_time,
)
from ocsp.protocol.schedule import may_be_new, moment
from ocsp.responder.http_text import Second
from ocsp.responder.memory import MemoryFault, ResponseMemory, decode_issuers
from ocsp.responder.store import StoredIssuer

SUCCESS_LINES: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n"
LENGTH_LINE: Final = b"Content-Length: %d\r\n"
_BEHIND_ETAG: Final = b'"\r\n' + LENGTH_LINE + b"\r\n"
ETAG_BYTES: Final = 16
_IN_HOUR_BYTES: Final = len(b"MMSSZ")
_T = TypeVar("_T")
# thisUpdate is the begun hour in most responses, of which there are 60 before they are signed again, and else a minute.
MAX_SPANS: Final = 8_192
_MAX_FORMS: Final = 4_096
_HOUR_S: Final = 3_600

# from behind the ETag up to producedAt; what is behind its minute for each second, up to the serial number; behind that
# up to the time of revocation, nothing for good; from behind these up to thisUpdate; behind nextUpdate up to the
# signature; where in the record the signature is; what is behind it
Form = tuple[bytes, tuple[bytes, ...], bytes, bytes, bytes, int, int, bytes]
# until when it holds; the start of the HTTP head; producedAt up to its minute; thisUpdate to nextUpdate
Span = tuple[int, bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """An OCSPResponse; with times it is a success and may be cached. `is_live`: it was made for this request alone."""

    body: bytes
    times: Times | None
    status: bytes = b"200 OK"
    headers: bytes = b""
    signature: bytes = b""
    is_revoked: bool = False
    is_live: bool = False

    @property
    def etag(self) -> bytes:
        """Strong: the end of the signature, which is over all of the response that varies."""
        return b'"' + hexlify(self.signature[-ETAG_BYTES:]) + b'"'


MALFORMED: Final = Answer(MALFORMED_REQUEST, None, b"400 Bad Request")
INTERNAL: Final = Answer(INTERNAL_ERROR, None, b"500 Internal Server Error")
LATER: Final = Answer(TRY_LATER, None, b"503 Service Unavailable", b"Retry-After: 5\r\n")
NOT_AUTHORIZED: Final = Answer(UNAUTHORIZED, None)
# The same, when the certificate may have been issued a moment ago and its response be under way.
NOT_YET_KNOWN: Final = Answer(UNAUTHORIZED, None)


@dataclass(frozen=True, slots=True)
class Asked:
    """One issuer under one CertID hash. `forms` are kept for every shape of response that was asked for, `templates`
    for everyone who signs: 0 is the issuer itself, others are delegated responders."""

    issuer: Issuer
    key_suffix: bytes
    hash_index: int
    templates: dict[int, ResponseTemplate]
    forms: dict[bytes, Form]

    @property
    def issuer_id(self) -> int:
        """In the database."""
        return int.from_bytes(self.key_suffix, "big")


class _SignerUnknown(Exception):
    """The certificate of the responder that signed is not in the memory, where it has to be before its responses."""


class Answers:
    """Knows the issuers. `past_next_update` counts answers that were withheld because nobody signed them again."""

    def __init__(self, issuers: Sequence[StoredIssuer], memory: ResponseMemory, second: Second) -> None:
        self.memory = memory
        self.second = second
        self._by_hashes: dict[tuple[HashName, bytes, bytes], Asked] = {}
        self.canonical: dict[bytes, Asked] = {}     # by what a canonical request has before the serial number
        self.past_next_update = 0
        self.spans: dict[bytes, Span] = {}          # by thisUpdate and nextUpdate
        self.max_spans = MAX_SPANS
        for issuer in issuers:
            read = read_issuer(issuer.certificate)
            for index, name in enumerate(HASHES):
                template = ResponseTemplate(read, name)
                asked = Asked(read, store_key(issuer.id, b""), index, {0: template}, {})
                self._by_hashes[name, template.name_hash, template.key_hash] = asked
                self.canonical[template.canonical_request()[:-SERIAL_BYTES]] = asked

    def make_form(self, asked: Asked, value: bytes, shape: bytes, times: bytes) -> tuple[Form, Span] | None:
        """What responses with this status, signer and length of signature share, and what those of the same times do;
        None when they have ended, or were not produced in the hour of thisUpdate.

        A span holds for as long as max-age, which counts down to the end of the response's life, is what it is now.
        """
        stored, second = read_value(value), self.second
        size, when = len(stored.signatures[asked.hash_index]), stored.times
        if when.next_update_s < second.now_s or when.produced_at_s // _HOUR_S != when.this_update_s // _HOUR_S:
            return None
        try:
            template = self._template(asked, stored.responder_id)
        except _SignerUnknown:
            return None
        produced, this_update, next_update = map(
            generalized_time, (when.produced_at_s, when.this_update_s, when.next_update_s))
        before, after = template.around(stored.status, when, size)
        body_bytes = len(before) + SERIAL_BYTES + len(after) + size + len(template.tail)
        before, _, upto_serial = before.partition(produced)
        upto_revoked = b""
        if stored.status.revoked_at_s is not None:
            upto_revoked, _, after = after.partition(generalized_time(stored.status.revoked_at_s))
        upto_this_update, _, after = after.partition(this_update)
        between, _, after = after.partition(next_update)
        start = KEY_BYTES + VALUE_BYTES + sum(map(len, stored.signatures[:asked.hash_index]))
        form = (_BEHIND_ETAG % body_bytes + before, tuple(b"%02dZ" % at + upto_serial for at in range(60)),
                upto_revoked, upto_this_update, after, start, start + size, template.tail)
        span = (max(second.now_s + 1, second.full_age_until_s(when)), SUCCESS_LINES + second.cache_headers(when),
                produced[:-_IN_HOUR_BYTES], this_update + between + next_update)
        _keep(asked.forms, shape, form, _MAX_FORMS)
        _keep(self.spans, times, span, self.max_spans)
        return form, span

    def _template(self, asked: Asked, responder_id: int) -> ResponseTemplate:
        found = asked.templates.get(responder_id)
        if found is None:
            certificate = dict(decode_issuers(self.memory.responders())).get(responder_id)
            if certificate is None:
                raise _SignerUnknown
            found = ResponseTemplate(asked.issuer, HASHES[asked.hash_index], read_issuer(certificate))
            asked.templates[responder_id] = found
        return found

    def asked(self, cert_id: CertId) -> Asked | None:
        """The issuer that a CertID names; None for another CA's, and for a hash that is not answered."""
        return None if cert_id.hash_name is None else self._by_hashes.get(
            (cert_id.hash_name, cert_id.name_hash, cert_id.key_hash))

    def answer(self, request: bytes) -> Answer:
        """The response to any request; an error response when there is none to give."""
        try:
            cert_ids = parse_request(request).cert_ids
        except MalformedRequest:
            return MALFORMED
        try:
            return self._answer_parsed(cert_ids)
        except MemoryFault:
            self.memory.distrust()
            return INTERNAL

    def _answer_parsed(self, cert_ids: Sequence[CertId]) -> Answer:
        """Two CertIDs of one certificate are answered by the first; two certificates are not answered together."""
        first = cert_ids[0]
        asked = self.asked(first)
        if asked is None or len(first.serial) != SERIAL_BYTES:
            return NOT_AUTHORIZED
        for other in cert_ids[1:]:
            of_other = self.asked(other)
            if of_other is None or of_other.key_suffix != asked.key_suffix or other.serial != first.serial:
                return NOT_AUTHORIZED
        value = self.memory.get(first.serial + asked.key_suffix)
        if value is None:
            # While the log is still being read nobody knows which serial numbers were given out.
            if not self.memory.complete:
                return LATER
            return NOT_YET_KNOWN if may_be_new(first.serial, moment(self.second.now_s)) else NOT_AUTHORIZED
        stored = read_value(value)
        if stored.not_after_s < self.second.now_s:
            return NOT_AUTHORIZED
        if stored.times.next_update_s < self.second.now_s:
            self.past_next_update += 1
            return INTERNAL
        try:
            template = self._template(asked, stored.responder_id)
        except _SignerUnknown:
            return LATER
        signature = stored.signatures[asked.hash_index]
        return Answer(template.response(first.serial, stored.status, stored.times, signature), stored.times,
                      signature=signature, is_revoked=stored.status.revoked_at_s is not None)


def _keep(found: dict[bytes, _T], key: bytes, one: _T, most: int) -> None:
    """When there are too many, some are forgotten that were made first: their responses are the next to be signed
    again."""
    found.pop(key, None)
    if len(found) >= most:
        for old in list(islice(found, most // 8)):
            del found[old]
    found[key] = one
