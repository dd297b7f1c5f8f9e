"""The operators' page: the same facts as `chancery status`, for loopback alone, also while the database is away."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from ca.admin.__main__ import serve
from ca.admin.maintenance import Maintenance
from ca.admin.migrate import connect_superuser
from ca.admin.page.server import require_loopback
from ca.admin.page.watch import Watch
from ca.admin.status import EXPECTED_PROCESSES
from ca.process.ambient import Ambient, system_ambient
from ca.process.lifecycle import StartupError
from ca.process.postgres import create_pool
from ca.process.settings import DatabaseSettings
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        """The real time and what the test added."""
        return system_ambient().now() + self.ahead


@pytest.fixture
async def clock() -> Clock:
    """Shared by the server and the test."""
    return Clock()


@pytest.fixture
async def base(command_line: CommandLine, clock: Clock) -> AsyncIterator[str]:
    """The real process on a free port, in this event loop."""
    stop = asyncio.Event()
    ambient = Ambient(now=clock.now, random_bytes=system_ambient().random_bytes)
    running = asyncio.create_task(serve(command_line.settings, ambient, stop))
    url = f"http://{command_line.settings.admin.listen[0]}"
    async with ClientSession() as session:
        for _ in range(200):
            try:
                async with session.get(url + "/metrics"):
                    break
            except OSError:
                await asyncio.sleep(0.05)
    yield url
    stop.set()
    await running


async def _get(url: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    async with ClientSession() as session, session.request(method, url, headers=headers) as response:
        return response.status, await response.text(), dict(response.headers)


async def test_page_shows_what_status_shows(seed: Seed, base: str, clock: Clock) -> None:
    """One self-contained document with every section; it loads nothing from anywhere and may not be framed."""
    await seed.issuer()
    clock.ahead += timedelta(seconds=6)
    status, text, headers = await _get(base + "/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    for title in ("Processes", "Queues", "Issuers", "Revocation status", "Database", seed.issuer_name):
        assert title in text
    assert "Degraded" in text
    assert "missing 2 of 2 shards" in text
    assert not re.search(r"<script|<link|<img|src=|url\(", text)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "chancery"


async def test_hostile_names_are_escaped(seed: Seed, base: str, clock: Clock) -> None:
    """Whatever a name holds, it is text."""
    await seed.issuer(name='<b onclick="x">\x1b[31m')
    clock.ahead += timedelta(seconds=6)
    text = (await _get(base + "/"))[1]
    assert "<b onclick" not in text
    assert "&lt;b onclick" in text
    assert "\x1b" not in text


async def test_healthz_names_the_reasons(base: str) -> None:
    """503 with one line a reason."""
    status, text, _ = await _get(base + "/healthz")
    assert status == 503
    lines = text.splitlines()
    assert "process_missing: no process wfe is connected to the database" in lines
    assert all(re.match(r"[a-z_]+: ", line) for line in lines)


async def test_metrics_are_well_formed(seed: Seed, base: str, clock: Clock) -> None:
    """Prometheus' own parser reads them, and they hold queues, processes, CRLs and certificates."""
    await seed.issuer()
    await seed.crl(0, 1)
    await seed.order(await seed.account(), ["a.example"], [])
    order = await seed.order(await seed.account(), ["b.example"], [])
    await seed.finalization(order, queued=True)
    clock.ahead += timedelta(seconds=6)
    status, text, headers = await _get(base + "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = {(sample.name, *sample.labels.values()): sample.value
               for family in text_string_to_metric_families(text) for sample in family.samples}
    assert samples["chancery_database_up",] == 1
    assert samples["chancery_queue_depth", "issuance"] == 1
    assert samples["chancery_queue_depth", "ocsp"] == 0
    assert samples["chancery_crl_published", seed.issuer_name] == 1
    assert samples["chancery_crl_shards", seed.issuer_name] == 2
    assert samples["chancery_process_up", "admin"] == 1
    assert samples["chancery_process_up", "ca"] == 0
    assert {labels[1] for labels in samples if labels[0] == "chancery_process_up"} == set(EXPECTED_PROCESSES)
    assert samples["chancery_degraded", "process_missing"] == 1
    assert samples["chancery_maintenance_timestamp_seconds",] > 0


async def test_a_breach_of_the_ocsp_rule_is_foretold_in_metrics_and_health(seed: Seed, base: str, clock: Clock) -> None:
    """Hours before a response gets older than BR 4.9.9 allows: when that will be, when the backlog would be done, and
    the reason, for whoever alerts; with more signers all of it is gone."""
    await seed.run("chancery_owner", "INSERT INTO ocsp_shards (issuer_id, first_serial, last_serial, due_at, signed_at,"
                   " certificates) VALUES (1, $1, $2, $3, $4, 100000000)", bytes(18), b"\x01" + bytes(17),
                   seed.now - timedelta(hours=20), seed.now - timedelta(hours=80))
    await seed.run("chancery_owner", "INSERT INTO ocsp_signers VALUES ('there:1', 1, 0, 0.001, now() + '1 hour')")

    async def look() -> dict[tuple[str, ...], float]:
        clock.ahead += timedelta(seconds=6)
        text = (await _get(base + "/metrics"))[1]
        return {(sample.name.removeprefix("chancery_"), *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(text) for sample in family.samples}

    found, now_s = await look(), seed.now.timestamp()
    assert found["ocsp_backlog_certificates",] == found["ocsp_certificates",] == 100_000_000
    assert found["ocsp_certificates_per_second", "1"] == pytest.approx(1_000)
    assert abs(found["ocsp_breach_timestamp_seconds",] - now_s - 16 * 3_600) < 1
    assert abs(found["ocsp_backlog_done_timestamp_seconds",] - now_s - 100_000) < 120
    assert abs(found["ocsp_forecast_oldest_seconds",] - 80 * 3_600 - 100_000) < 120
    assert found["degraded", "ocsp_breach"] == 1
    assert "ocsp_breach: at this speed OCSP responses get 108 h old" in (await _get(base + "/healthz"))[1]
    await seed.run("chancery_owner", "UPDATE ocsp_signers SET certificate_s = 0.0001")
    found = await look()
    assert abs(found["ocsp_backlog_done_timestamp_seconds",] - now_s - 10_000) < 120
    assert not {("ocsp_breach_timestamp_seconds",), ("degraded", "ocsp_breach")} & set(found)


async def test_database_away_is_shown(seed: Seed, base: str, clock: Clock) -> None:
    """The page keeps the last facts and says that the database is away; health is 503 and the metric 0."""
    await _forbid_connections(seed, allowed=False)
    try:
        clock.ahead += timedelta(seconds=10)
        text = (await _get(base + "/"))[1]
        assert "the database does not answer" in text
        assert "Processes" in text
        status, health, _ = await _get(base + "/healthz")
        assert status == 503
        assert health.startswith("database_away: ")
        assert "chancery_database_up 0.0" in (await _get(base + "/metrics"))[1]
    finally:
        await _forbid_connections(seed, allowed=True)
    clock.ahead += timedelta(seconds=10)
    assert "chancery_database_up 1.0" in (await _get(base + "/metrics"))[1]


async def _forbid_connections(seed: Seed, *, allowed: bool) -> None:
    # Its own database, because nobody can connect to the test's.
    superuser = await connect_superuser(DatabaseSettings(secrets_dir=seed.database.settings.secrets_dir))
    await superuser.execute(f'ALTER DATABASE "{seed.database.name}" ALLOW_CONNECTIONS {str(allowed).lower()}')
    await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
                            seed.database.name)
    await superuser.close()


@pytest.mark.parametrize("host", ["ca.example", "evil.example:14003", "10.0.0.1", "[2001:db8::1]:14003", "localhost.x"])
async def test_requests_for_other_hosts_get_nothing(base: str, host: str) -> None:
    """A name of somebody else that points at 127.0.0.1 is answered with 421 and no facts."""
    for path in ("/", "/metrics", "/healthz"):
        status, text, _ = await _get(base + path, Host=host)
        assert (status, text) == (421, "this page is for loopback addresses\n")


@pytest.mark.parametrize("host", ["localhost:9", "127.0.0.1", "127.0.0.2:80", "[::1]:14003"])
async def test_any_loopback_host_is_served(base: str, host: str) -> None:
    """An SSH tunnel arrives under another port."""
    assert (await _get(base + "/metrics", Host=host))[0] == 200


async def test_other_paths_and_methods(base: str) -> None:
    """404 and 405 are one plain line."""
    assert (await _get(base + "/x"))[:2] == (404, "Not Found\n")
    status, text, headers = await _get(base + "/", method="POST")
    assert (status, text) == (405, "Method Not Allowed\n")
    assert "GET" in headers["Allow"]


@pytest.mark.parametrize("address", ["0.0.0.0:14003", "[::]:14003", "10.1.2.3:14003", "192.168.0.1:1", "ca.example:80"])
def test_only_loopback_is_listened_on(address: str) -> None:
    """The page has no login, so any other address refuses to start."""
    with pytest.raises(StartupError, match=r"admin\.listen"):
        require_loopback(["127.0.0.1:1", address])


def test_loopback_addresses_are_accepted() -> None:
    """Every spelling of loopback."""
    require_loopback(["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])


class CountingWatch(Watch):
    """Counts how often the database is asked."""

    asked = 0

    async def _look(self, now: datetime) -> None:
        self.asked += 1
        await super()._look(now)


async def test_many_viewers_cost_one_look(seed: Seed, command_line: CommandLine) -> None:
    """Twenty requests at once ask the database once."""

    def now() -> datetime:
        return seed.now

    pool = await create_pool(seed.database.settings, "ca_admin", process="test")
    watch = CountingWatch(pool, command_line.settings.ocsp, Maintenance(pool, now), now)
    await asyncio.gather(*[watch.view() for _ in range(20)])
    assert watch.asked == 1
    pool.terminate()
