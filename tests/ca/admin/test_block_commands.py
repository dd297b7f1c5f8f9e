"""`chancery key` and `chancery name`: what would happen, what has to be proven, what is asked of the CA, and the lists.
"""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from ca.issuing.audit import AuditTrail
from ca.issuing.revoke import revoke_requested
from ca.pki.key_loss import SENTENCES
from ca.process.ambient import system_ambient
from ca.process.postgres import create_pool
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed, bytes_of

_PEM, _PKCS8 = Encoding.PEM, PrivateFormat.PKCS8


@pytest.fixture
async def authority(seed: Seed) -> AsyncIterator[Seed]:
    """The CA's part, by its own code."""
    stop = asyncio.Event()
    log = structlog.wrap_logger(structlog.PrintLogger(io.StringIO()))

    async def carry_out() -> None:
        async with await create_pool(seed.database.settings, "ca_issuer", process="ca") as pool:
            while not stop.is_set():
                await revoke_requested(pool, system_ambient(), AuditTrail(log=log), log)
                await asyncio.sleep(0.02)

    task = asyncio.create_task(carry_out())
    yield seed
    stop.set()
    await task


def _digest(key: ec.EllipticCurvePrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _csr(key: ec.EllipticCurvePrivateKey, common_name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256()).public_bytes(_PEM)


async def test_block_by_the_private_key(authority: Seed, command_line: CommandLine, tmp_path: Path) -> None:
    """Without --yes it says what would happen and does nothing; with it the certificates are revoked when it returns,
    and the private key is stored nowhere."""
    seed, key = authority, ec.generate_private_key(ec.SECP256R1())
    await seed.issuer()
    made = [await seed.certificate(seed.new_id(), None, [f"n{number}.example"], key=key) for number in range(3)]
    file = tmp_path / "leaked.pem"
    file.write_bytes(key.private_bytes(_PEM, _PKCS8, NoEncryption()))
    told = await command_line.run("key", "block", "--key-file", str(file), exit_code=4)
    assert "certificates to revoke: 3" in told.stdout
    assert (await command_line.json("key", "list"))["keys"] == []
    document = await command_line.json("key", "block", "--key-file", str(file), "--comment", "leaked", "--yes")
    assert (document["spki_sha256"], document["blocked"], document["certificates"]) == (_digest(key), True, 3)
    for certificate in made:
        shown = await command_line.json("cert", "show", bytes_of(certificate).hex())
        assert (shown["state"], shown["revocation"]["reason"]) == ("revoked", "keyCompromise")
        assert shown["revocation"]["evidence"]["proof"] == "the private key was shown"
    listed = (await command_line.json("key", "list"))["keys"]
    assert [(one["spki_sha256"], one["proven"], one["comment"]) for one in listed] == [(_digest(key), True, "leaked")]
    await command_line.run("key", "block", "--spki", _digest(key), "--yes", exit_code=4)
    refused = await command_line.run("key", "unblock", _digest(key), "--yes", exit_code=4)
    assert "stays blocked" in refused.stderr
    owner = await seed.database.connect()
    secret = key.private_numbers().private_value.to_bytes(32, "big").hex()
    assert secret not in str(await owner.fetch("SELECT * FROM operator_acts"))
    await owner.close()


async def test_block_by_a_signed_sentence(authority: Seed, command_line: CommandLine, tmp_path: Path) -> None:
    """A certification request proves something when the key signed it and its name says what it is for."""
    await authority.issuer()
    key, file = ec.generate_private_key(ec.SECP256R1()), tmp_path / "proof.csr"
    file.write_bytes(_csr(key, "www.example.com"))
    assert "sentences" in (await command_line.run("key", "block", "--csr", str(file), "--yes", exit_code=4)).stderr
    good = x509.load_pem_x509_csr(_csr(key, SENTENCES[0])).public_bytes(Encoding.DER)
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    await command_line.run("key", "block", "--csr", str(file), "--yes", exit_code=4)
    for sentence in SENTENCES:
        key = ec.generate_private_key(ec.SECP256R1())
        file.write_bytes(_csr(key, sentence))
        document = await command_line.json("key", "block", "--csr", str(file), "--yes")
        assert document["blocked"] is True
        assert sentence in document["proof"]


async def test_block_by_hash_and_take_it_back(authority: Seed, command_line: CommandLine) -> None:
    """A hash is an operator's word; the key of a certificate of ours is found by it."""
    await authority.issuer()
    text = "ab" * 32
    told = await command_line.run("key", "block", "--spki", text, exit_code=4)
    assert "its hash alone is known" in " ".join(told.stdout.split())
    await command_line.run("key", "block", "--spki", text, "--yes")
    await command_line.run("key", "unblock", text, exit_code=4)
    await command_line.run("key", "unblock", text, "--yes")
    for _ in range(300):
        if not (await command_line.json("key", "list"))["keys"]:
            break
        await asyncio.sleep(0.1)
    await command_line.run("key", "unblock", text, "--yes", exit_code=3)


async def test_what_is_no_key(offline: CommandLine, tmp_path: Path) -> None:
    """Nothing, several, an encrypted or empty file: exit code 2, with the reason."""
    await offline.run("key", "block", "--yes", exit_code=2)
    await offline.run("key", "block", "--spki", "ab" * 32, "--csr", "x", exit_code=2)
    await offline.run("key", "block", "--spki", "zz", exit_code=2)
    file = tmp_path / "x"
    file.write_bytes(b"")
    await offline.run("key", "block", "--csr", str(file), exit_code=2)
    await offline.run("key", "block", "--key-file", str(file), exit_code=2)
    await offline.run("key", "block", "--key-file", str(tmp_path / "none"), exit_code=1)
    file.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(
        _PEM, _PKCS8, BestAvailableEncryption(b"secret")))
    assert "encrypted" in (await offline.run("key", "block", "--key-file", str(file), exit_code=2)).stderr


async def test_a_key_that_waits(seed: Seed, command_line: CommandLine) -> None:
    """Without a CA the request stays, and the exit code says that it is not done."""
    told = await command_line.run("key", "block", "--spki", "cd" * 32, "--yes", "--wait-s", "0", exit_code=5)
    assert "asked to block" in told.stdout
    owner = await seed.database.connect()
    assert await owner.fetchval("SELECT act FROM operator_acts WHERE recorded_at IS NULL") == "block key"
    await owner.close()


async def test_names(seed: Seed, command_line: CommandLine) -> None:
    """Blocked only with --yes, once, in one spelling; each step is an act on record; unblocked again."""
    await command_line.run("name", "block", "Bank.Example", exit_code=4)
    assert (await command_line.json("name", "list"))["names"] == []
    await command_line.run("name", "block", "*.Bank.Example.", "--comment", "trade mark", "--yes")
    await command_line.run("name", "block", "bank.example", "--yes", exit_code=4)
    await command_line.run("name", "block", "www.shop.example", "--exact", "--yes")
    listed = (await command_line.json("name", "list"))["names"]
    assert [(one["name"], one["and_below"], one["comment"]) for one in listed] == [
        ("bank.example", True, "trade mark"), ("www.shop.example", False, "")]
    text = (await command_line.run("name", "list")).stdout
    assert "it alone" in text
    await command_line.run("name", "unblock", "www.bank.example", "--yes", exit_code=3)
    await command_line.run("name", "unblock", "bank.example", exit_code=4)
    await command_line.run("name", "unblock", "bank.example", "--yes")
    assert [one["name"] for one in (await command_line.json("name", "list"))["names"]] == ["www.shop.example"]
    owner = await seed.database.connect()
    acts = [row["act"] for row in await owner.fetch("SELECT act FROM operator_acts ORDER BY id")]
    assert acts == ["block name", "block name", "unblock name"]
    await owner.close()


async def test_lists_of_weak_keys(seed: Seed, command_line: CommandLine, tmp_path: Path) -> None:
    """Imported in a form, once; what has such a key is counted; taken out by its name; all on record."""
    await seed.issuer()
    key = ec.generate_private_key(ec.SECP256R1())
    await seed.certificate(seed.new_id(), None, ["a.example"], key=key)
    file = tmp_path / "list"
    file.write_text(f"# weak\n{_digest(key)}\n{'ab' * 32}\n{'AB' * 32}\n")
    imported = ("key", "import-list", str(file), "--form", "spki-sha256", "--source", "mine")
    document = await command_line.json(*imported)
    assert (document["keys"], document["new"], document["certificates"]) == (2, 2, 1)
    assert (await command_line.json(*imported))["new"] == 0
    assert (await command_line.json("key", "lists"))["lists"] == [{"source": "mine", "keys": 2}]
    refused = await command_line.run("key", "import-list", str(file), "--form", "openssl-blacklist", "--source", "x",
                                     exit_code=2)
    assert "line 2" in refused.stderr
    await command_line.run("key", "drop-list", "other", "--yes", exit_code=3)
    await command_line.run("key", "drop-list", "mine", exit_code=4)
    await command_line.run("key", "drop-list", "mine", "--yes")
    assert (await command_line.json("key", "lists"))["lists"] == []
    owner = await seed.database.connect()
    acts = [row["act"] for row in await owner.fetch("SELECT act FROM operator_acts ORDER BY id")]
    assert acts == ["import weak keys", "import weak keys", "drop weak keys"]
    await owner.close()
