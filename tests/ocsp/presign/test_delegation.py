"""Delegated responders from key to answer: CA, pre-signer and responder as real processes, issuers with slow keys."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from ca.pki.ocsp_responder import Delegation, require_responder_key, tbs_responder
from ca.pki.tbs import assemble
from ca.pki.validity import Validity
from ca.process.ambient import system_ambient
from ca.process.audit_reader import read_chain
from ca.process.postgres import create_pool
from ca.process.settings import OcspSettings
from hsm.errors import KeyGenerationError
from hsm.generate import KeySpec, destroy_key, generate_key
from hsm.key import HsmPrivateKey, private_key
from hsm.thread import HsmThread
from hsm.token import Token
from ocsp.presign import signers as signers_module
from ocsp.presign.gate import SigningGate
from ocsp.presign.round import Presigner
from ocsp.presign.signers import Signers
from tests.ca.pki.authority import Authority, authority
from tests.fixtures_hsm import SoftHsm, make_softhsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.certificates import Certificates, certificates_in
from tests.ocsp.processes import add_issuer, openssl_ocsp, port_of, running, until, write_config
from tests.ocsp.responder.serving import request_for
from tests.ocsp.responder.test_process import ask, status_of

_LIVE = "live = true\nlive_wait_ms = 5000"
_SPECS = {"Slow E1": KeySpec.P_384, "Slow R1": KeySpec.RSA_3072, "Quick E1": KeySpec.P_256}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A token of the CA with the issuers' keys, an empty one, and the issuers in the order of their ids from 1."""

    online: SoftHsm
    empty: SoftHsm
    issuers: dict[str, Authority]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Keys made once; what the pre-signer adds to a token stays in it."""
    directory, now = tmp_path_factory.mktemp("slow"), datetime.now(UTC).replace(microsecond=0)
    online, empty = make_softhsm(directory / "online", "online"), make_softhsm(directory / "empty", "empty")
    with online.open(writable=True) as token:
        for name, spec in _SPECS.items():
            generate_key(token, label=name, key_id=system_ambient().random_bytes(16), spec=spec)
        issuers = {name: authority(private_key(token, name), now=now) for name in _SPECS}
    return Place(online=online, empty=empty, issuers=issuers)


def labels(softhsm: SoftHsm) -> set[str]:
    """Labels of the keys in a token."""
    with softhsm.open() as token:
        return {listing.label for listing in token.list_keys()}


async def _until_good(certificates: Certificates, port: int, place: Place) -> dict[str, bytes]:
    """A certificate of each issuer whose status is known."""
    serials = {}
    for issuer_id, (name, own) in enumerate(place.issuers.items(), 1):
        serials[name], = await certificates.add(1, issuer_id=issuer_id)
        await until(lambda own=own, serial=serials[name]: status_of(port, own, serial) is ocsp.OCSPCertStatus.GOOD,
                    patience_s=60, every_s=0.05)
    return serials


@pytest.mark.parametrize("own_token", [False, True], ids=["shared-token", "own-token"])
async def test_slow_issuers_are_answered_for_by_certified_responders(
    database: TestDatabase, tmp_path: Path, place: Place, own_token: bool
) -> None:
    """The pre-signer makes the key, the CA certifies it, openssl verifies what it signs, a revocation shows.

    What openssl asks with its nonce is signed live, by the same responders. Without a token of its own the pre-signer
    signs for the quick issuer with its key; with one it has no CA key at all. A second start makes no second key.
    """
    config = write_config(tmp_path, database.settings, hsm=place.online.settings, ocsp=_LIVE,
                          ocsp_hsm=place.empty.settings if own_token else None)
    for issuer_id, (name, own) in enumerate(place.issuers.items(), 1):
        await add_issuer(database, own, issuer_id=issuer_id, name=name)
    port, delegated = port_of(config), set(place.issuers) - (set() if own_token else {"Quick E1"})
    async with certificates_in(database) as certificates:
        with running("ca", config) as ca, running("presign", config) as signer, running("ocsp", config) as responder:
            for process in (ca, signer, responder):
                await process.ready()
            serials = await _until_good(certificates, port, place)
            for name, own in place.issuers.items():
                read = ocsp.load_der_ocsp_response(ask(port, request_for(own, serials[name])))
                assert [one.issuer for one in read.certificates] == (
                    [own.certificate.subject] if name in delegated else [])
                for one in read.certificates:
                    one.verify_directly_issued_by(own.certificate)
                    key = one.public_key()
                    assert isinstance(key, ec.EllipticCurvePublicKey)
                    key.verify(read.signature, read.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
                for options in ((), ("-sha256",)):
                    said = await asyncio.to_thread(openssl_ocsp, tmp_path, own, serials[name], port, *options)
                    assert "Response verify OK" in said, said
                    assert f"0x{serials[name].hex()}: good" in said
                    assert "no nonce" not in said
                await certificates.revoke([serials[name]], issuer_id=list(place.issuers).index(name) + 1)
                await until(lambda own=own, serial=serials[name]:
                            status_of(port, own, serial) is ocsp.OCSPCertStatus.REVOKED, patience_s=30)
        made = labels(place.empty if own_token else place.online) - set(_SPECS)
        assert {label.removeprefix("OCSP ")[:-21] for label in made} == delegated
        with running("presign", config, name="again") as signer:
            await signer.ready()
            await _until_good_without(certificates)
        assert labels(place.empty if own_token else place.online) - set(_SPECS) == made
        rows = await certificates.owner.fetch("SELECT * FROM ocsp_responders ORDER BY id")
        assert len(rows) == len(delegated)
        for row in rows:
            stored = await certificates.owner.fetchrow(
                "SELECT * FROM certificates NATURAL JOIN certificate_signatures WHERE serial = $1", row["serial"])
            assert stored is not None
            assert (stored["profile"], stored["has_ocsp"]) == ("ocsp-responder", False)
            assert x509.load_der_x509_certificate(row["certificate"]).tbs_certificate_bytes == stored["tbs"]
        assert "signing" in {record.event for record in read_chain(config.parent / "audit" / "ca.0")}
        if own_token:
            await _change_key(certificates, config, place, made)


async def _change_key(certificates: Certificates, config: Path, place: Place, made: set[str]) -> None:
    """As the runbook says: the key is deleted from the token, the pre-signer restarted; a new one is made, certified,
    and signs."""
    old = next(label for label in made if label.startswith("OCSP Slow E1 "))
    with place.empty.open(writable=True) as token:
        destroy_key(token, label=old, key_id=next(one.key_id for one in token.list_keys() if one.label == old))
    with running("ca", config, name="ca-2") as ca, running("presign", config, name="presign-2") as signer:
        await ca.ready()
        await signer.ready()
        serial, = await certificates.add(1)
        await certificates.until_answered(patience_s=60)
    new, = labels(place.empty) - made
    assert new.startswith("OCSP Slow E1 ")
    last = await certificates.owner.fetchrow("SELECT id, key_label FROM ocsp_responders ORDER BY id DESC LIMIT 1")
    assert last is not None
    assert last["key_label"] == new
    assert (await certificates.batches())[-1][1][serial].responder_id == last["id"]


async def _until_good_without(certificates: Certificates) -> None:
    """One more certificate of each issuer is answered for without the CA."""
    for issuer_id in range(1, len(_SPECS) + 1):
        await certificates.add(1, issuer_id=issuer_id)
    await certificates.until_answered(patience_s=60)


@pytest.mark.parametrize("faults", [2, 3])
def test_a_key_that_came_out_otherwise_is_made_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, faults: int
) -> None:
    """SoftHSM reads back another one at times, while a process logs in. A token that makes no other is refused."""
    tries = list[str]()

    def generate(token: Token, *, label: str, key_id: bytes, spec: KeySpec) -> HsmPrivateKey:
        tries.append(label)
        if len(tries) <= faults:
            raise KeyGenerationError("otherwise than asked")
        return generate_key(token, label=label, key_id=key_id, spec=spec)

    monkeypatch.setattr(signers_module, "generate_key", generate)
    now = datetime.now(UTC)
    with place.empty.open(writable=True) as token:
        if faults == 3:
            with pytest.raises(KeyGenerationError):
                signers_module._responder_key(token, "Nobody E1", now, b"1")
            return
        label, csr = signers_module._responder_key(token, "Nobody E1", now, b"1")
        assert tries == [label] * 3
        assert require_responder_key(csr) in token.public_key_spkis()
        destroy_key(token, label=label, key_id=b"1")


async def test_a_renewed_responder_is_taken_up_and_no_response_outlives_the_one_that_signed(
    database: TestDatabase, place: Place
) -> None:
    """The signer changes with the certificate; near its end responses end with it, and in its last hours there are none
    (spec 1.4)."""
    own, ambient = place.issuers["Slow E1"], system_ambient()
    await add_issuer(database, own, name="Slow E1")
    pool = await create_pool(database.settings, "ocsp_signer", process="test")
    thread = await HsmThread.open(module=place.empty.module, conf=place.empty.conf, pin_file=place.empty.pin_file,
                                  token_label=place.empty.token_label, writable=True)
    async with pool, certificates_in(database) as certificates, thread:
        signers = Signers(pool=pool, thread=thread, delegation=Delegation(rule="slow"), ambient=ambient,
                          log=structlog.get_logger())
        presigner = Presigner(pool=pool, gate=SigningGate(thread), signers=signers.by_issuer, ambient=ambient,
                              settings=OcspSettings(listen=[], store_dir=place.empty.pin_file),
                              log=structlog.get_logger())
        assert await signers.open()
        assert signers.by_issuer == {}
        certificate, = await certificates.add(1)
        assert await presigner.new.step() is False
        for number, left in enumerate((timedelta(hours=7), timedelta(days=3), timedelta(days=90)), 1):
            await _certify(certificates, own, number, left)
            await signers.refresh()
            assert signers.by_issuer[1].responder_id == number
            assert await presigner.new.step() is (number > 1)
            await presigner.new.drain()
            if number == 1:
                continue
            _, records = (await certificates.batches())[-1]
            response = records[certificate]
            assert response.responder_id == number
            end = signers.by_issuer[1].not_after
            week = response.times.this_update_s + 7 * 86_400 - 1
            assert response.times.next_update_s == min(int(end.timestamp()), week)
            await certificates.ask([certificate])


async def _certify(certificates: Certificates, own: Authority, number: int, left: timedelta) -> None:
    """As the CA does, with a life that the test chooses."""
    row = await certificates.owner.fetchrow("SELECT * FROM ocsp_responder_keys")
    assert row is not None
    now = datetime.now(UTC).replace(microsecond=0)
    period = Validity(not_before=now - timedelta(hours=1), not_after=now + left)
    serial = b"\x0a" + number.to_bytes(17, "big")
    tbs = tbs_responder(issuer=own.issuer, spki_der=require_responder_key(row["csr"]), serial=serial, validity=period)
    root = ec.generate_private_key(ec.SECP384R1())      # the pre-signer needs no signature of the CA's to be valid
    await certificates.ca.execute(
        "INSERT INTO ocsp_responders VALUES ($1, 1, $2, $3, $4, $5, $6)", number, row["label"], serial,
        period.not_before, period.not_after, assemble(tbs, root.sign(tbs, ec.ECDSA(hashes.SHA384()))))
