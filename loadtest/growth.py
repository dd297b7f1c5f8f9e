"""A database that grows by made-up certificates with OCSP responses, and an evenly spread sample of them to ask about.

As many as asked for are really signed, the others get batches whose signatures are noise, which a responder cannot
tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes

from loadtest.chancery_process import Chancery
from loadtest.database import Connection
from loadtest.ocsp_load import RequestMaker, Subject
from loadtest.session import Session
from loadtest.synthetic import Issuer, SignedRound, publish_unsigned, sign_made_up

SIGNED_EACH = 40_000           # signed at each size, so that the rate is known there
_CHUNK = 200_000
SAMPLE = 300_000
_JUST_SIGNED = 2_000


@dataclass(slots=True, kw_only=True)
class Growth:
    """What is held: `sample` of everything, `signed` the last ones that were really signed, a few for each size."""

    session: Session
    chancery: Chancery
    connection: Connection
    issuer: Issuer
    most_signed: int
    held: int = 0
    sample: list[Subject] = field(default_factory=list)
    rounds: list[SignedRound] = field(default_factory=list)
    signed: list[Subject] = field(default_factory=list)

    async def take_up(self) -> None:
        """Certificates of an earlier run in the same `--data`."""
        self.held = await self.connection.fetchval("SELECT coalesce(sum(count), 0)::bigint FROM ocsp_batches")
        if self.held < SIGNED_EACH:
            self.held = 0
            return
        share = min(100.0, 100.0 * SAMPLE / self.held)
        rows = await self.connection.fetch(
            "SELECT serial FROM certificates TABLESAMPLE BERNOULLI ($2) WHERE issuer_id = $1 AND has_ocsp",
            self.issuer.id, share)
        self.sample = [self._subject(row["serial"]) for row in rows]
        self.session.report.note(f"ocsp: went on with {self.held:,} responses of an earlier run")

    async def grow(self, size: int) -> None:
        """Certificates up to `size`, but for the last ones, which `sign` makes; the sample stays evenly spread."""
        step, whole = self._step(size), max(0, size - self.held - SIGNED_EACH)
        if self.held:
            self.sample = self.sample[::max(1, len(self.sample) * step // self.held)]
        with self.session.steps(f"ocsp: {size:,} certificates", size) as steps:
            steps.done(min(self.held, size))
            while whole:
                count = min(whole, _CHUNK)
                left_to_sign = self.most_signed - sum(one.serials for one in self.rounds)
                if left_to_sign > 0:
                    count = min(count, left_to_sign)
                    await self.sign(size, count)
                else:
                    serials = await publish_unsigned(self.connection, self.issuer, count)
                    self.sample += [self._subject(one) for one in serials[::step]]
                    self.held += count
                whole -= count
                steps.done(count)

    async def sign(self, size: int, count: int = SIGNED_EACH) -> SignedRound:
        """More certificates, on the way to `size`, signed by the pre-signer."""
        made: list[Subject] = []
        signed = await sign_made_up(self.connection, self.chancery, self.issuer, count, made)
        self.rounds.append(signed)
        self.signed = made[-_JUST_SIGNED:]
        self.sample += made[::self._step(size)]
        self.held += count
        return signed

    @staticmethod
    def _step(size: int) -> int:
        return max(1, size // SAMPLE)

    def _subject(self, serial: bytes) -> Subject:
        return Subject(serial=int.from_bytes(serial, "big"), issuer=self.issuer.certificate)


def sha1_requests(subjects: Sequence[Subject]) -> list[bytes]:
    """Requests as clients send them, one for each certificate."""
    maker = RequestMaker()
    return [maker.request(one, hashes.SHA1()) for one in subjects]  # noqa: S303 - what clients send
