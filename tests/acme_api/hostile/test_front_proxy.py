"""Row E11: HTTP/2 ends at nginx, as `deploy/nginx/acme.conf` says it; floods cost their connection and nobody else."""

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.acme_api.hostile.ground import Ground
from tests.acme_api.wfe.certificates import self_signed_pair
from tests.acme_api.wfe.proxies import nginx
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe
from tests.ports import free_port

_HEADERS, _RESET, _SETTINGS, _GOAWAY = 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_SERVED = b"2 200 application/json"
# GET https://localhost/directory in HPACK: indexed method and scheme, literals that are not remembered for the rest.
_GET = b"\x82\x87\x04\x0a/directory\x01\x09localhost"


@dataclass
class _Front:
    """nginx in front of a server."""

    port: int
    trust: ssl.SSLContext
    certificate: Path
    pid: int

    def memory(self) -> int:
        """Resident bytes of the worker."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii").split()
        assert len(children) == 1
        return int(Path(f"/proc/{children[0]}/statm").read_text("ascii").split()[1]) * 4096

    def directory(self, *options: str) -> bytes:
        """What curl says over HTTP/2: version, status and media type."""
        return subprocess.run(
            ["curl", "-sS", "--http2", "--cacert", str(self.certificate), "-o", "/dev/null", "-w",
             "%{http_version} %{http_code} %{content_type}", *options, f"https://localhost:{self.port}/directory"],
            capture_output=True, timeout=60, check=True).stdout


class _Http2:
    """A connection that sends frames of our own making and reads what comes."""

    def __init__(self, front: _Front) -> None:
        context = ssl.create_default_context(cafile=str(front.certificate))
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", front.port), timeout=60)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(_SETTINGS, 0, 0, b""))

    @staticmethod
    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        """RFC 9113 4.1."""
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def send(self, data: bytes) -> bool:
        """False when the other side has closed."""
        try:
            self.socket.sendall(data)
        except (OSError, ssl.SSLError):
            return False
        return True

    def until_closed(self) -> set[int]:
        """Reads to the end; the kinds of frames that came."""
        data = bytearray()
        try:
            while chunk := self.socket.recv(65_536):
                data += chunk
        except (OSError, ssl.SSLError):
            pass
        kinds, place = set(), 0
        while place + 9 <= len(data):
            kinds.add(data[place + 3])
            place += 9 + int.from_bytes(data[place:place + 3], "big")
        self.socket.close()
        return kinds


@asynccontextmanager
async def _front(directory: Path, wfe: RunningWfe) -> AsyncIterator[_Front]:
    files, port = self_signed_pair(directory, "localhost"), free_port()
    async with nginx(directory / "front", port, files=files,
                     front_end=wfe.address.removeprefix("http://")) as process:
        yield _Front(port, ssl.create_default_context(cafile=str(files.certificate)), files.certificate, process.pid)


async def test_e11_floods_of_http2(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    """Rows E11, T12: streams opened and reset without end, ten thousand streams, headers that inflate: nginx closes the
    connection and does not grow, others are served over HTTP/2 and HTTP/1.1, and what nginx refuses is a problem."""
    wfe = await start(client_address="x-forwarded-for", trusted_proxies=["127.0.0.1"])
    async with _front(tmp_path, wfe) as front:
        assert await asyncio.to_thread(front.directory) == _SERVED
        connector = aiohttp.TCPConnector(ssl=front.trust)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
            behind = RunningWfe(address=f"https://localhost:{front.port}", context=wfe.context, http=http, app=wfe.app)
            ground = await Ground.make(behind, others, capsys)
            memory = front.memory()
            async with ground.row("E11"):
                for attack in (_rapid_reset, _many_streams, _bomb):
                    kinds = await asyncio.to_thread(attack, front)
                    assert _SETTINGS in kinds
                    assert await asyncio.to_thread(front.directory) == _SERVED
                    (await ground.bystander.post(ground.bystander.kid)).require(200)
                assert front.memory() - memory < 20_000_000
                large = await asyncio.to_thread(front.directory, "--http1.1", "-H", "X: " + "y" * 20_000)
                assert large == b"1.1 400 application/problem+json"
            await ground.end()


def _rapid_reset(front: _Front) -> set[int]:
    """CVE-2023-44487: nginx counts what was reset too and says goodbye after a thousand."""
    connection = _Http2(front)
    for stream in range(1, 20_001, 2):
        opened = connection.frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, _GET)
        if not connection.send(opened + connection.frame(_RESET, 0, stream, struct.pack(">I", 8))):
            break
    kinds = connection.until_closed()
    assert _GOAWAY in kinds
    return kinds


def _many_streams(front: _Front) -> set[int]:
    """Ten thousand requests, and no answer is read before the last is sent."""
    connection = _Http2(front)
    for stream in range(1, 20_001, 2):
        if not connection.send(connection.frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, _GET)):
            break
    return connection.until_closed()


def _bomb(front: _Front) -> set[int]:
    """One header of 4,000 octets in the dynamic table, then sixteen thousand references to it: 64 MB when inflated."""
    connection = _Http2(front)
    connection.socket.settimeout(3)     # The connection may stay: the request is refused.
    size = 4_000
    name = b"\x40\x01x\x7f" + bytes([0x80 | (size - 127) & 0x7F, (size - 127) >> 7]) + b"y" * size
    connection.send(connection.frame(_HEADERS, _END_STREAM | _END_HEADERS, 1, _GET + name))
    connection.send(connection.frame(_HEADERS, _END_STREAM | _END_HEADERS, 3, _GET + b"\xbe" * 16_000))
    return connection.until_closed()
