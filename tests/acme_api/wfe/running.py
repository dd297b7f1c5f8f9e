"""A WFE in the test's own event loop, on a free loopback port and a real database, and what the other processes do."""

import asyncio
import hashlib
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from acme_api.wfe.__main__ import SESSIONS, TRANSACTIONS, make_context, start_background, until_nonces_hold
from acme_api.wfe.app import App
from acme_api.wfe.context import Context
from acme_api.wfe.server import Listening
from acme_api.wfe.store import READ_OPTIONS, WRITE_OPTIONS
from ca.pki.object_id import from_text
from ca.process.ambient import Ambient, system_ambient
from ca.process.limit_settings import LimitsSettings
from ca.process.postgres import create_pool
from ca.process.settings import (
    AcmeSettings,
    AdminSettings,
    CaSettings,
    DistributionSettings,
    HsmSettings,
    OcspSettings,
    Settings,
    VaSettings,
)
from tests.acme_client import AcmeClient, Answer, SigningKey, b64, general_name, make_csr
from tests.fixtures_postgres import TestDatabase

BASE = "https://ca.example:14000"
NONCE_KEY = bytes(range(32))
_SERIAL_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Clock:
    """The system's time, shifted by as much as a test wants."""

    shift: timedelta = timedelta(0)

    def now(self) -> datetime:
        """The moment that the server believes in."""
        return datetime.now(UTC) + self.shift

    def ambient(self) -> Ambient:
        """As the server is given it."""
        return Ambient(now=self.now, random_bytes=system_ambient().random_bytes)


def make_settings(database: TestDatabase, directory: Path, **acme: Any) -> Settings:
    """Settings of a WFE; `acme` changes its section, `ca_` and `va_` members those of the CA and the VA."""
    ca = {name[3:]: acme.pop(name) for name in list(acme) if name.startswith("ca_")}
    va = {name[3:]: acme.pop(name) for name in list(acme) if name.startswith("va_")}
    policy, limits = acme.pop("policy", "internal"), acme.pop("limits", LimitsSettings())
    own: dict[str, Any] = {"base_url": BASE, "listen": ["127.0.0.1:1"], "tls": False,
                           "validation_wait_ms": 0, "nonce_key": directory / "nonce.key"}
    return Settings(
        data_dir=directory, policy=policy, limits=limits, database=database.settings,
        hsm=HsmSettings(module="x", token_label="x", pin_file=directory / "pin"),
        acme=AcmeSettings(**own | acme),
        va=VaSettings(**{"caa_identities": ["ca.example"]} | va),
        ca=CaSettings(**{"internal_suffixes": ["*"], "ocsp_url": "http://o.example", "aia_base_url": "http://a.example",
                         "crl_base_url": "http://c.example"} | ca),
        ocsp=OcspSettings(listen=["127.0.0.1:2"], store_dir=directory / "ocsp"),
        distribution=DistributionSettings(listen=["127.0.0.1:3"]), admin=AdminSettings(listen=["127.0.0.1:4"]))


@dataclass(kw_only=True)
class RunningWfe:
    """One server."""

    address: str
    context: Context
    http: aiohttp.ClientSession
    app: App

    def client(self, key: SigningKey | None = None, **members: Any) -> AcmeClient:
        """A subscriber without an account."""
        return AcmeClient(http=self.http, public_base=BASE, base=self.address, key=key or SigningKey.make(), **members)

    async def subscriber(self, key: SigningKey | None = None) -> AcmeClient:
        """A subscriber with an account."""
        client = self.client(key)
        (await client.register()).require(201)
        return client


async def start_wfe(stack: AsyncExitStack, settings: Settings, clock: Clock) -> RunningWfe:
    """Starts a server that ends with `stack`."""
    reads = await create_pool(settings.database, "acme_wfe", process="wfe", max_size=SESSIONS, options=READ_OPTIONS)
    stack.callback(reads.terminate)
    writes = await create_pool(settings.database, "acme_wfe", process="wfe", max_size=SESSIONS + TRANSACTIONS,
                               options=WRITE_OPTIONS)
    stack.callback(writes.terminate)
    context = make_context(settings, clock.ambient(), structlog.get_logger(), nonce_key=NONCE_KEY, reads=reads,
                           writes=writes)
    await start_background(stack, settings, context)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    app = App(context)
    await until_nonces_hold(context)
    listening = Listening.start(app, [listener], None, read_timeout_s=settings.acme.read_timeout_s)
    stack.push_async_callback(listening.drain, timeout_s=1.0)
    http = await stack.enter_async_context(aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), auto_decompress=False))
    port = listener.getsockname()[1]
    return RunningWfe(address=f"http://127.0.0.1:{port}", context=context, http=http, app=app)


def id_of(url: str) -> bytes:
    """The object's id at or near the end of its URL."""
    found = [value for part in url.split("/") if (value := from_text(part)) is not None]
    return bytes(found[-1])


@dataclass
class OtherProcesses:
    """The VA, the CA and the pre-signer: each fact is inserted under the role that alone may assert it."""

    database: TestDatabase
    clock: Clock
    issuer_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    chains: int = 1
    _issuer: x509.Certificate | None = None

    async def run(self, role: str, *statements: tuple[Any, ...]) -> None:
        """Statements of one role, in one transaction."""
        connection = await self.database.connect(role)
        try:
            async with connection.transaction():
                for statement, *arguments in statements:
                    await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    async def value(self, statement: str, *arguments: Any) -> Any:
        """One value, read by the owner of the tables."""
        connection = await self.database.connect()
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(await self.value(f"SELECT count(*) FROM {table}"))

    async def validate(self, authorization_url: str, *, problem: Any = None, method: str = "http-01",
                       caa_age: timedelta = timedelta(0), life: timedelta = timedelta(days=30),
                       corroborated: int = 0) -> None:
        """The VA ends the validation of an authorization."""
        authorization_id, now = id_of(authorization_url), self.clock.now()
        row = await self.value("SELECT to_jsonb(a) FROM authorizations a WHERE id = $1", authorization_id)
        account_id = bytes.fromhex(row["account_id"].removeprefix("\\x"))
        await self.run(
            "acme_va",
            ("DELETE FROM validation_requests WHERE authorization_id = $1", authorization_id),
            ("INSERT INTO validations (authorization_id, account_id, identifier_type, identifier_value, wildcard,"
             " challenge_type, thumbprint, validated_at, valid_until, caa_checked_at, problem, remotes_corroborated,"
             " subdomains, evidence)"
             " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, '\\x007b7d')",
             authorization_id, account_id,
             row["identifier_type"], row["identifier_value"], row["wildcard"], method, bytes(32), now,
             None if problem else now + life, None if problem else now - caa_age, problem, corroborated,
             row["subdomains"]),
            ("SELECT pg_notify('changed', $1)", authorization_id.hex()))

    async def make_issuer(self) -> x509.Certificate:
        """The issuing certificate, with `chains` chains: each is the issuer itself and one above."""
        if self._issuer is None:
            now = self.clock.now().replace(microsecond=0)
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Issuer")])
            self._issuer = (
                x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
                .public_key(self.issuer_key.public_key()).not_valid_before(now - timedelta(days=1))
                .not_valid_after(now + timedelta(days=1000))
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.issuer_key.public_key()), False)
                .sign(self.issuer_key, hashes.SHA256()))
            der = self._issuer.public_bytes(Encoding.DER)
            await self.run(
                "ca_admin", ("INSERT INTO issuers VALUES (1, 'Test Issuer', 'ec', $1, 2, true, now())", der),
                *[("INSERT INTO issuer_chains VALUES (1, $1, $2)", position, [der] * (position + 1))
                  for position in range(self.chains)])
        return self._issuer

    async def issue(self, request_id: bytes, names: Sequence[str], public_key: Any, *, account_id: bytes | None,
                    days: int = 90, publish: bool = True, has_ocsp: bool = True) -> x509.Certificate:
        """The CA's intent and signature and, unless told otherwise, the pre-signer's first response."""
        issuer, now = await self.make_issuer(), self.clock.now()
        day = 256 + (now - _SERIAL_EPOCH).days
        serial = day.to_bytes(2, "big") + hashlib.sha256(request_id).digest()[:16]
        begin = now.replace(microsecond=0) - timedelta(hours=1)
        certificate = (
            x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(issuer.subject).public_key(public_key)
            .serial_number(int.from_bytes(serial, "big")).not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.issuer_key.public_key()), False)
            .sign(self.issuer_key, hashes.SHA256()))
        spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        await self.run(
            "ca_issuer", ("INSERT INTO issuances VALUES ($1, $2)", request_id, serial),
            ("INSERT INTO certificates VALUES ($1, $2, $3, 1, 'classic', $4, $5, $6, $7, $8, $9)", serial, request_id,
             account_id, certificate.not_valid_before_utc, certificate.not_valid_after_utc,
             hashlib.sha256(spki).digest(), certificate.tbs_certificate_bytes, now, has_ocsp),
            ("INSERT INTO certificate_names SELECT reverse(name), $2 FROM unnest($1::text[]) AS name", list(names),
             serial),
            *([("INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at)"
                " VALUES ($1, 0, 1, $2, $3)", serial, request_id, now)] if has_ocsp else []))
        await self.run(
            "ca_issuer",
            ("INSERT INTO certificate_signatures VALUES ($1, $2, $3)", serial, now, certificate.signature),
            ("DELETE FROM issuance_requests WHERE id = $1", request_id),
            ("SELECT pg_notify('changed', $1)", request_id.hex()))
        if publish:
            await self.publish(request_id)
        return certificate

    async def publish(self, request_id: bytes) -> None:
        """The pre-signer's batch is out."""
        await self.run("ocsp_signer", ("DELETE FROM ocsp_requests WHERE request_id = $1", request_id),
                       ("SELECT pg_notify('changed', $1)", request_id.hex()))

    async def refuse(self, request_id: bytes, problem: Any) -> None:
        """The CA's final no."""
        await self.run("ca_issuer", ("INSERT INTO refusals VALUES ($1, now(), $2)", request_id, problem),
                       ("DELETE FROM issuance_requests WHERE id = $1", request_id),
                       ("SELECT pg_notify('changed', $1)", request_id.hex()))

    async def block_key(self, key: Any) -> None:
        """The CA has been shown that a key is lost."""
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        await self.run("ca_issuer", ("INSERT INTO blocked_keys VALUES ($1, NULL, now(), 'operator', '{}', now())",
                                     hashlib.sha256(spki).digest()))

    async def revoke_all(self) -> None:
        """The CA carries out every revocation request that is queued."""
        connection = await self.database.connect("ca_issuer")
        try:
            async with connection.transaction():
                for row in await connection.fetch("DELETE FROM revocation_requests RETURNING *"):
                    await connection.execute(
                        "INSERT INTO revocations VALUES ($1, $2, $3, 1, $4, $5) ON CONFLICT (serial) DO UPDATE"
                        " SET reason = excluded.reason, version = 2", row["serial"], self.clock.now(), row["reason"],
                        row["authority"], row["evidence"])
                    if row["authority"] == "certificate_key":
                        await connection.execute(
                            "INSERT INTO blocked_keys SELECT spki_sha256, NULL, now(), 'certificate_key', '{}', now()"
                            " FROM certificates WHERE serial = $1 ON CONFLICT DO NOTHING", row["serial"])
                    await connection.execute("SELECT pg_notify('changed', $1)", row["id"].hex())
        finally:
            await connection.close()

    async def until(self, statement: str, *arguments: Any) -> None:
        """Waits until a condition holds in the database."""
        for _ in range(1_500):
            if await self.value(statement, *arguments):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"never true: {statement}")


async def ready_order(client: AcmeClient, others: OtherProcesses, *names: str) -> Answer:
    """An order whose authorizations the VA has validated."""
    answer = (await client.order(*names)).require(201)
    for url in answer.json["authorizations"]:
        if (await client.post(url)).json["status"] == "pending":
            wildcard = (await client.post(url)).json.get("wildcard")
            await others.validate(url, method="dns-01" if wildcard else "http-01")
    return answer


async def issued(client: AcmeClient, others: OtherProcesses, *names: str, key: Any = None) -> tuple[Answer, Answer]:
    """A valid order and its certificate, as the client sees them."""
    order = await ready_order(client, others, *names)
    done = await completed(client, others, order, *names, key=key)
    return done, (await client.post(done.json["certificate"])).require(200)


async def completed(client: AcmeClient, others: OtherProcesses, order: Answer, *names: str, key: Any = None) -> Answer:
    """A ready order for the names, finalized and issued: valid, as the client sees it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    finalizing = asyncio.create_task(finalize(client, order, make_csr(*names, key=key)))
    order_id = id_of(order.location)
    await others.until("SELECT EXISTS (SELECT FROM issuance_requests WHERE id = $1)", order_id)
    await others.issue(order_id, names, key.public_key(), account_id=id_of(client.kid))
    done = (await finalizing).require(200)
    if done.json["status"] == "processing":     # A busy machine: the answer did not wait long enough.
        done = (await client.post(order.location)).require(200)
    assert done.json["status"] == "valid", done.json
    return done


async def finalize(client: AcmeClient, order: Answer, csr: bytes) -> Answer:
    """finalize with a CSR."""
    return await client.post(order.json["finalize"], {"csr": b64(csr)})
