"""Real WFE processes under the real supervisor, on a free port, and load on them that counts every failure."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from acme_api.wfe.tls import TlsFiles
from ca.admin.supervise import Child, Supervisor
from ca.process.settings import load_settings
from tests.acme_api.wfe.certificates import self_signed_pair
from tests.acme_api.wfe.running import NONCE_KEY
from tests.acme_client import AcmeClient
from tests.fixtures_postgres import TestDatabase
from tests.ports import free_port


@dataclass(kw_only=True)
class Workers:
    """The WFE of one configuration: some processes on one port, with TLS from files that the test may change."""

    port: int
    files: TlsFiles
    restart: asyncio.Event
    children: list[Child]

    @property
    def base(self) -> str:
        """Every URL begins with it, and it is where the server is."""
        return f"https://localhost:{self.port}"

    def pids(self) -> list[int]:
        """The processes that run now."""
        return [child.process.pid for child in self.children if child.process and child.process.returncode is None]

    def trust(self) -> ssl.SSLContext:
        """What a client needs to trust the certificate that is in the files now."""
        return ssl.create_default_context(cafile=str(self.files.certificate))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AcmeClient]:
        """A subscriber without an account, on a connection of its own."""
        connector = aiohttp.TCPConnector(limit=1, ssl=self.trust())
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
            yield AcmeClient(http=http, public_base=self.base, base=self.base)


@asynccontextmanager
async def running_workers(database: TestDatabase, directory: Path, count: int, **acme: object
                          ) -> AsyncIterator[Workers]:
    """Starts `count` processes and waits until all serve; `acme` are settings of that section."""
    port = free_port()
    files = self_signed_pair(directory / "tls", "localhost")
    (directory / "nonce.key").write_bytes(NONCE_KEY)
    lines = [f"{name} = {json.dumps(value)}" for name, value in acme.items()]
    config = directory / "chancery.toml"
    config.write_text("\n".join([
        f'data_dir = "{directory}"', 'policy = "internal"',
        "[database]", f"url = {json.dumps(database.settings.url)}",
        f"secrets_dir = {json.dumps(str(database.settings.secrets_dir))}",
        "[hsm]", 'module = "x"', 'token_label = "x"', 'pin_file = "x"',
        "[acme]", f'base_url = "https://localhost:{port}"', f'listen = ["127.0.0.1:{port}"]', 'nonce_key = "nonce.key"',
        'tls_certificate = "tls/certificate.pem"', 'tls_key = "tls/key.pem"', *lines,
        "[va]", 'caa_identities = ["ca.example"]',
        "[ca]", 'internal_suffixes = ["*"]', 'ocsp_url = "http://o.example"', 'aia_base_url = "http://a.example"',
        'crl_base_url = "http://c.example"',
        "[ocsp]", 'listen = ["127.0.0.1:2"]', 'store_dir = "ocsp"',
        "[distribution]", 'listen = ["127.0.0.1:3"]', "[admin]", 'listen = ["127.0.0.1:4"]', ""]), "utf-8")
    supervisor = Supervisor(load_settings(config, os.environ), config, on_progress=lambda _: None)
    children = [Child(name=f"wfe-{number + 1}", role="wfe") for number in range(count)]
    supervisor._children = children
    stop, ready, restart = asyncio.Event(), asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop, on_ready=ready.set, restart=restart))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield Workers(port=port, files=files, restart=restart, children=children)
    finally:
        waiting.cancel()
        stop.set()
        await asyncio.wait_for(task, 60)


@dataclass
class Load:
    """Subscribers that send one signed request after the other, each on its own connection, until `stop`.

    A request that is not answered as it should be, or whose connection breaks, is a failure. Only POST is sent, which
    no client library repeats by itself.
    """

    workers: Workers
    done: int = 0
    failures: list[str] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, subscribers: int) -> AsyncIterator["Load"]:
        """Load from here to the end of the block."""
        self._tasks = [asyncio.create_task(self._subscriber()) for _ in range(subscribers)]
        try:
            yield self
        finally:
            self._stop.set()
            await asyncio.wait_for(asyncio.gather(*self._tasks), 60)

    async def more(self, count: int) -> None:
        """Returns when so many more requests have been answered."""
        wanted = self.done + count
        while self.done < wanted and not self.failures:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)

    async def _subscriber(self) -> None:
        number = 0
        async with self.workers.client() as client:
            while not self._stop.is_set():
                number += 1
                try:
                    if not client.kid:
                        (await client.register()).require(201)
                    elif number % 3:
                        (await client.post(client.kid)).require(200)
                    else:
                        (await client.order(f"a{number}.example.com")).require(201)
                    self.done += 1
                except (aiohttp.ClientError, OSError, AssertionError, TimeoutError) as fault:
                    self.failures.append(f"{type(fault).__name__}: {fault}")
                with suppress(TimeoutError):
                    # Now at once, now after a pause in which the connection is idle.
                    await asyncio.wait_for(self._stop.wait(), 0.001 if number % 5 else 0.05)
