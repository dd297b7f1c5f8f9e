"""A responder inside the test: a memory in a directory, a clock that the test holds, a port, and a raw client."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import structlog

from ocsp.protocol.batch import SignedStatus, encode_batch, split_batch
from ocsp.protocol.response import Times
from ocsp.responder.live import LiveDesk
from ocsp.responder.memory import Mark, ResponseMemory, encode_issuers
from ocsp.responder.server import Listen, OcspServer
from ocsp.responder.sockets import listen_by_epoll
from ocsp.responder.tally import Tally
from tests.ca.pki.authority import Authority
from tests.ocsp.protocol import reference
from tests.ocsp.signing import NOW_S, TIMES

ISSUER_ID = 7


@dataclass(slots=True)
class Clock:
    """The time, moved by the test."""

    now_s: float = NOW_S

    def now(self) -> datetime:
        """Aware UTC."""
        return datetime.fromtimestamp(self.now_s, UTC)


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Serving:
    """The parts, and a client for them."""

    memory: ResponseMemory
    server: OcspServer
    clock: Clock
    port: int
    has_shortcut: bool = True

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *requests: bytes, pieces: int = 1) -> list[Reply]:
        """The replies to raw requests on one connection, sent in `pieces`; it is half-closed behind them."""
        reader, writer = await self.connect()
        data = b"".join(requests)
        step = max(1, -(-len(data) // pieces))
        for start in range(0, len(data), step):
            writer.write(data[start:start + step])
            await writer.drain()
            if pieces > 1:
                await asyncio.sleep(0.002)
        replies = [await read_reply(reader, head_only=request.startswith(b"HEAD ")) for request in requests]
        writer.close()
        return replies

    async def raw(self, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """All that comes back until the server closes."""
        reader, writer = await self.connect()
        writer.write(data)
        found = await asyncio.wait_for(reader.read(), timeout_s)
        writer.close()
        return found

    def store(self, records: Sequence[SignedStatus], *, times: Times = TIMES, batch_id: int = 1,
              responder_id: int = 0, is_complete: bool = True) -> None:
        """Puts signed records into the memory; with all that there is, unless it says otherwise."""
        payload = encode_batch(times, records, responder_id=responder_id)
        self.memory.apply(split_batch(payload, ISSUER_ID), mark=Mark(batch_id, 1), complete=is_complete)
        while self.has_shortcut and self.memory.tend_shortcut(limit=10_000):
            pass
        self.server.refresh()


async def read_reply(reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply:
    """Reads one response by its Content-Length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    first, *lines = head[:-4].decode("ascii").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines), "no header is sent twice"
    status = int(first.split(" ")[1])
    length = 0 if head_only or status == 304 else int(headers["Content-Length"])
    return Reply(status, headers, await asyncio.wait_for(reader.readexactly(length), 5))


@asynccontextmanager
async def serving(directory: Path, *authorities: Authority, listen: Listen = listen_by_epoll,
                  live: LiveDesk | None = None, has_shortcut: bool = True) -> AsyncIterator[Serving]:
    """A server of these issuers, numbered from ISSUER_ID, with an empty and complete memory."""
    clock = Clock()
    memory = ResponseMemory(directory, map_size_gib=1)
    memory.set_issuers(encode_issuers([(ISSUER_ID + index, own.issuer.certificate_der)
                                       for index, own in enumerate(authorities)]))
    memory.apply((), mark=Mark(), complete=True)
    memory.renew()
    server = OcspServer(memory, now=clock.now, max_age_s=3_600, log=structlog.get_logger(), live=live,
                        tally=Tally(directory, "here:1"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        await server.start([listener], listen)
        try:
            yield Serving(memory=memory, server=server, clock=clock, port=listener.getsockname()[1],
                          has_shortcut=has_shortcut)
        finally:
            await server.stop()
            memory.close()


def request_for(own: Authority, serial: bytes, name: str = "sha1") -> bytes:
    """The canonical DER request."""
    return reference.request([reference.certid(name, own.issuer.subject_der, own.issuer.key_bits, serial)])


def get(request: bytes, *headers: str, version: str = "1.1", method: str = "GET", escaped: bool = False) -> bytes:
    """GET with the request in the path."""
    text = base64.b64encode(request).decode()
    path = quote(text, safe="") if escaped else text
    lines = [f"{method} /{path} HTTP/{version}", "Host: ocsp.example", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def post(body: bytes, *headers: str, version: str = "1.1", path: str = "/",
         content_type: str | None = "application/ocsp-request") -> bytes:
    """POST with the request in the body."""
    typed = [f"Content-Type: {content_type}"] if content_type else []
    lines = [f"POST {path} HTTP/{version}", "Host: ocsp.example", *typed, f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
