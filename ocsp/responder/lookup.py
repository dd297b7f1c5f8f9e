"""From an OCSP request to the response that was signed for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ca.pki.issuer import read_issuer
from ca.pki.serial import SERIAL_BYTES
from ocsp.protocol.batch import HASHES, StoredResponse, read_value, store_key
from ocsp.protocol.request import CertId, MalformedRequest, parse_request
from ocsp.protocol.response import (
    INTERNAL_ERROR,
    MALFORMED_REQUEST,
    UNAUTHORIZED,
    HashName,
    ResponseTemplate,
    Times,
)
from ocsp.responder.store import StoredIssuer


class Values(Protocol):
    """Where stored values are."""

    def get(self, key: bytes) -> bytes | None:
        """The value under a key, None when there is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send: `times` of an authoritative response, None of an error."""

    body: bytes
    times: Times | None


MALFORMED: Final = Answer(MALFORMED_REQUEST, None)
INTERNAL: Final = Answer(INTERNAL_ERROR, None)
NOT_AUTHORIZED: Final = Answer(UNAUTHORIZED, None)


@dataclass(frozen=True, slots=True)
class _Asked:
    issuer_id: int
    index: int
    template: ResponseTemplate


class ResponseLookup:
    """Knows the issuers. A request in the form that clients send most is recognised by its first bytes."""

    def __init__(self, issuers: Sequence[StoredIssuer], values: Values) -> None:
        self._values = values
        self._by_hashes: dict[tuple[HashName, bytes, bytes], _Asked] = {}
        self._by_prefix: dict[bytes, _Asked] = {}
        for issuer in issuers:
            read = read_issuer(issuer.certificate)
            for index, name in enumerate(HASHES):
                template = ResponseTemplate(read, name)
                asked = _Asked(issuer.id, index, template)
                self._by_hashes[name, template.name_hash, template.key_hash] = asked
                self._by_prefix[template.canonical_request()[:-SERIAL_BYTES]] = asked

    def answer(self, request: bytes, now_s: int) -> Answer:
        """The response to a DER request; an error response when there is none to give."""
        asked = self._by_prefix.get(request[:-SERIAL_BYTES])
        if asked is not None:
            return self._find(asked, request[-SERIAL_BYTES:], now_s)
        try:
            cert_ids = parse_request(request).cert_ids
        except MalformedRequest:
            return MALFORMED
        return self._answer_parsed(cert_ids, now_s)

    def _answer_parsed(self, cert_ids: Sequence[CertId], now_s: int) -> Answer:
        """Two CertIDs of one certificate are answered by the first; different certificates are not answered."""
        first = cert_ids[0]
        if any(other.serial != first.serial for other in cert_ids):
            return NOT_AUTHORIZED
        asked = None if first.hash_name is None else self._by_hashes.get(
            (first.hash_name, first.name_hash, first.key_hash))
        if asked is None or len(first.serial) != SERIAL_BYTES:
            return NOT_AUTHORIZED
        return self._find(asked, first.serial, now_s)

    def _find(self, asked: _Asked, serial: bytes, now_s: int) -> Answer:
        value = self._values.get(store_key(asked.issuer_id, serial))
        if value is None:
            return NOT_AUTHORIZED
        stored: StoredResponse = read_value(value)
        if stored.not_after_s < now_s:
            return NOT_AUTHORIZED
        if stored.times.next_update_s < now_s:
            # Never an answer past its nextUpdate (RFC 9919): somebody has to look why it was not signed again.
            return INTERNAL
        return Answer(asked.template.response(serial, stored.status, stored.times, stored.signatures[asked.index]),
                      stored.times)
