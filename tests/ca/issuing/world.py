"""What stands around a CA process in a test: subscribers, what front end and VA store under their roles, the token."""

import hashlib
import io
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from acme_api.protocol.directory import account_url, finalize_url
from ca.admin.checker import Report, check
from ca.issuing import issuer_store, queue_store
from ca.issuing.audit import AuditTrail
from ca.issuing.authorities import Authority, open_authorities
from ca.issuing.crls import CrlPublisher
from ca.issuing.cycle import IssuingProcess
from ca.issuing.policy import IssuancePolicy
from ca.issuing.signer import Signer
from ca.issuing.transparency import Transparency
from ca.pki.ct_log_list import LogList, LogListError
from ca.pki.identifier import Identifier, NamePolicy
from ca.pki.key_identifier import key_identifier
from ca.pki.object_id import ObjectId, object_id
from ca.pki.packed import StoredRequest, pack_evidence, pack_request
from ca.pki.tbs import assemble
from ca.process.ambient import Ambient
from ca.process.postgres import create_pool
from hsm.thread import HsmThread
from tests.acme_client import SigningKey, b64, flatten, unb64
from tests.ca.pki.csr_maker import request as make_csr
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase

BASE = "https://localhost:14000"
DAY = timedelta(days=1)
EC_ISSUER, RSA_ISSUER = 1, 2
SHARDS = 4
POLICY = IssuancePolicy(
    acme_base_url=BASE, names=NamePolicy(internal_suffixes=("*",), public=False,
                                          internal_prefixes=("10.0.0.0/8",)),
    service_names=frozenset({Identifier(type="dns", value="localhost"), Identifier(type="dns", value="acme.internal"),
                             Identifier(type="ip", value="127.0.0.1")}),
    ocsp_url="http://localhost:14001", aia_base_url="http://localhost:14002", crl_base_url="http://localhost:14002")


def _no_log_list() -> LogList:
    raise LogListError("there is no list")


NO_CT = Transparency(enabled=False, patience=timedelta(minutes=10), log_list=_no_log_list)
_CA_USAGE = {"key_cert_sign": True, "crl_sign": True, "digital_signature": True, "content_commitment": False,
             "key_encipherment": False, "data_encipherment": False, "key_agreement": False, "encipher_only": False,
             "decipher_only": False}

Leaf = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def make_chain(issuers: dict[str, PublicKey]) -> tuple[bytes, dict[str, bytes]]:
    """A root with a software key, and issuing certificates for the given public keys: (root, {name: certificate})."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC).replace(microsecond=0)

    def builder(subject: str, public_key: PublicKey, days: int) -> x509.CertificateBuilder:
        name = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
                          x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Chancery Test"),
                          x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        root_name = x509.Name([*list(name)[:2], x509.NameAttribute(NameOID.COMMON_NAME, "Test Root")])
        bits = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return (x509.CertificateBuilder().subject_name(name).issuer_name(root_name).public_key(public_key)
                .serial_number(x509.random_serial_number()).not_valid_before(now - DAY)
                .not_valid_after(now + days * DAY)
                .add_extension(x509.SubjectKeyIdentifier(key_identifier(bits)), False))

    root_spki = root_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    root = (builder("Test Root", root_key.public_key(), 3650).add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(x509.KeyUsage(**{**_CA_USAGE, "digital_signature": False}), True)
            .sign(root_key, hashes.SHA256()))
    made = {}
    for label, public_key in issuers.items():
        made[label] = (
            builder(label, public_key, 1095).add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(x509.KeyUsage(**_CA_USAGE), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(x509.AuthorityKeyIdentifier(key_identifier(root_spki), None, None), False)
            .sign(root_key, hashes.SHA256()).public_bytes(Encoding.DER))
    return root.public_bytes(Encoding.DER), made


@dataclass(slots=True)
class Subscriber:
    """An account and its present key."""

    id: ObjectId
    key: SigningKey

    @property
    def url(self) -> str:
        """Its kid."""
        return account_url(BASE, self.id)


@dataclass(slots=True)
class TestOrder:
    """An order that a test has made."""

    __test__ = False

    id: ObjectId
    subscriber: Subscriber
    names: tuple[str, ...]
    authorization_ids: tuple[ObjectId, ...]


@dataclass(slots=True)
class World:
    """See the module. `clock_s` moves the CA's clock."""

    database: TestDatabase
    softhsm: SoftHsm
    root: bytes
    issuers: dict[int, bytes]
    connections: dict[str, "asyncpg.Connection[asyncpg.Record]"]
    thread: HsmThread
    authorities: dict[int, Authority]
    pool: Any
    clock_s: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)

    def now(self) -> datetime:
        """The CA's clock."""
        return datetime.now(UTC) + timedelta(seconds=self.clock_s)

    def new_id(self) -> ObjectId:
        """A new identifier."""
        return object_id(datetime.now(UTC), os.urandom(16))

    @property
    def owner(self) -> "asyncpg.Connection[asyncpg.Record]":
        """The owner of all tables: for looking, and for what no role may do."""
        return self.connections["owner"]

    def process(self, name: str = "", *, policy: IssuancePolicy = POLICY, transparency: Transparency = NO_CT
                ) -> IssuingProcess:
        """A CA process's part in the cycle. Processes of one test share the token's thread, as they would an HSM."""
        log = structlog.wrap_logger(structlog.PrintLogger(io.StringIO()), processors=[self._record])
        audit = AuditTrail(log=log)
        return IssuingProcess(
            pool=self.pool, ambient=Ambient(now=self.now, random_bytes=os.urandom), policy=policy,
            transparency=transparency, authorities=self.authorities, signer=Signer(self.thread, audit), audit=audit,
            log=log,
            worker=f"test-host-{name}:{os.getpid()}")

    def publisher(self, ca: IssuingProcess) -> CrlPublisher:
        """The process's CRL publisher."""
        return CrlPublisher(pool=ca.pool, ambient=ca.ambient, policy=ca.policy, authorities=ca.authorities,
                            signer=ca.signer, audit=ca.audit, log=ca.log)

    def _record(self, _logger: object, _method: str, event: Any) -> str:
        self.events.append(dict(event))
        return ""

    async def run(self, role: str, statement: str, *values: object) -> None:
        """One statement under a role."""
        await self.connections[role].execute(statement, *values)

    async def subscriber(self) -> Subscriber:
        """A new account."""
        made = Subscriber(self.new_id(), SigningKey.make())
        await self.run("acme_wfe", "INSERT INTO accounts (id, created_at, thumbprint, jwk) VALUES ($1, now(), $2, $3)",
                       made.id, made.key.thumbprint, made.key.jwk_text)
        return made

    async def order(self, subscriber: Subscriber, *names: str, profile: str = "tlsserver", validated: bool = True,
                    not_before: datetime | None = None, not_after: datetime | None = None,
                    authorization_ids: Sequence[ObjectId] | None = None) -> TestOrder:
        """An order for the names; with `validated`, each of them has its validation."""
        order_id, ids = self.new_id(), []
        for name in names if authorization_ids is None else ():
            kind, wildcard = ("ip" if name[0].isdigit() else "dns"), name.startswith("*.")
            authorization_id = self.new_id()
            await self.run(
                "acme_wfe", "INSERT INTO authorizations (id, account_id, identifier_type, identifier_value, wildcard,"
                " expires_at, challenge_types, challenge_tokens) VALUES ($1, $2, $3, $4, $5, now() + '1 day', $6, $7)",
                authorization_id, subscriber.id, kind, name.removeprefix("*."), wildcard, 2, bytes(16))
            ids.append(authorization_id)
            if validated:
                await self.validate(authorization_id, subscriber, name)
        made = TestOrder(order_id, subscriber, names, tuple(authorization_ids or ids))
        await self.run(
            "acme_wfe", "INSERT INTO orders (id, account_id, expires_at, identifier_types, identifier_values,"
            " authorization_ids, profile, not_before, not_after) VALUES ($1, $2, now() + '7 days', $3, $4, $5, $6, $7,"
            " $8)", made.id, subscriber.id, ["ip" if name[0].isdigit() else "dns" for name in names], list(names),
            list(made.authorization_ids), profile, not_before, not_after)
        return made

    async def validate(self, authorization_id: bytes, subscriber: Subscriber, name: str, **changes: Any) -> None:
        """What the VA stores when the name has shown that the subscriber's key may have it."""
        is_ip = name[0].isdigit()
        row = {
            "authorization_id": authorization_id, "account_id": subscriber.id,
            "identifier_type": "ip" if is_ip else "dns", "identifier_value": name.removeprefix("*."),
            "wildcard": name.startswith("*."), "challenge_type": "http-01" if is_ip else "dns-01",
            "thumbprint": subscriber.key.thumbprint, "validated_at": self.now(), "valid_until": self.now() + 30 * DAY,
            "caa_checked_at": None if is_ip else self.now(), "problem": None, "evidence": pack_evidence({}), **changes}
        marks = ", ".join(f"${number}" for number in range(1, len(row) + 1))
        await self.run("acme_va", f"INSERT INTO validations ({', '.join(row)}) VALUES ({marks})", *row.values())

    def signed_finalize(self, order: TestOrder, leaf: Leaf, *, names: Sequence[str] | None = None,
                        key: SigningKey | None = None, url: str | None = None, kid: str | None = None,
                        payload: Any = None) -> tuple[bytes, bytes, bytes]:
        """The three decoded parts of a finalize request, each detail replaceable."""
        key = key or order.subscriber.key
        csr = make_csr(leaf, names=list(order.names if names is None else names))
        document = flatten(key, {"alg": key.alg, "nonce": "AAAAAAAAAAAAAAAAAAAAAA", "kid": kid or order.subscriber.url,
                                 "url": url or finalize_url(BASE, order.id)},
                           payload or {"csr": b64(csr)})
        return unb64(document["protected"]), unb64(document["payload"]), unb64(document["signature"])

    async def finalize(self, order: TestOrder, leaf: Leaf | None = None, *,
                       parts: tuple[bytes, bytes, bytes] | None = None, key: SigningKey | None = None) -> Leaf:
        """The front end has taken the subscriber's finalize request."""
        leaf = leaf or ec.generate_private_key(ec.SECP256R1())
        protected, payload, signature = parts or self.signed_finalize(order, leaf, key=key)
        await self.run("acme_wfe", "INSERT INTO finalizations VALUES ($1, $2, $3)", order.id, self.now(), pack_request(
            StoredRequest((key or order.subscriber.key).jwk_text, protected, payload, signature)))
        await self.run("acme_wfe", "INSERT INTO issuance_requests (id, kind, requested_at) VALUES ($1, 'order', $2)",
                       order.id, self.now())
        return leaf

    async def ordered(self, *names: str, leaf: Leaf | None = None, subscriber: Subscriber | None = None,
                      **options: Any) -> TestOrder:
        """A validated order with its finalize request in the queue."""
        order = await self.order(subscriber or await self.subscriber(), *names, **options)
        await self.finalize(order, leaf)
        return order

    async def service(self, *names: str, leaf: Leaf | None = None) -> ObjectId:
        """A request for a certificate of one of our own services."""
        request_id = self.new_id()
        csr = make_csr(leaf or ec.generate_private_key(ec.SECP256R1()), names=list(names))
        await self.run("acme_wfe", "INSERT INTO service_requests VALUES ($1, now(), $2)", request_id, csr)
        await self.run("acme_wfe", "INSERT INTO issuance_requests (id, kind, requested_at)"
                       " VALUES ($1, 'service', now())", request_id)
        return request_id

    async def change_key(self, subscriber: Subscriber, *, url: str | None = None) -> None:
        """The subscriber rolls over to a new key; the front end stores the request itself."""
        old, new = subscriber.key, SigningKey.make()
        where = f"{BASE}/acme/key-change"
        inner = flatten(new, {"alg": new.alg, "jwk": new.jwk, "url": where},
                        {"account": url or subscriber.url, "oldKey": old.jwk})
        outer = flatten(old, {"alg": old.alg, "nonce": "AAAAAAAAAAAAAAAAAAAAAA", "kid": url or subscriber.url,
                              "url": where}, inner)
        await self.run("acme_wfe", "INSERT INTO key_changes VALUES ($1, $2, $3, $4, $5)", subscriber.id, self.now(),
                       old.thumbprint, new.thumbprint, json.dumps(outer))
        subscriber.key = new
        await self.run("acme_wfe", "UPDATE accounts SET thumbprint = $2, jwk = $3 WHERE id = $1", subscriber.id,
                       new.thumbprint, new.jwk_text)

    async def revocation_request(self, serial: bytes, reason: int = 0, authority: str = "account") -> ObjectId:
        """Somebody with the right to it asks for a revocation."""
        request_id = self.new_id()
        await self.run("acme_wfe", "INSERT INTO revocation_requests VALUES ($1, $2, $3, $4, $5, now())", request_id,
                       serial, reason, authority, {"by": authority})
        return request_id

    async def certificate(self, request_id: bytes) -> x509.Certificate | None:
        """The finished certificate of a request, its signature verified."""
        row = await self.owner.fetchrow(
            "SELECT coalesce(f.tbs, c.tbs) AS tbs, c.issuer_id, s.signature FROM issuances i"
            " JOIN certificates c ON c.serial = i.serial"
            " JOIN certificate_signatures s ON s.serial = i.serial"
            " LEFT JOIN final_certificates f ON f.serial = i.serial"
            " WHERE i.request_id = $1", request_id)
        if row is None:
            return None
        certificate = x509.load_der_x509_certificate(assemble(row["tbs"], row["signature"]))
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(self.issuers[row["issuer_id"]]))
        return certificate

    async def issued(self, request_id: bytes) -> x509.Certificate:
        """The finished certificate of a request, which must exist."""
        certificate = await self.certificate(request_id)
        assert certificate is not None, await self.refusal(request_id)
        return certificate

    async def serial(self, request_id: bytes) -> bytes:
        """The serial number of a request's certificate, signed or not."""
        return bytes(await self.owner.fetchval("SELECT serial FROM issuances WHERE request_id = $1", request_id))

    async def refusal(self, request_id: bytes) -> dict[str, Any] | None:
        """The problem document of a refused request."""
        problem: dict[str, Any] | None = await self.owner.fetchval(
            "SELECT problem FROM refusals WHERE request_id = $1", request_id)
        return problem

    async def queued(self) -> int:
        """How many issuance requests wait."""
        return int(await self.owner.fetchval("SELECT count(*) FROM issuance_requests"))

    async def report(self, *, slice_rows: int = 3) -> Report:
        """What the global checker says, with slices so small that there are several."""
        return await check(self.connections["ca_admin"], now=self.now(), slice_rows=slice_rows)

    async def check(self) -> None:
        """What must hold whatever happened: the global checker. CRLs count as soon as there are any."""
        report = await self.report()
        crls = await self.owner.fetchval("SELECT count(*) FROM crls")
        broken = {result.code: result.examples for result in report.results
                  if result.state == "broken" and (crls or result.code != "without_crl")}
        assert broken == {}, report.counts


@asynccontextmanager
async def make_world(
    database: TestDatabase, softhsm: SoftHsm, root: bytes, certificates: dict[str, bytes]
) -> AsyncIterator[World]:
    """Two issuers, EC and RSA, in the database; the token open; connections under every role that a test speaks for."""
    connections = {role: await database.connect(role) for role in ("acme_wfe", "acme_va", "ca_admin")}
    connections["owner"] = await database.connect()
    issuers = {EC_ISSUER: certificates[softhsm.ec_label], RSA_ISSUER: certificates[softhsm.rsa_label]}
    for issuer_id, label in ((EC_ISSUER, softhsm.ec_label), (RSA_ISSUER, softhsm.rsa_label)):
        await connections["ca_admin"].execute(
            "INSERT INTO issuers VALUES ($1, $2, $3, $4, $5, true, now()) ON CONFLICT DO NOTHING", issuer_id, label,
            "ec" if issuer_id == EC_ISSUER else "rsa", issuers[issuer_id], SHARDS)
    pool = await create_pool(database.settings, "ca_issuer", process="ca", options=queue_store.SESSION_OPTIONS)
    settings = softhsm.settings
    thread = await HsmThread.open(module=settings.module, token_label=settings.token_label, pin_file=settings.pin_file,
                                  conf=settings.conf)
    try:
        authorities = await thread.run(open_authorities, thread.token, await issuer_store.issuers(pool),
                                       datetime.now(UTC))
        yield World(database, softhsm, root, issuers, connections, thread, authorities, pool)
    finally:
        await thread.close()
        await pool.close()
        for connection in connections.values():
            await connection.close()


def spki_sha256(key: Leaf) -> bytes:
    """What a key is looked up by."""
    return hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
