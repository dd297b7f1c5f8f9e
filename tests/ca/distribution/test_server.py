"""The CRL and AIA server over HTTP, on a real database: exact headers, caching, service while the database is away."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientSession
from multidict import CIMultiDictProxy

from ca.distribution.__main__ import serve
from ca.pki.crl import slug
from ca.process.ambient import Ambient, system_ambient
from ca.process.postgres import embedded_socket_directory
from ca.process.settings import DatabaseSettings, DistributionSettings, Settings, load_settings
from tests.ca.admin.conftest import write_config
from tests.ca.admin.seed import DAY, Seed
from tests.fixtures_postgres import TestDatabase

_PATIENCE_S = 60.0


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    headers: CIMultiDictProxy[str]


@dataclass(slots=True)
class Server:
    """A running server, its database, and a clock that the test moves."""

    seed: Seed
    settings: Settings
    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        """The server's time."""
        return system_ambient().now() + self.ahead

    @property
    def crl_path(self) -> str:
        """The CRL of the first shard."""
        return f"/{slug(self.seed.issuer_name)}/1.crl"

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request on a connection of its own."""
        url = f"http://{self.settings.distribution.listen[0]}{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (ClientSession(auto_decompress=False) as session,
                    session.request(method, url, headers=named) as response):
            return Answer(status=response.status, body=await response.read(), headers=response.headers)

    async def until(self, path: str, body: bytes) -> float:
        """How many seconds it takes until the path shows this body."""
        began_s = asyncio.get_running_loop().time()
        while (answer := await self.get(path)).body != body:
            assert asyncio.get_running_loop().time() - began_s < _PATIENCE_S, answer
            await asyncio.sleep(0.02)
        return asyncio.get_running_loop().time() - began_s


class DatabaseDoor:
    """A Unix socket in front of the database's, which the test opens and closes."""

    def __init__(self, directory: Path, behind: str) -> None:
        self.directory = directory
        self._path = directory / ".s.PGSQL.5432"
        self._behind = f"{behind}/.s.PGSQL.5432"
        self._listener: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        """Connections get through from now on."""
        self._listener = await asyncio.start_unix_server(self._pass, self._path)

    async def close(self) -> None:
        """Every connection breaks off, and none gets through any more."""
        assert self._listener is not None
        self._listener.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._path.unlink()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_unix_connection(self._behind)
        self._writers += [writer, behind_writer]

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer))


@pytest.fixture
async def door(postgres_server: DatabaseSettings) -> AsyncIterator[DatabaseDoor]:
    """Open, in a directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory() as directory:
        made = DatabaseDoor(Path(directory), embedded_socket_directory(postgres_server))
        await made.open()
        yield made
        with suppress(FileNotFoundError):
            await made.close()


@pytest.fixture
async def server(database: TestDatabase, door: DatabaseDoor, tmp_path: Path) -> AsyncIterator[Server]:
    """The real process in this event loop: one issuer with two shards, one of which has a CRL, and a root."""
    seed = Seed(database=database)
    await seed.issuer()
    await seed.crl(0, 1, der=b"first", age=timedelta(hours=1))
    await seed.run("ca_admin", "INSERT INTO published_files VALUES ('/test-root.crt', 'application/pkix-cert', $1, $2)",
                   b"root", seed.now - DAY)
    through_the_door = DatabaseSettings(url=f"postgresql:///{database.name}?host={door.directory}&port=5432",
                                        secrets_dir=database.settings.secrets_dir)
    running_server = Server(seed, load_settings(write_config(tmp_path, through_the_door), {}))
    stop = asyncio.Event()
    ambient = Ambient(now=running_server.now, random_bytes=system_ambient().random_bytes)
    task = asyncio.create_task(serve(running_server.settings, ambient, stop))
    while True:
        try:
            await running_server.get("/")
            break
        except OSError:
            assert not task.done(), task
            await asyncio.sleep(0.02)
    yield running_server
    stop.set()
    await task


async def test_crl_headers(server: Server) -> None:
    """application/pkix-crl without parameters, validators, and a cache life of at most an hour."""
    answer = await server.get(server.crl_path)
    assert (answer.status, answer.body) == (200, b"first")
    assert answer.headers["Content-Type"] == "application/pkix-crl"
    assert answer.headers["Content-Length"] == "5"
    assert answer.headers["Cache-Control"] == "public, max-age=900, no-transform"
    assert answer.headers["Last-Modified"] == format_datetime(server.seed.now - timedelta(hours=1), usegmt=True)
    assert answer.headers["ETag"].startswith('"')
    assert answer.headers["Server"] == "chancery"
    assert abs(parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC)) < timedelta(seconds=5)
    assert {name.lower() for name in answer.headers} == {
        "content-type", "content-length", "cache-control", "last-modified", "etag", "server", "date"}


async def test_certificates(server: Server) -> None:
    """The issuer at its AIA URL and the root at the ceremony's path, in DER, for an hour."""
    for path, body in ((f"/{slug(server.seed.issuer_name)}.crt", None), ("/test-root.crt", b"root")):
        answer = await server.get(path)
        assert answer.status == 200
        assert body is None or answer.body == body
        assert answer.headers["Content-Type"] == "application/pkix-cert"
        assert answer.headers["Cache-Control"] == "public, max-age=3600, no-transform"


async def test_head_is_get_without_body(server: Server) -> None:
    """The same headers, Content-Length included."""
    get = await server.get(server.crl_path)
    head = await server.get(server.crl_path, "HEAD")
    assert head.status == 200
    assert head.body == b""
    for name in ("Content-Type", "Content-Length", "Cache-Control", "Last-Modified", "ETag"):
        assert head.headers[name] == get.headers[name]


async def test_conditional_requests(server: Server) -> None:
    """304 with the validators for what the client holds; If-None-Match decides alone (RFC 9110 13.2.2)."""
    fresh = await server.get(server.crl_path)
    etag, modified = fresh.headers["ETag"], fresh.headers["Last-Modified"]
    older = format_datetime(server.seed.now - DAY, usegmt=True)
    cases: list[tuple[dict[str, str], int]] = [
        ({"If_None_Match": etag}, 304), ({"If_None_Match": f"W/{etag}"}, 304), ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": f'"other", {etag}'}, 304), ({"If_None_Match": '"other"'}, 200),
        ({"If_Modified_Since": modified}, 304), ({"If_Modified_Since": older}, 200),
        ({"If_Modified_Since": "yesterday"}, 200), ({"If_None_Match": '"other"', "If_Modified_Since": modified}, 200),
        ({"If_None_Match": etag, "If_Modified_Since": older}, 304)]
    for headers, status in cases:
        answer = await server.get(server.crl_path, **headers)
        assert answer.status == status, headers
        assert answer.headers["ETag"] == etag
        assert "max-age" in answer.headers["Cache-Control"]
        if status == 304:
            assert answer.body == b""
            assert answer.headers["Last-Modified"] == modified
    assert (await server.get(server.crl_path, "HEAD", If_None_Match=etag)).status == 304


async def test_query_is_ignored(server: Server) -> None:
    """Some clients add one to get round a cache."""
    assert (await server.get(server.crl_path + "?nocache=1")).body == b"first"


@pytest.mark.parametrize("path", ["/", "/x", "/test-root.crt/", "/../etc/passwd", "/%2e%2e/etc/passwd", "/1.crl",
                                  "/test-issuer-ec-1/2.crl", "/test-issuer-ec-1/0.crl", "//test-root.crt",
                                  "/Test-Root.crt", "/" + "a" * 3000, "/\u00e9"])
async def test_what_is_not_published_is_404(server: Server, path: str) -> None:
    """Plain text, cached for a minute: a shard's first CRL is never far."""
    answer = await server.get(path)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "public, max-age=60"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
async def test_other_methods_are_405(server: Server, method: str) -> None:
    """With Allow, on every path."""
    for path in (server.crl_path, "/x"):
        answer = await server.get(path, method)
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"


async def test_a_new_crl_is_served_at_once(server: Server) -> None:
    """NOTIFY wakes the server: well under the poll's two seconds."""
    await server.seed.crl(0, 2, der=b"second")
    await server.seed.run("ca_issuer", "SELECT pg_notify('crl', '')")
    assert await server.until(server.crl_path, b"second") < 1.5


async def test_a_missed_notification_is_made_up_for(server: Server) -> None:
    """Without NOTIFY the poll finds it, also the first CRL of a shard and a file that was replaced."""
    await server.seed.crl(1, 7, der=b"other shard")
    await server.seed.run("ca_admin", "UPDATE published_files SET body = $1, created_at = $2", b"new", server.seed.now)
    await server.until(f"/{slug(server.seed.issuer_name)}/2.crl", b"other shard")
    await server.until("/test-root.crt", b"new")


async def test_cache_life_ends_with_the_crl(server: Server) -> None:
    """Near nextUpdate the cache life shrinks; beyond it nobody keeps the CRL, but it is still shown."""
    server.ahead = timedelta(days=9, hours=-1, seconds=-300)
    short = (await server.get(server.crl_path)).headers["Cache-Control"]
    assert 0 < int(short.split("max-age=")[1].split(",")[0]) <= 300
    server.ahead = timedelta(days=30)
    late = await server.get(server.crl_path)
    assert (late.status, late.headers["Cache-Control"]) == (200, "public, max-age=0, no-transform")


async def test_serves_while_the_database_is_away(server: Server, door: DatabaseDoor) -> None:
    """Nothing is asked of the database for a request; when it is back the newest CRL appears by itself."""
    await door.close()
    await server.seed.crl(0, 3, der=b"third")
    for _ in range(20):
        assert (await server.get(server.crl_path)).body == b"first"
        await asyncio.sleep(0.1)
    await door.open()
    await server.until(server.crl_path, b"third")
    await server.seed.crl(0, 4, der=b"fourth")
    await server.until(server.crl_path, b"fourth")


async def test_http_1_0_gets_a_length_and_a_closed_connection(server: Server) -> None:
    """Old clients cannot read chunks."""
    host, port = server.settings.distribution.listen[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {server.crl_path} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert b"chunked" not in answer.lower()
    assert answer.startswith(b"HTTP/1.0 200")
    assert answer.endswith(b"\r\n\r\nfirst")


async def test_garbage_does_not_disturb(server: Server) -> None:
    """A client that speaks no HTTP is told so, and the next one is served."""
    host, port = server.settings.distribution.listen[0].split(":")
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100):
        with socket.create_connection((host, int(port)), timeout=2) as client:
            await asyncio.to_thread(client.sendall, garbage)
    assert (await server.get(server.crl_path)).status == 200


def test_the_section_is_all_that_is_needed() -> None:
    """The server needs a listen address and the base URLs."""
    assert set(msgspec.structs.asdict(DistributionSettings(listen=[]))) == {"listen"}
