"""`chancery cert`: found by name, number, account and key; shown whole; revoked by the CA alone, only with --yes."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki.object_id import ObjectId, to_text
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed, bytes_of, serial_of


async def _issued(seed: Seed, *names: str) -> tuple[ObjectId, x509.Certificate]:
    """An account with one certificate."""
    account = await seed.account("mailto:ada@example.com")
    return account, await seed.certificate(seed.new_id(), account, list(names))


@pytest.fixture
async def authority(seed: Seed) -> AsyncIterator[Seed]:
    """The CA's and the pre-signer's part: carries revocations out as they come."""
    stop = asyncio.Event()

    async def carry_out() -> None:
        issuer = await seed.database.connect("ca_issuer")
        signer = await seed.database.connect("ocsp_signer")
        while not stop.is_set():
            for row in await issuer.fetch("SELECT id, serial, reason, authority, evidence FROM revocation_requests"):
                async with issuer.transaction():
                    await issuer.execute("INSERT INTO revocations (serial, revoked_at, reason, authority, evidence)"
                                         " VALUES ($1, $2, $3, $4, $5)", row["serial"], seed.now, row["reason"],
                                         row["authority"], row["evidence"])
                    await issuer.execute("DELETE FROM revocation_requests WHERE id = $1", row["id"])
                    await issuer.execute("INSERT INTO ocsp_requests (serial, version, issuer_id, request_id,"
                                         " requested_at) VALUES ($1, 1, 1, $2, $3)", row["serial"], row["id"], seed.now)
                await asyncio.sleep(0.3)
                await signer.execute("DELETE FROM ocsp_requests WHERE serial = $1", row["serial"])
            await asyncio.sleep(0.02)
        await issuer.close()
        await signer.close()

    task = asyncio.create_task(carry_out())
    yield seed
    stop.set()
    await task


async def test_search_by_name_finds_what_is_under_it(seed: Seed, command_line: CommandLine) -> None:
    """example.com finds itself, its wildcard and its hosts; never notexample.com or example.com.evil."""
    await seed.issuer()
    wanted = []
    for name in ("example.com", "*.example.com", "a.b.example.com"):
        wanted.append((await _issued(seed, name))[1])
    for name in ("notexample.com", "example.com.evil", "example-com", "example.co"):
        await _issued(seed, name)
    document = await command_line.json("cert", "search", "Example.COM.")
    assert {found["serial"] for found in document["certificates"]} == {bytes_of(one).hex() for one in wanted}
    assert document["truncated"] is False
    only = await command_line.json("cert", "search", "*.example.com")
    assert [found["names"] for found in only["certificates"]] == [["*.example.com"]]


async def test_search_by_serial_account_and_key(seed: Seed, command_line: CommandLine) -> None:
    """Each way finds the certificate that has it."""
    await seed.issuer()
    account, certificate = await _issued(seed, "a.example", "b.example")
    await _issued(seed, "c.example")
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    serial = bytes_of(certificate).hex()
    for arguments in (("--serial", serial), ("--serial", serial[:10]), ("--account", to_text(account)),
                      ("--account", f"https://localhost:14000/acme/account/{to_text(account)}"),
                      ("--spki", hashlib.sha256(spki).hexdigest())):
        document = await command_line.json("cert", "search", *arguments)
        assert [found["serial"] for found in document["certificates"]] == [serial], arguments
    found = document["certificates"][0]
    assert found["names"] == ["a.example", "b.example"]
    assert found["state"] == "good"
    assert found["key"] == "P-256"
    assert found["account"] == to_text(account)
    assert found["revocation"] is None


async def test_serial_numbers_are_whole_at_eighty_columns(seed: Seed, command_line: CommandLine) -> None:
    """All 36 digits on one line, all names below each other, no line too long, nothing cut."""
    await seed.issuer()
    _, certificate = await _issued(seed, "a-rather-long-name.of.a.department.of.the.company.example.com",
                                   "b.example.com")
    result = await command_line.run("cert", "search", "example.com")
    lines = result.stdout.splitlines()
    assert any(line.startswith(bytes_of(certificate).hex()) for line in lines)
    assert max(map(len, lines)) <= 80
    assert "…" not in result.stdout
    wide = (await command_line.run("cert", "search", "example.com", columns=140)).stdout
    assert "a-rather-long-name.of.a.department.of.the.company.example.com" in wide


async def test_limit_is_told(seed: Seed, command_line: CommandLine) -> None:
    """When there are more, both forms say so."""
    await seed.issuer()
    for _ in range(3):
        await _issued(seed, "a.example")
    document = await command_line.json("cert", "search", "a.example", "--limit", "2")
    assert (len(document["certificates"]), document["truncated"]) == (2, True)
    result = await command_line.run("cert", "search", "a.example", "--limit", "2")
    assert result.stderr == "chancery: there are more than these 2: see --limit\n"


async def test_nothing_found(seed: Seed, command_line: CommandLine) -> None:
    """Exit code 3; the document is there for programs."""
    await seed.issuer()
    result = await command_line.run("cert", "search", "nothing.example", exit_code=3)
    assert result.stderr == "chancery: no certificate has this name: nothing.example\n"
    document = await command_line.json("cert", "search", "nothing.example", exit_code=3)
    assert document["certificates"] == []
    await command_line.run("cert", "show", "0ad7" * 9, exit_code=3)
    await command_line.run("cert", "revoke", "0ad7" * 9, "--reason", "superseded", "--yes", exit_code=3)


@pytest.mark.parametrize("arguments", [
    ("search",), ("search", "a.example", "--serial", "0ad70ad70ad7"), ("search", "--serial", "xyz"),
    ("search", "--account", "xyz"), ("search", "--spki", "xyz"), ("search", "a b"), ("show",), ("show", "xyz"),
    ("search", "a.example", "--limit", "0"), ("revoke", "0ad7" * 9),
    ("revoke", "x", "--reason", "superseded"), ("revoke", "0ad7" * 9, "--reason", "bored"),
    ("revoke", "0ad7" * 9, "--reason", "certificateHold")])
async def test_usage_errors(offline: CommandLine, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and something on stderr that says why, before the database is asked."""
    result = await offline.run("cert", *arguments, exit_code=2)
    assert result.stderr
    assert result.stdout == ""


async def test_ambiguous_prefix(seed: Seed, command_line: CommandLine) -> None:
    """A prefix that fits two certificates shows neither; one more digit shows one."""
    await seed.issuer()
    first = serial_of(seed.now, 1)
    second = first[:6] + bytes((first[6] ^ 0xFF,)) + first[7:]
    for serial in (first, second):
        await seed.certificate(seed.new_id(), await seed.account(), ["a.example"], serial=serial)
    result = await command_line.run("cert", "show", first.hex()[:12], exit_code=2)
    assert "several serial numbers begin with" in result.stderr
    assert (await command_line.json("cert", "show", first.hex()[:13]))["serial"] == first.hex()


async def test_show_has_everything(seed: Seed, command_line: CommandLine) -> None:
    """Names, dates, key, owner, CRL, and whether OCSP is published; by number and by URL."""
    await seed.issuer()
    account = await seed.account()
    order = seed.new_id()
    certificate = await seed.certificate(order, account, ["a.example"])
    serial = bytes_of(certificate)
    await seed.ocsp_request(serial, 0)
    url = f"https://localhost:14000/acme/cert/{serial.hex()}/{to_text(order)}"
    text = (await command_line.run("cert", "show", url)).stdout
    for part in (serial.hex(), "good", "a.example", "P-256", f"https://localhost:14000/acme/order/{to_text(order)}",
                 "waits to be signed since", "http://localhost:14002/test-issuer-ec-1/"):
        assert part in text
    document = await command_line.json("cert", "show", serial.hex())
    assert document["ocsp_published"] is False
    assert document["sha256"] == hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    assert document["crl_url"].endswith(f"/{int.from_bytes(serial, 'big') % 2 + 1}.crl")


async def test_show_pem_and_der(seed: Seed, command_line: CommandLine, tmp_path: Path) -> None:
    """The bytes are those that were signed."""
    await seed.issuer()
    _, certificate = await _issued(seed, "a.example")
    serial = bytes_of(certificate).hex()
    pem = (await command_line.run("cert", "show", serial, "--pem")).stdout
    assert pem == certificate.public_bytes(Encoding.PEM).decode()
    await command_line.run("cert", "show", serial, "--der", str(tmp_path / "c.der"))
    assert (tmp_path / "c.der").read_bytes() == certificate.public_bytes(Encoding.DER)
    assert (await command_line.run("cert", "show", serial, "--der", "-")).stdout_bytes == \
        certificate.public_bytes(Encoding.DER)
    failed = await command_line.run("cert", "show", serial, "--der", "/nowhere/c.der", exit_code=1)
    assert "cannot be written" in failed.stderr


async def test_half_issued_certificate(seed: Seed, command_line: CommandLine) -> None:
    """An intent without a signature is shown as such, and has no bytes to give."""
    await seed.issuer()
    certificate = await seed.certificate(seed.new_id(), await seed.account(), ["a.example"], signed=False)
    serial = bytes_of(certificate).hex()
    document = await command_line.json("cert", "show", serial)
    assert (document["state"], document["sha256"], document["names"]) == ("unsigned", None, ["a.example"])
    assert "not signed yet" in (await command_line.run("cert", "show", serial, "--pem", exit_code=1)).stderr


async def test_states(seed: Seed, command_line: CommandLine) -> None:
    """Expired and revoked are told apart; a revoked one shows why and by whom."""
    await seed.issuer()
    account = await seed.account()
    expired = await seed.certificate(seed.new_id(), account, ["old.example"], days_ago=2, days=1)
    revoked = await seed.certificate(seed.new_id(), account, ["bad.example"])
    await seed.revocation(bytes_of(revoked), 4)
    assert (await command_line.json("cert", "show", bytes_of(expired).hex()))["state"] == "expired"
    document = await command_line.json("cert", "show", bytes_of(revoked).hex())
    assert document["state"] == "revoked"
    assert document["revocation"]["reason"] == "superseded"
    text = (await command_line.run("cert", "show", bytes_of(revoked).hex())).stdout
    assert "superseded" in text
    assert "ada" in text


async def test_revoke_without_yes_does_nothing(seed: Seed, command_line: CommandLine) -> None:
    """It says what would be done, asks nobody for it, and exits with 4."""
    await seed.issuer()
    _, certificate = await _issued(seed, "a.example")
    result = await command_line.run("cert", "revoke", bytes_of(certificate).hex(), "--reason", "superseded",
                                    exit_code=4)
    assert "would revoke" in result.stdout
    assert "a.example" in result.stdout
    assert "--yes" in result.stderr
    connection = await seed.database.connect("ca_admin")
    assert await connection.fetchval("SELECT count(*) FROM revocation_requests") == 0
    await connection.close()


async def test_key_compromise_names_its_reach(seed: Seed, command_line: CommandLine) -> None:
    """Every certificate with the key falls with it, so their number is told first."""
    await seed.issuer()
    key = ec.generate_private_key(ec.SECP256R1())
    account = await seed.account()
    certificates = [await seed.certificate(seed.new_id(), account, ["a.example"], key=key) for _ in range(3)]
    result = await command_line.run("cert", "revoke", bytes_of(certificates[0]).hex(), "--reason", "keyCompromise",
                                    exit_code=4)
    assert "3 have it" in " ".join(result.stdout.split())


async def test_revoke_waits_for_the_ca_and_for_ocsp(authority: Seed, command_line: CommandLine) -> None:
    """With --yes the CA is asked, with who and why as evidence, and the command ends when OCSP is published."""
    await authority.issuer()
    _, certificate = await _issued(authority, "a.example")
    serial = bytes_of(certificate).hex()
    document = await command_line.json("cert", "revoke", serial, "--reason", "KEYCOMPROMISE", "--comment", "found on a "
                                       "paste site", "--yes")
    assert document["revoked"] is True
    assert document["ocsp_published"] is True
    assert document["waited_s"] >= 0.2
    shown = (await command_line.json("cert", "show", serial))["revocation"]
    assert (shown["reason"], shown["authority"]) == ("keyCompromise", "operator")
    assert shown["evidence"]["comment"] == "found on a paste site"
    assert "@" in shown["evidence"]["operator"]
    again = await command_line.run("cert", "revoke", serial, "--reason", "superseded", "--yes", exit_code=4)
    assert "is revoked since" in again.stderr


async def test_revoke_without_a_ca_is_degraded(seed: Seed, command_line: CommandLine) -> None:
    """Nobody carries it out: exit code 5, and the request stays for when the CA is back."""
    await seed.issuer()
    _, certificate = await _issued(seed, "a.example")
    serial = bytes_of(certificate).hex()
    result = await command_line.run("cert", "revoke", serial, "--reason", "superseded", "--yes", "--wait-s", "1",
                                    exit_code=5)
    assert "recorded" in result.stdout
    assert "the CA has not carried it out within 1 s" in result.stderr
    connection = await seed.database.connect("ca_admin")
    assert await connection.fetchval("SELECT authority FROM revocation_requests") == "operator"
    await connection.close()
    assert "not carried out yet" in " ".join((await command_line.run("cert", "show", serial)).stdout.split())


async def test_expired_certificate_is_not_revoked(seed: Seed, command_line: CommandLine) -> None:
    """Nobody accepts it any more: refused by policy."""
    await seed.issuer()
    certificate = await seed.certificate(seed.new_id(), await seed.account(), ["a.example"], days_ago=2, days=1)
    result = await command_line.run("cert", "revoke", bytes_of(certificate).hex(), "--reason", "superseded", "--yes",
                                    exit_code=4)
    assert "has expired" in result.stderr


async def test_as_a_real_process(seed: Seed, command_line: CommandLine) -> None:
    """The installed command in an 80-column environment, its JSON alone on stdout, its error alone on stderr."""
    await seed.issuer()
    await _issued(seed, "a.example")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(Path(sys.executable).parent / "chancery"), *arguments], capture_output=True, text=True, check=False,
            timeout=60, env=os.environ | {"CHANCERY_CONFIG": str(command_line.config), "COLUMNS": "80"})

    good = await asyncio.to_thread(run, "cert", "search", "a.example", "-o", "json")
    assert (good.returncode, good.stderr) == (0, "")
    assert len(json.loads(good.stdout)["certificates"]) == 1
    bad = await asyncio.to_thread(run, "cert", "show", "nonsense")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.count("\n") == 1
