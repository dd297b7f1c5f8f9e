"""`chancery crl`: what is published, whether the world can read it, and URLs for the CCADB."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ca.admin.crl_check import LAG, PublishedCrl, fault_of, read_back
from ca.pki.crl import CrlEntry, shard_url, tbs_crl
from ca.pki.tbs import assemble
from ca.process.ambient import system_ambient
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import DAY, Seed, now_s, serial_of
from tests.ca.pki.authority import Authority, authority

_NAME = "Test Issuer EC 1"


def _crl(own: Authority, url: str, *, number: int = 7, age: timedelta = timedelta(), entries: int = 2,
         life: timedelta = 9 * DAY - timedelta(seconds=1)) -> bytes:
    made = now_s() - age
    tbs = tbs_crl(issuer=own.issuer, url=url, number=number, this_update=made, next_update=made + life, entries=[
        CrlEntry(serial=serial_of(made, count), revoked_at=made, reason=4) for count in range(entries)])
    return assemble(tbs, own.key.sign(tbs, ec.ECDSA(hashes.SHA256())))  # type: ignore[call-arg, arg-type]


@pytest.fixture(scope="module")
def own() -> Authority:
    """An issuer with a software key."""
    return authority(ec.generate_private_key(ec.SECP256R1()), now=now_s())


def _published(own: Authority, url: str, **changes: Any) -> PublishedCrl:
    return replace(PublishedCrl(
        issuer=_NAME, issuer_certificate=own.issuer.certificate_der, shard=0, url=url, number=7, this_update=now_s(),
        next_update=now_s() + 9 * DAY, entries=2, size=0), **changes)


_URL = "http://crl.example/e1/1.crl"


def _spoilt(crl: bytes) -> bytes:
    return crl[:-1] + bytes([crl[-1] ^ 1])


@pytest.mark.parametrize(("body", "expected", "fault"), [
    (lambda own: _crl(own, _URL), {}, None),
    (lambda own: b"", {}, "not a CRL"),
    (lambda own: b"<html>", {}, "not a CRL"),
    (lambda own: _spoilt(_crl(own, _URL)), {}, "not signed by"),
    (lambda own: _crl(own, "http://crl.example/e1/2.crl"), {}, "another URL"),
    (lambda own: _crl(own, _URL, age=10 * DAY, number=8), {}, "expired"),
    (lambda own: _crl(own, _URL, number=6, age=DAY), {"this_update": now_s() - 2 * LAG}, "number 6 is shown"),
    (lambda own: _crl(own, _URL, number=6, age=DAY), {}, None),
    (lambda own: _crl(own, _URL, number=8, entries=5), {}, None),
    (lambda own: _crl(own, _URL, entries=1), {}, "lists 1"),
], ids=["sound", "empty", "no-crl", "other-signature", "other-shard", "expired", "old", "a-moment-behind", "newer",
        "entries-missing"])
def test_what_is_wrong_with_a_crl(
    own: Authority, body: Callable[[Authority], bytes], expected: dict[str, Any], fault: str | None
) -> None:
    """Each rule of the reading; what is a moment old is no fault, and what is newer is none either."""
    found = fault_of(body(own), _published(own, _URL, **expected), system_ambient().now())
    assert found is None if fault is None else fault in (found or ""), found


@pytest.fixture
async def site() -> AsyncIterator[tuple[str, dict[str, tuple[int, str, bytes]]]]:
    """A web server in the place of ours, whose answers the test decides."""
    answers: dict[str, tuple[int, str, bytes]] = {}

    async def answer(request: web.Request) -> web.Response:
        status, kind, body = answers.get(request.path, (404, "text/plain", b""))
        return web.Response(status=status, body=body, headers={"Content-Type": kind, "Location": "/e1/1.crl"})

    application = web.Application()
    application.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", answers
    await runner.cleanup()


async def test_reading_back(own: Authority, site: tuple[str, dict[str, tuple[int, str, bytes]]]) -> None:
    """Over HTTP without redirections: missing, of another type, elsewhere, unreachable; good ones are good."""
    base, answers = site
    urls = [f"{base}/e1/{number}.crl" for number in range(1, 6)] + ["http://127.0.0.1:1/e1/1.crl"]
    answers["/e1/1.crl"] = (200, "application/pkix-crl", _crl(own, urls[0]))
    answers["/e1/2.crl"] = (200, "text/html", _crl(own, urls[1]))
    answers["/e1/3.crl"] = (302, "application/pkix-crl", b"")
    answers["/e1/5.crl"] = (200, "application/pkix-crl", _crl(own, urls[4], entries=30_000))
    faults = await read_back([_published(own, url, entries=30_000 if "/5" in url else 2) for url in urls],
                             now=system_ambient().now())
    assert [(one.url, one.fault.split(":")[0]) for one in faults] == [
        (urls[1], "Content-Type is 'text/html', not application/pkix-crl"), (urls[2], "HTTP status 302"),
        (urls[3], "HTTP status 404"), (urls[5], "cannot be read")]


async def test_list(seed: Seed, command_line: CommandLine) -> None:
    """By issuer, and shard by shard with the URLs of certificates; the newest CRL of each."""
    await command_line.run("crl", "list", exit_code=3)
    await seed.issuer()
    await seed.crl(0, 1, entries=9)
    await seed.crl(0, 2, entries=3, age=timedelta(hours=1))
    await seed.crl(1, 1)
    found = (await command_line.json("crl", "list"))["crls"]
    assert [(one["shard"], one["number"], one["entries"], one["url"]) for one in found] == [
        (1, 2, 3, "http://localhost:14002/test-issuer-ec-1/1.crl"),
        (2, 1, 0, "http://localhost:14002/test-issuer-ec-1/2.crl")]
    assert _NAME in (await command_line.run("crl", "list")).stdout
    assert "/test-issuer-ec-1/2.crl" in (await command_line.run("crl", "list", "--shards", columns=120)).stdout
    await command_line.run("crl", "list", "--issuer", "none", exit_code=3)


async def test_for_the_ccadb(seed: Seed, command_line: CommandLine) -> None:
    """All shards, each URL byte for byte as `shard_url` puts it into certificates; one shard is a full CRL."""
    await command_line.run("crl", "ccadb", exit_code=3)
    await seed.issuer()
    await seed.issuer(number=2, name="Whole", shards=1)
    first, second = (await command_line.json("crl", "ccadb"))["issuers"]
    assert first["json_array_of_partitioned_crls"] == [
        shard_url("http://localhost:14002", _NAME, shard) for shard in range(2)]
    assert first["json_array_of_all_full_crl_urls"] == second["json_array_of_partitioned_crls"] == []
    assert second["json_array_of_all_full_crl_urls"] == ["http://localhost:14002/whole/1.crl"]
    assert len(first["sha256_fingerprint"]) == 64
    assert len((await command_line.json("crl", "ccadb", "--issuer", "Whole"))["issuers"]) == 1


async def test_check_finds_what_nobody_serves(seed: Seed, command_line: CommandLine) -> None:
    """Exit code 1, with each URL."""
    await seed.issuer()
    await seed.crl(0, 1)
    found = await command_line.run("crl", "check", exit_code=1, columns=200)
    assert "/test-issuer-ec-1/1.crl: cannot be read" in found.stdout
    assert "1 CRLs read, 1 of them" in found.stdout
