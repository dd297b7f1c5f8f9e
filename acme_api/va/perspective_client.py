"""One remote perspective as the primary sees it: asked over a pinned connection, left alone while it is away.

Whatever goes wrong on the way (no connection, a certificate that is not the pinned one, an answer against the protocol,
silence) is an outage of ours and never an opinion about the name that was asked.
"""

import asyncio
import os
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import aiohttp

from acme_api.va import perspective_message as message
from acme_api.va.perspective_message import Finding, MessageError
from ca.process.ambient import Ambient

LOOK_PATH: Final = "/v1/look"
HEALTH_PATH: Final = "/v1/health"
_MAX_HEALTH_BYTES: Final = 1_024
_CONNECTIONS: Final = 100
_FIRST_BACK_OFF_S: Final = 1.0


class PerspectiveAway(Exception):
    """It did not answer as the protocol says; the text is for operators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerspectiveHealth:
    """What is known about one remote perspective. `retry_at`: it is not asked before."""

    name: str
    rir: str
    answered_at: datetime | None
    lag_ms: int | None
    failures: int
    retry_at: datetime | None
    fault: str | None


class RemotePerspective:
    """Asks one remote perspective. Open it in the event loop that uses it, and close it at the end."""

    def __init__(
        self,
        *,
        name: str,
        rir: str,
        address: str,
        context: ssl.SSLContext,
        ambient: Ambient,
        timeout_s: float,
        connect_timeout_s: float,
        longest_back_off_s: float,
    ) -> None:
        self.name = name
        self.rir = rir
        self._base_url = f"https://{address}"
        self._ambient = ambient
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_timeout_s)
        self._probe_timeout = aiohttp.ClientTimeout(total=connect_timeout_s * 2, sock_connect=connect_timeout_s)
        self._longest_back_off_s = longest_back_off_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=_CONNECTIONS, keepalive_timeout=30.0),
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        self._answered_at: datetime | None = None
        self._lag_ms: int | None = None
        self._failures = 0
        self._retry_at: datetime | None = None
        self._fault: str | None = None

    @property
    def health(self) -> PerspectiveHealth:
        """As of now."""
        return PerspectiveHealth(name=self.name, rir=self.rir, answered_at=self._answered_at, lag_ms=self._lag_ms,
                                 failures=self._failures, retry_at=self._retry_at, fault=self._fault)

    async def ask(self, body: bytes) -> Finding:
        """Its finding about an encoded question. Raises PerspectiveAway, at once while it is left alone."""
        if self._retry_at is not None and self._ambient.now() < self._retry_at:
            raise PerspectiveAway(f"not asked: {self._fault}")
        try:
            finding = message.decode_finding(
                await self._exchange("POST", LOOK_PATH, body, self._timeout, message.MAX_FINDING_BYTES))
            self._require_name(finding.perspective)
        except (aiohttp.ClientError, TimeoutError, OSError, MessageError) as fault:
            raise self._failed(fault) from fault
        self._succeeded()
        return finding

    async def probe(self) -> None:
        """Asks how it is; the answer ends a time of being left alone. What goes wrong is remembered, not raised."""
        began_s = asyncio.get_running_loop().time()
        try:
            health = message.decode_health(
                await self._exchange("GET", HEALTH_PATH, None, self._probe_timeout, _MAX_HEALTH_BYTES))
            self._require_name(health.perspective)
        except (aiohttp.ClientError, TimeoutError, OSError, MessageError) as fault:
            self._failed(fault)
            return
        self._lag_ms = round((asyncio.get_running_loop().time() - began_s) * 1_000)
        self._succeeded()

    async def close(self) -> None:
        """Closes its connections."""
        await self._session.close()

    async def _exchange(
        self, method: str, path: str, body: bytes | None, limits: aiohttp.ClientTimeout, max_bytes: int
    ) -> bytes:
        async with self._session.request(
            method, self._base_url + path, data=body, timeout=limits, allow_redirects=False,
            headers={"Content-Type": "application/json"} if body is not None else None,
        ) as response:
            if response.status != 200:
                raise MessageError(f"HTTP status {response.status}")
            received = bytearray()
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > max_bytes:
                    raise MessageError(f"more than {max_bytes} bytes")
            return bytes(received)

    def _require_name(self, name: str) -> None:
        if name != self.name:
            raise MessageError(f"it is named {name[:80]!r}, not {self.name!r}")

    def _failed(self, fault: Exception) -> PerspectiveAway:
        self._failures += 1
        self._fault = _words(fault)
        back_off_s = min(_FIRST_BACK_OFF_S * 2 ** min(self._failures - 1, 16), self._longest_back_off_s)
        self._retry_at = self._ambient.now() + timedelta(seconds=back_off_s)
        return PerspectiveAway(self._fault)

    def _succeeded(self) -> None:
        self._answered_at = self._ambient.now()
        self._failures = 0
        self._retry_at = None
        self._fault = None


def _words(fault: Exception) -> str:
    """One line for an operator: what is wrong with the connection or the answer."""
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not the pinned one: {fault.certificate_error}"[:200]
    if isinstance(fault, TimeoutError):
        return "no answer in time"
    if isinstance(fault, aiohttp.ClientConnectorError):
        number = fault.os_error.errno
        return f"it cannot be reached: {os.strerror(number).lower() if number else fault.os_error}"[:200]
    return (str(fault) or type(fault).__name__)[:200]
