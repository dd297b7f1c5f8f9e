"""All that the database role `ocsp_reader` does for live mode: take a place in the queue, and give it back."""

from typing import Final

from ca.process.postgres import Pool
from ocsp.protocol.live import Question

_ASK: Final = "SELECT ask_for_live_ocsp($1, $2, $3, $4, $5, $6, $7)"
_TAKE: Final = "SELECT take_live_ocsp($1)"


async def ask(pool: Pool, question_id: bytes, question: Question, *, places: int, patience_ms: int) -> bool:
    """Puts a question into the queue for so long, and wakes the signer; False when all places are taken."""
    taken: bool = await pool.fetchval(
        _ASK, question_id, question.issuer_id, [number for number, _ in question.cert_ids],
        [serial for _, serial in question.cert_ids], question.nonce, places, patience_ms)
    return taken


async def take(pool: Pool, question_id: bytes) -> bytes | None:
    """Gives the place back. Returns the response; None when it was not signed, or is not there yet."""
    response: bytes | None = await pool.fetchval(_TAKE, question_id)
    return response
