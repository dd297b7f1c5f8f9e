"""`chancery profile show|diff|test`: what a profile means, and what a request would become."""

import base64
import hashlib
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.admin.ceremony.store import record_ceremony
from ca.admin.profile_view import difference, facts, length
from ca.pki.profile import PROFILES
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed
from tests.ca.pki.csr_maker import request as make_csr
from tests.fixtures_hsm import DemoCeremony

_ALLOW = 'internal_suffixes = ["*"]\n'


def _csr(tmp_path: Path, *names: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> str:
    path = tmp_path / "request.der"
    path.write_bytes(make_csr(key or ec.generate_private_key(ec.SECP256R1()), names=list(names)))
    return str(path)


async def _authority(seed: Seed, ceremony: DemoCeremony) -> None:
    """The demo's hierarchy; its RSA issuer is staged."""
    connection = await seed.database.connect("ca_admin")
    await record_ceremony(connection, ceremony.result)
    await connection.close()
    owner = await seed.database.connect()
    await owner.execute("UPDATE issuers SET active = false WHERE key_type = 'rsa'")
    await owner.close()


def _allow_every_suffix(command_line: CommandLine) -> None:
    text = command_line.config.read_text("utf-8")
    command_line.config.write_text(text.replace("[ca]\n", f"[ca]\n{_ALLOW}"), "utf-8")


def test_lengths() -> None:
    """In the largest unit that says it exactly."""
    assert [length(seconds) for seconds in (90 * 86_400, 160 * 3_600, 86_399)] == ["90 d", "160 h", "86399 s"]


@pytest.mark.parametrize("profile", sorted(PROFILES))
async def test_show(offline: CommandLine, profile: str) -> None:
    """Every field, and what lint allows with its reason; no database is needed."""
    document = await offline.json("profile", "show", profile)
    assert document["name"] == profile
    assert document["extendedKeyUsage"] == "serverAuth"
    assert ("OCSP" in document["authorityInfoAccess"]) is PROFILES[profile].ocsp
    if profile == "classic":
        assert document["validity"] == "90 d now; 46 d from 2029-03-15"
        assert "cabf.serverauth.dv.common_name_attribute_present" in document["allowed"]
    assert profile in (await offline.run("profile", "show", profile)).stdout


async def test_diff(offline: CommandLine) -> None:
    """Only what differs; a profile does not differ from itself."""
    document = await offline.json("profile", "diff", "classic", "tlsserver")
    found = {row["what"]: (row["classic"], row["tlsserver"]) for row in document["differences"]}
    assert found["names"] == ("1 to 100", "1 to 25")
    assert found["subject"] == ("the first name that fits, as common name", "empty")
    assert "extendedKeyUsage" not in found
    assert "there is no difference" in (await offline.run("profile", "diff", "classic", "classic")).stdout
    assert "keyEncipherment" in (await offline.run("profile", "diff", "classic", "shortlived", columns=120)).stdout


def test_a_difference_is_symmetric() -> None:
    """What one has and the other has not is in both directions."""
    assert difference([("a", "1"), ("b", "2")], [("a", "1"), ("c", "3")]) == [("b", "2", "-"), ("c", "-", "3")]
    assert not difference([("a", "1")], [("a", "1")])


async def test_test(
    seed: Seed, command_line: CommandLine, demo_ceremony: DemoCeremony, tmp_path: Path
) -> None:
    """A good request, DER and PEM: the certificate's fields, the findings that are allowed, exit code 0."""
    _allow_every_suffix(command_line)
    await _authority(seed, demo_ceremony)
    csr = _csr(tmp_path, "www.example.com", "example.com")
    document = await command_line.json("profile", "test", csr)
    assert (document["profile"], document["accepted"], document["issuer"]) == ("classic", True, "Chancery Demo E1")
    assert document["names"] == "example.com, www.example.com"
    assert document["validity"].endswith("90 d")
    assert all(finding["allowed"] for finding in document["findings"])
    assert {finding["code"] for finding in document["findings"]} >= {
        "cabf.serverauth.dv.common_name_attribute_present"}
    text = (await command_line.run("profile", "test", csr, "--profile", "tlsserver", columns=160)).stdout
    assert "subjectAltName (critical)" in text
    assert "ok: it would be signed, once its names are validated" in text
    pem = tmp_path / "request.pem"
    body = base64.encodebytes(Path(csr).read_bytes()).decode()
    pem.write_text(f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n")
    await command_line.run("profile", "test", str(pem))


async def test_refused(
    seed: Seed, command_line: CommandLine, demo_ceremony: DemoCeremony, tmp_path: Path
) -> None:
    """Each reason in words, exit code 4: no issuer, key, names, number of names, name policy, a blocked key."""
    await _authority(seed, demo_ceremony)
    result = await command_line.run("profile", "test", _csr(tmp_path, "www.example.internal"), exit_code=4)
    assert "it would be refused" in result.stderr
    _allow_every_suffix(command_line)
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    of_rsa = _csr(tmp_path, "a.example.com", key=rsa.generate_private_key(65_537, 2048))
    assert "no issuer for RSA keys" in (await command_line.run("profile", "test", of_rsa, exit_code=4)).stderr
    many = _csr(tmp_path, *(f"n{number}.example.com" for number in range(26)))
    assert "1 to 25 names" in (await command_line.run("profile", "test", many, "--profile", "tlsserver", exit_code=4)
                               ).stderr
    weak = _csr(tmp_path, "a.example.com", key=ec.generate_private_key(ec.SECP224R1()))
    assert "refused" in (await command_line.run("profile", "test", weak, exit_code=4)).stderr
    good = _csr(tmp_path, "a.example.com", key=key)
    await command_line.run("profile", "test", good)
    owner = await seed.database.connect()
    await owner.execute("INSERT INTO blocked_keys VALUES ($1, NULL, now(), 'operator', '{}')",
                        hashlib.sha256(spki).digest())
    await owner.close()
    assert "the key is blocked" in (await command_line.run("profile", "test", good, exit_code=4)).stderr


async def test_no_request(command_line: CommandLine, tmp_path: Path) -> None:
    """A file that is none is a mistake of the one who typed: exit code 2, or 4 when only its content is bad."""
    path = tmp_path / "x"
    path.write_bytes(b"hello")
    assert "no certification request" in (await command_line.run("profile", "test", str(path), exit_code=2)).stderr
    path.write_bytes(bytes.fromhex("3000"))
    await command_line.run("profile", "test", str(path), exit_code=4)
    await command_line.run("profile", "test", str(tmp_path / "missing"), exit_code=2)


def test_facts_are_complete() -> None:
    """Two profiles that differ in a flag differ in a fact."""
    now = datetime(2026, 11, 25, tzinfo=UTC)
    base = PROFILES["tlsserver"]
    for each in fields(base):
        value = getattr(base, each.name)
        other: object = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value + "x"
        changed = replace(base, **{each.name: other})  # type: ignore[arg-type]
        assert difference(facts(base, now=now), facts(changed, now=now)), each.name
