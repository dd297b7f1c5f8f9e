"""`chancery log-list` against a publisher on this machine: what is installed, and everything that is refused."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki.ct_log_list import parse_log_list
from tests.ca.admin.conftest import CommandLine
from tests.ct_log import CtLogs, personalities

DAY = timedelta(days=1)


@dataclass(slots=True, kw_only=True)
class Publisher:
    """Whoever publishes lists: files by path, and a key that signs them."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def publish(self, data: bytes) -> None:
        """A list with its signature."""
        signature = (self.key.sign(data, padding.PKCS1v15(), hashes.SHA256()) if isinstance(self.key, rsa.RSAPrivateKey)
                     else self.key.sign(data, ec.ECDSA(hashes.SHA256())))
        self.files = {"/log_list.json": data, "/log_list.sig": signature}

    def public_pem(self) -> bytes:
        """What an operator is given."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@asynccontextmanager
async def _serving(publisher: Publisher) -> AsyncIterator[Publisher]:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/moved.json":
            raise web.HTTPFound("/log_list.json")
        found = publisher.files.get(request.path)
        return web.Response(status=404) if found is None else web.Response(body=found)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    publisher.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield publisher
    finally:
        await runner.cleanup()


def _configure(command_line: CommandLine, publisher: Publisher, *, key: bytes | None = None) -> Path:
    text = f'[ct]\nenabled = true\nlog_list = "logs.json"\nlog_list_url = "{publisher.url}/log_list.json"\n'
    if key is not None:
        command_line.config.with_name("key.pem").write_bytes(key)
        text += 'log_list_key = "key.pem"\n'
    command_line.config.write_text(command_line.config.read_text("utf-8") + text, "utf-8")
    return command_line.config.with_name("logs.json")


def _logs(count: int = 4, *, age: timedelta = timedelta(), **changes: Any) -> bytes:
    """A list; `changes` are applied to every log's JSON."""
    logs = CtLogs(personalities(count))
    for log in logs:
        log.url = f"https://{log.name}.example/"
    document = json.loads(logs.list_json(age=age))
    for operator in document["operators"]:
        for log in (*operator["logs"], *operator["tiled_logs"]):
            log.update(changes)
    return json.dumps(document).encode()


def _ending(days: int) -> dict[str, Any]:
    return {"temporal_interval": {"start_inclusive": "2020-01-01T00:00:00Z",
                                  "end_exclusive": f"{datetime.now(UTC) + days * DAY:%Y-%m-%dT00:00:00Z}"}}


@pytest.mark.parametrize("kind", ["ec", "rsa"])
async def test_fetched_and_installed(offline: CommandLine, kind: str) -> None:
    """Signed by its publisher, newer, with enough logs: it takes the old one's place as a whole, and says what changed;
    a second time nothing is different. A dry run leaves the file alone."""
    publisher = Publisher() if kind == "ec" else Publisher(key=rsa.generate_private_key(65_537, 2048))
    async with _serving(publisher):
        path = _configure(offline, publisher, key=publisher.public_pem())
        old, new = _logs(age=5 * DAY), _logs(5)
        path.write_bytes(old)
        path.chmod(0o640)
        publisher.publish(new)
        tried = await offline.json("log-list", "fetch", "--dry-run")
        assert (tried["installed"], len(tried["changes"])) == (False, 9)
        assert path.read_bytes() == old
        done = await offline.json("log-list", "fetch")
        assert (done["installed"], done["signed"], len(done["logs"])) == (True, True, 5)
        assert path.read_bytes() == new
        assert path.stat().st_mode & 0o777 == 0o640
        assert sorted(child.name for child in path.parent.iterdir() if "logs.json" in child.name) == ["logs.json"]
        again = await offline.run("log-list", "fetch")
        assert "by the publisher's key" in again.stdout
        assert (await offline.json("log-list", "fetch"))["changes"] == []


async def test_a_first_list(offline: CommandLine) -> None:
    """Where none is, or one that cannot be read: any good one is installed, behind a symbolic link too."""
    async with _serving(Publisher()) as publisher:
        path = _configure(offline, publisher)
        publisher.publish(_logs())
        result = await offline.run("log-list", "fetch")
        assert "ct.log_list_key is not set" in result.stdout
        assert len(parse_log_list(path.read_bytes()).logs) == 4
        (path.parent / "elsewhere").mkdir()
        real = path.rename(path.parent / "elsewhere" / "list.json")
        real.write_text("{}", "utf-8")
        path.symlink_to(real)
        await offline.run("log-list", "fetch")
        assert path.is_symlink()
        assert len(parse_log_list(real.read_bytes()).logs) == 4


async def test_refused(offline: CommandLine) -> None:
    """Changed on its way, signed by another, unsigned, older, too old, not a list, too few logs: exit code 4 or 1, one
    line, and the installed list stays."""
    async with _serving(Publisher()) as publisher:
        path = _configure(offline, publisher, key=publisher.public_pem())
        installed = _logs(age=5 * DAY)
        path.write_bytes(installed)

        async def refused(why: str, exit_code: int = 4) -> None:
            result = await offline.run("log-list", "fetch", exit_code=exit_code)
            assert why in result.stderr
            assert result.stderr.count("\n") == 1
            assert path.read_bytes() == installed

        publisher.publish(_logs())
        publisher.files["/log_list.json"] += b" "
        await refused("the signature of the list is not by the publisher's key")
        signed = publisher.files["/log_list.sig"]
        publisher.files["/log_list.sig"] = b""
        await refused("not by the publisher's key")
        del publisher.files["/log_list.sig"]
        await refused("HTTP status 404", exit_code=1)
        publisher.files = {"/log_list.sig": signed}
        await refused("HTTP status 404", exit_code=1)
        for data, why in ((_logs(age=6 * DAY), "older than the one that is installed"),
                          (b"[]", "not a list of CT logs"),
                          (_logs(age=80 * DAY), "more than 70 days old"), (_logs(1), "1 logs of 1 operators"),
                          (_logs(**_ending(30)), "cannot be logged: 0 logs"),
                          (_logs(state={"retired": {"timestamp": "2026-01-01T00:00:00Z"}}), "0 logs of 0 operators")):
            publisher.publish(data)
            await refused(why)
        publisher.publish(b"x" * (8 * 1024 * 1024 + 1))
        await refused("more than 8388608 bytes", exit_code=1)
        for key, why in ((b"no key", "expected a public key in PEM"),
                         (ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(
                             Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "neither RSA nor ECDSA")):
            publisher.publish(_logs())
            offline.config.with_name("key.pem").write_bytes(key)
            await refused(why)


async def test_urls(offline: CommandLine) -> None:
    """No redirect is followed; http to elsewhere only with a key; a publisher that is away is said so."""
    async with _serving(Publisher()) as publisher:
        _configure(offline, publisher)
        publisher.publish(_logs())
        moved = await offline.run("log-list", "fetch", "--url", f"{publisher.url}/moved.json", exit_code=1)
        assert "HTTP status 302" in moved.stderr
        plain = await offline.run("log-list", "fetch", "--url", "http://logs.example/list.json", exit_code=1)
        assert "is not an https URL" in plain.stderr
    away = await offline.run("log-list", "fetch", exit_code=1)
    assert "cannot be read" in away.stderr


async def test_from_a_file(offline: CommandLine, tmp_path: Path) -> None:
    """The same rules for a file that was carried here; `check` only says what they come to."""
    publisher = Publisher()
    path = _configure(offline, publisher, key=publisher.public_pem())
    publisher.publish(_logs())
    (tmp_path / "new.json").write_bytes(publisher.files["/log_list.json"])
    (tmp_path / "new.sig").write_bytes(publisher.files["/log_list.sig"])
    file, signature = str(tmp_path / "new.json"), str(tmp_path / "new.sig")
    assert "comes without a signature" in (await offline.run("log-list", "install", file, exit_code=4)).stderr
    assert (await offline.json("log-list", "check", file, "--signature", signature))["installed"] is False
    assert not path.exists()
    await offline.run("log-list", "check", exit_code=3)
    await offline.run("log-list", "install", file, "--signature", signature)
    assert path.read_bytes() == publisher.files["/log_list.json"]
    assert len((await offline.json("log-list", "check"))["logs"]) == 4
    path.write_bytes(_logs(1))
    assert "cannot be logged" in (await offline.run("log-list", "check", exit_code=4)).stderr


async def test_shown(offline: CommandLine) -> None:
    """The logs, what they take, until when certificates can be logged; exit code 5 while somebody should see to it."""
    path = _configure(offline, Publisher())
    await offline.run("log-list", "show", exit_code=3)
    path.write_bytes(_logs())
    shown = await offline.run("log-list", "show")
    assert "status         ok" in shown.stdout
    assert "certificates that end before 2045-01-01" in shown.stdout
    path.write_bytes(_logs(**_ending(100)))
    soon = await offline.run("log-list", "show", exit_code=5)
    assert "too few logs take those that end at" in " ".join(soon.stdout.split())
    assert max(len(line) for line in soon.stdout.splitlines()) <= 80
    path.write_bytes(_logs(**_ending(60)))
    document = await offline.json("log-list", "show", exit_code=5)
    assert [reason["code"] for reason in document["reasons"]] == ["log_list_short"]


async def test_without_a_list_in_the_configuration(offline: CommandLine) -> None:
    """An internal CA that logs nothing has none to show."""
    assert "ct.log_list is not set" in (await offline.run("log-list", "show", exit_code=2)).stderr
