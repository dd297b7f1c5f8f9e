"""Real proxies in front of a server, configured as `deploy/` ships it with only addresses, paths and sizes
replaced."""

import asyncio
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from acme_api.wfe.accept import ProxyProtocol
from acme_api.wfe.server import Listening
from acme_api.wfe.tls import TlsFiles
from ca.process.client_address import parse_networks
from tests.acceptance.demo_process import REPOSITORY
from tests.acceptance.server_program import find, nginx_main, server
from tests.acme_api.wfe.running import RunningWfe

_PATIENCE_S = 60


@asynccontextmanager
async def expecting_proxy_header(wfe: RunningWfe, trusted: str, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """One more port of the server, on which the proxies of that network name the client; with TLS after that."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    listening = Listening.start(wfe.app, [listener], context, read_timeout_s=2.0,
                                proxy_protocol=ProxyProtocol(trusted=parse_networks([trusted])))
    try:
        yield listener.getsockname()[1]
    finally:
        await listening.drain(timeout_s=1.0)


def shipped(path: str, changes: Iterable[tuple[str, str]]) -> str:
    """A configuration under `deploy/`, each pattern replaced at the one place where it is."""
    text = (REPOSITORY / "deploy" / path).read_text("utf-8")
    for old, new in changes:
        text, changed = re.subn(old, new, text)
        assert changed == 1, old
    return text


@asynccontextmanager
async def nginx(directory: Path, port: int, *, files: TlsFiles, front_end: str,
                changes: Iterable[tuple[str, str]] = ()) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """nginx on a port of loopback; `front_end` is HOST:PORT."""
    text = shipped("nginx/acme.conf", (
        (r"listen 443", f"listen 127.0.0.1:{port}"), (r"\n *listen \[::\]:443 ssl http2;", ""),
        ("/etc/chancery/tls/certificate.pem", str(files.certificate)),
        ("/etc/chancery/tls/key.pem", str(files.key)), ("127.0.0.1:14000", front_end), *changes))
    config = nginx_main(directory, text)
    with server(directory, find("nginx"), "-c", config) as process:
        await _until_listening(process, port, directory / "nginx.log")
        yield process


@asynccontextmanager
async def haproxy(directory: Path, port: int, *, front_ends: Iterable[str]) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """HAProxy on a port of loopback; `front_ends` are HOST:PORT."""
    directory.mkdir()
    lines = "".join(f"\\g<1>{number} {address}\n" for number, address in enumerate(front_ends, 1))
    config = directory / "haproxy.cfg"
    config.write_text(shipped("haproxy/acme.cfg", (
        # Not everybody who runs tests may open forty thousand files.
        ("maxconn 20000", "maxconn 200"), ("bind :::443 v4v6", f"bind 127.0.0.1:{port}"),
        (r"( +server wfe)1 127\.0\.0\.1:14000\n", lines))), "utf-8")
    with server(directory, find("haproxy"), "-db", "-f", str(config)) as process:
        await _until_listening(process, port, directory / "haproxy.log")
        yield process


async def _until_listening(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            assert process.poll() is None, log.read_text("utf-8")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


@asynccontextmanager
async def coming_from(wfe: RunningWfe, address: str, port: int, files: TlsFiles) -> AsyncIterator[RunningWfe]:
    """The server as a client at that loopback address reaches it: by TLS on a port of 127.0.0.1."""
    trust = ssl.create_default_context(cafile=str(files.certificate))
    connector = aiohttp.TCPConnector(local_addr=(address, 0), family=socket.AF_INET, ssl=trust, force_close=True)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
        yield RunningWfe(address=f"https://localhost:{port}", context=wfe.context, http=http, app=wfe.app)
