"""Live mode's signer (spec/pki.md 5.9): questions of responders, each answered in the transaction that read the status.

A round claims what waits, at most the twenty that there can be, reads what the authority says of each certificate,
signs, looks once more whether anything has been revoked meanwhile, and gives the responses back. Two kinds are signed:

- what has a nonce, or is about several certificates: good or revoked, as it is, or unknown;
- what has no nonce and is about one serial number: unknown, and nothing else. A pre-signed response fits the rest.

Nothing is signed, and the responder says what it says without live mode, when any of the certificates has expired, is
another issuer's or is of a profile without OCSP, or when the serial number is of a time of which nothing is kept any
more. Whatever a responder asks for, it gets no status but the true one; and however often one asks that was broken into
and keeps no limit, no more is signed than `live_per_s` says here as well.
"""

from collections import defaultdict
from collections.abc import Sequence
from time import monotonic
from typing import Final

from ca.process.postgres import Connection
from ocsp.presign import live_store
from ocsp.presign.gate import LaneName
from ocsp.presign.live_store import Asked
from ocsp.presign.round import Claimed, Presigner
from ocsp.presign.signer import IssuerSigner, require_signature
from ocsp.presign.store import StatusOfCertificate
from ocsp.protocol.live import live_tbs, may_be_forgotten
from ocsp.protocol.rates import Rates
from ocsp.protocol.response import GOOD, CertStatus, Times
from ocsp.protocol.schedule import SHORTEST_LIFE, response_times

_AT_ONCE: Final = 20
# The shortest that BR 4.9.9 allows: whoever wants another one asks again.
_LIFE: Final = SHORTEST_LIFE


class LiveRound:
    """One transaction's questions; `rates` are those of the process."""

    def __init__(self, presigner: Presigner, rates: Rates) -> None:
        self._presigner = presigner
        self._rates = rates
        self._now = presigner.ambient.now()         # before any status is read
        self._asked: list[Asked] = []
        self._answered: set[bytes] = set()
        self._signed: dict[bytes, list[tuple[bytes, CertStatus | None]]] = {}

    async def claim(self, connection: Connection, limit: int) -> Claimed:
        """Locks questions, and reads the statuses."""
        self._asked = await live_store.claim(connection, self._presigner.able(self._now), min(limit, _AT_ONCE))
        return Claimed(len(self._asked), limit)

    async def work(self, connection: Connection) -> None:
        """Signs what may be signed, and answers all."""
        unknown = any(status is None for asked in self._asked for status in asked.found)
        oldest_kept = await live_store.oldest_kept(connection) if unknown else b""
        by_issuer: dict[int, list[Asked]] = defaultdict(list)
        for asked in self._asked:
            statuses = self._statuses(asked, oldest_kept)
            if statuses is not None and self._rates.take(b"", monotonic()):
                self._signed[asked.id] = statuses
                by_issuer[asked.question.issuer_id].append(asked)
        responses: dict[bytes, bytes] = {}
        for issuer_id, some in by_issuer.items():
            responses |= await self._sign(self._presigner.signers[issuer_id], some)
        told = [(asked.id, serial, 0 if status is None else status.version)
                for asked in self._asked if asked.id in responses
                for (_, serial), status in zip(asked.question.cert_ids, asked.found, strict=True)]
        self._answered = await live_store.answer(
            connection, [(asked.id, responses.get(asked.id)) for asked in self._asked], told)

    def committed(self) -> bool:
        """BR 5.4.1: a line for what was given out, and which status each serial number got. What was revoked meanwhile
        is claimed again."""
        issuers = {asked.id: self._presigner.signers[asked.question.issuer_id].name for asked in self._asked}
        for question_id, statuses in self._signed.items():
            if question_id in self._answered:
                self._presigner.log.info(
                    "signed", audit=True, lane="live", issuer=issuers[question_id], count=1,
                    statuses=" ".join(f"{serial.hex()}:{_status_name(status)}" for serial, status in statuses))
        return len(self._answered) < len(self._asked)

    def _statuses(self, asked: Asked, oldest_kept: bytes) -> list[tuple[bytes, CertStatus | None]] | None:
        """What is told of each serial number, None being `unknown`; nothing when the question is not answered."""
        if not asked.has_ocsp:
            return None
        told: list[tuple[bytes, CertStatus | None]] = []
        for (_, serial), found in zip(asked.question.cert_ids, asked.found, strict=True):
            if found is None:
                if may_be_forgotten(serial, oldest_kept):
                    return None
                told.append((serial, None))
            elif self._may_tell(asked, found):
                told.append((serial, GOOD if found.revoked_at_s is None else
                             CertStatus(revoked_at_s=found.revoked_at_s, reason=found.reason)))
            else:
                return None
        return told

    def _may_tell(self, asked: Asked, found: StatusOfCertificate) -> bool:
        return (asked.question.may_tell_known and found.issuer_id == asked.question.issuer_id
                and found.not_after_s >= self._now.timestamp())

    async def _sign(self, signer: IssuerSigner, some: Sequence[Asked]) -> dict[bytes, bytes]:
        """Question -> response. Every signature is verified: there are few. Raises SignatureFault, HsmError."""
        times = self._times(signer)
        messages = [live_tbs(
            signer.templates[0],
            [(signer.templates[number].cert_id(serial), status) for (number, _), (serial, status) in zip(
                asked.question.cert_ids, self._signed[asked.id], strict=True)], times, asked.question.nonce)
            for asked in some]
        signatures = await self._presigner.gate.sign(LaneName.LIVE, signer.key, messages)
        for message, signature in zip(messages, signatures, strict=True):
            require_signature(signer, signature, message)
        return {asked.id: signer.templates[0].enclose(message, signature)
                for asked, message, signature in zip(some, messages, signatures, strict=True)}

    def _times(self, signer: IssuerSigner) -> Times:
        return response_times(self._now, life=_LIFE, signer_not_after=signer.not_after)


def _status_name(status: CertStatus | None) -> str:
    if status is None:
        return "unknown"
    return "good" if status.revoked_at_s is None else f"revoked({status.reason})"
