"""The CA and the publisher as processes, with logs over HTTP: they wake each other, and survive kill -9."""

from pathlib import Path

from cryptography import x509

from ca.pki.serial import serial_from_int
from tests.ca.issuing.running import ca_process, until, write_settings
from tests.ca.issuing.world import World
from tests.ct_embedded import verify_embedded
from tests.ct_log import CtLogs, personalities


def _settings(tmp_path: Path, world: World, logs: CtLogs) -> Path:
    (tmp_path / "logs.json").write_bytes(logs.list_json())
    return write_settings(tmp_path, world, ct='enabled = true\nlog_list = "logs.json"\nstagger_ms = 100')


async def test_orders_become_certificates(world: World, tmp_path: Path) -> None:
    """Ten orders through both processes, woken by notifications; the log list is read again when it changes."""
    async with CtLogs(personalities(4)) as logs:
        settings = _settings(tmp_path, world, logs)
        async with ca_process(settings) as ca, ca_process(settings, package="ca.publisher") as publisher:
            orders = [await world.ordered(f"n{number}.example.com") for number in range(10)]
            await world.run("acme_wfe", "SELECT pg_notify('issuance', '')")
            await until(world, "(SELECT count(*) FROM certificate_signatures) = 10")
            for name in ("log1", "log2"):
                logs[name].state = "retired"
            (tmp_path / "logs.json").write_bytes(logs.list_json())
            orders.append(await world.ordered("late.example.com"))
            await until(world, "(SELECT count(*) FROM certificate_signatures) = 11")
            issuer = x509.load_der_x509_certificate(world.issuers[1])
            embedded = [verify_embedded(await world.issued(order.id), issuer, logs) for order in orders]
            assert set(embedded[-1]) == {"log3", "log4"}
            await until(world, "NOT EXISTS (SELECT FROM ct_submissions)")
            assert await publisher.stop() == 0
            assert await ca.stop() == 0
        await world.check()


async def test_the_publisher_is_killed(world: World, tmp_path: Path) -> None:
    """kill -9 while logs are being asked: the next publisher takes the submission over at once, the order is valid."""
    async with CtLogs(personalities(2)) as logs:
        settings = _settings(tmp_path, world, logs)
        for log in logs:
            log.mode, log.delay_s = "slow", 60.0
        async with ca_process(settings):
            order = await world.ordered("www.example.com")
            async with ca_process(settings, package="ca.publisher") as publisher:
                await until(world, "EXISTS (SELECT FROM ct_submissions WHERE leased_by IS NOT NULL)")
                await publisher.kill()
            serial = await world.serial(order.id)
            for log in logs:
                log.mode = "ok"
            async with ca_process(settings, package="ca.publisher"):
                await until(world, "EXISTS (SELECT FROM certificate_signatures)")
            certificate = await world.issued(order.id)
            assert serial_from_int(certificate.serial_number) == serial
        await world.check()


async def test_a_list_that_cannot_be_used(world: World, tmp_path: Path) -> None:
    """Neither process starts with it, and both say which file it is."""
    settings = write_settings(tmp_path, world, ct='enabled = true\nlog_list = "logs.json"')
    (tmp_path / "logs.json").write_text("{}", "ascii")
    for package in ("ca.issuing", "ca.publisher"):
        async with ca_process(settings, wait=False, package=package) as process:
            assert await process.process.wait() == 1
        assert any("ct.log_list: not a list of CT logs" in line for line in process.lines), process.lines
