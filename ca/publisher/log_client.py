"""One submission to one log (RFC 6962 4.1, 4.2; the same of static-ct-api): the chain goes out, an SCT comes back."""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
import msgspec

from ca.pki.ct_log_list import CtLog
from ca.pki.sct import LOG_ID_BYTES, Sct, SctError, encode_sct, read_digitally_signed
from ca.process.ambient import Ambient

_MAX_ANSWER_BYTES: Final = 65_536
_CONNECTIONS_PER_LOG: Final = 20
_ASKS_FOR_A_PAUSE: Final = (429, 503)
_SHOWN_CHARS: Final = 200


class LogFault(Exception):
    """The log gave no SCT that can be used. `retry_after_s`: when it wants to be asked again, if it said so."""

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class LogRefusal(Exception):
    """The log works and does not want this chain (400): another try with the same chain is of no use to it."""


class _Answer(msgspec.Struct):
    sct_version: int
    id: str
    timestamp: int
    extensions: str
    signature: str


class LogClient:
    """Sends chains to logs over kept connections; used inside `async with`."""

    def __init__(self, ambient: Ambient, *, user_agent: str, timeout_s: float) -> None:
        self._ambient = ambient
        self._user_agent = user_agent
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "LogClient":
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, headers={"User-Agent": self._user_agent}, trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=_CONNECTIONS_PER_LOG))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def submit(self, log: CtLog, chain: Sequence[bytes], *, precertificate: bool) -> bytes:
        """The log's SCT, serialized, not verified yet. Raises LogFault or LogRefusal."""
        assert self._session is not None  # noqa: S101 - used inside `async with` alone
        call = "add-pre-chain" if precertificate else "add-chain"
        body = msgspec.json.encode({"chain": [base64.b64encode(each).decode("ascii") for each in chain]})
        try:
            async with self._session.post(f"{log.url}ct/v1/{call}", data=body, allow_redirects=False,
                                          headers={"Content-Type": "application/json"}) as response:
                answer = await _read(response)
                if response.status != 200:
                    self._raise(response, answer)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
            raise LogFault(f"{type(fault).__name__}: {fault}" if str(fault) else "no answer in time") from fault
        return read_answer(answer)

    def _raise(self, response: aiohttp.ClientResponse, answer: bytes) -> None:
        said = answer[:_SHOWN_CHARS].decode("utf-8", "replace")
        if response.status in (400, 403, 413, 422):
            raise LogRefusal(f"HTTP {response.status}: {said}")
        pause_s = None
        if response.status in _ASKS_FOR_A_PAUSE:
            pause_s = retry_after_s(response.headers.get("Retry-After", ""), self._ambient.now())
        raise LogFault(f"HTTP {response.status}: {said}", retry_after_s=pause_s)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for part in response.content.iter_chunked(_MAX_ANSWER_BYTES):
        answer += part
        if len(answer) > _MAX_ANSWER_BYTES:
            raise LogFault(f"the answer has more than {_MAX_ANSWER_BYTES} bytes")
    return bytes(answer)


def read_answer(answer: bytes) -> bytes:
    """The serialized SCT in an answer of add-chain or add-pre-chain. Raises LogFault."""
    try:
        fields = msgspec.json.decode(answer, type=_Answer)
        if fields.sct_version != 0:
            raise LogFault(f"an SCT of version {fields.sct_version} is not one of RFC 6962")
        log_id = base64.b64decode(fields.id, validate=True)
        if len(log_id) != LOG_ID_BYTES or not 0 <= fields.timestamp < 1 << 63:
            raise LogFault("the SCT has a log id or a time that cannot be")
        _, algorithm, signature = read_digitally_signed(base64.b64decode(fields.signature, validate=True))
        return encode_sct(Sct(log_id=log_id, timestamp_ms=fields.timestamp, signature_algorithm=algorithm,
                              extensions=base64.b64decode(fields.extensions, validate=True), signature=signature))
    except (msgspec.DecodeError, binascii.Error, SctError, ValueError) as fault:
        raise LogFault(f"the answer is not an SCT: {fault}") from fault


def retry_after_s(value: str, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 10.2.3), or None when it says nothing that can be read."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())
