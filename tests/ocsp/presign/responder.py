"""A responder in live mode, as the database sees it."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from cryptography.x509 import ocsp

NONCE = bytes.fromhex("0410") + bytes(range(16))
_PATIENCE_MS = 10_000


@dataclass(slots=True, kw_only=True)
class Responder:
    """Asks as a responder does, by the two functions that its role may call."""

    reader: "asyncpg.Connection[asyncpg.Record]"

    async def ask(self, *serials: bytes, issuer_id: int = 1, nonce: bytes | None = NONCE,
                  numbers: Sequence[int] | None = None, places: int = 20, patience_ms: int = _PATIENCE_MS) -> bytes:
        """Takes a place; its id."""
        question_id = os.urandom(16)
        assert await self.reader.fetchval("SELECT ask_for_live_ocsp($1, $2, $3, $4, $5, $6, $7)", question_id,
                                          issuer_id, list(numbers or [0] * len(serials)), list(serials), nonce,
                                          places, patience_ms)
        return question_id

    async def take(self, question_id: bytes) -> ocsp.OCSPResponse | None:
        """Gives it back."""
        response = await self.reader.fetchval("SELECT take_live_ocsp($1)", question_id)
        return None if response is None else ocsp.load_der_ocsp_response(response)

    async def until_answered(self, question_id: bytes, owner: "asyncpg.Connection[asyncpg.Record]",
                             *, patience_s: float = 9.0) -> ocsp.OCSPResponse | None:
        """Waits for the answer, and takes it; nothing when there is none in time, or it says nothing."""
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at and not await owner.fetchval(  # noqa: ASYNC110 - a row is waited for
                "SELECT answered_at IS NOT NULL FROM ocsp_live_requests WHERE id = $1", question_id):
            await asyncio.sleep(0.005)
        return await self.take(question_id)
