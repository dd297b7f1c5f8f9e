"""Fills a database as the processes would, each fact under the role that alone may assert it."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ca.pki.object_id import ObjectId, object_id
from ca.pki.packed import pack_evidence
from tests.fixtures_postgres import TestDatabase

DAY = timedelta(days=1)
_SERIAL_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


def now_s() -> datetime:
    """The real time in whole seconds: partitions exist around it."""
    return datetime.now(UTC).replace(microsecond=0)


def serial_of(moment: datetime, number: int) -> bytes:
    """A serial number of a day, told from others by `number`."""
    return (256 + (moment - _SERIAL_EPOCH).days).to_bytes(2, "big") + hashlib.sha256(b"%d" % number).digest()[:16]


@dataclass(slots=True, kw_only=True)
class Seed:
    """What was put into the database, and more to put there."""

    database: TestDatabase
    now: datetime = field(default_factory=now_s)
    issuer_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    issuer_name: str = "Test Issuer EC 1"
    count: int = 0

    def new_id(self, moment: datetime | None = None) -> ObjectId:
        """An id that no other row has."""
        self.count += 1
        return object_id(moment or self.now, self.count.to_bytes(16, "big"))

    async def run(self, role: str, statement: str, *arguments: object) -> None:
        """One statement under one role."""
        connection = await self.database.connect(role)
        try:
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    async def issuer(self, *, number: int = 1, name: str | None = None, shards: int = 2, active: bool = True,
                     days: int = 1000) -> bytes:
        """A self-signed issuing certificate."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or self.issuer_name)])
        made = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
                .public_key(self.issuer_key.public_key()).serial_number(number + 1)
                .not_valid_before(self.now - DAY).not_valid_after(self.now + days * DAY)
                .sign(self.issuer_key, hashes.SHA256()))
        der = made.public_bytes(Encoding.DER)
        await self.run("ca_admin", "INSERT INTO issuers VALUES ($1, $2, 'ec', $3, $4, $5, $6)", number,
                       name or self.issuer_name, der, shards, active, self.now)
        return der

    async def account(self, *contacts: str) -> ObjectId:
        """A subscriber."""
        account_id = self.new_id()
        await self.run("acme_wfe", "INSERT INTO accounts (id, created_at, thumbprint, jwk, contacts) VALUES "
                       "($1, $2, $3, $4, $5)", account_id, self.now, hashlib.sha256(account_id).digest(),
                       '{"crv":"P-256","kty":"EC","x":"AA","y":"AA"}', list(contacts))
        return account_id

    async def authorization(self, account_id: bytes, name: str, *, wildcard: bool = False,
                            expires: timedelta = DAY, subdomains: bool = False) -> ObjectId:
        """A pending authorization."""
        authorization_id = self.new_id()
        await self.run("acme_wfe", "INSERT INTO authorizations (id, account_id, identifier_type, identifier_value,"
                       " wildcard, expires_at, challenge_types, challenge_tokens, subdomains) VALUES"
                       " ($1, $2, 'dns', $3, $4, $5, $6, $7, $8)", authorization_id, account_id, name, wildcard,
                       self.now + expires, 3, bytes(16), subdomains)
        return authorization_id

    async def validation(self, authorization_id: bytes, account_id: bytes, name: str, *,
                         problem: object = None, evidence: dict[str, Any] | None = None,
                         subdomains: bool = False) -> None:
        """What the VA saw: success unless `problem` is given."""
        await self.run("acme_va", "INSERT INTO validations (authorization_id, account_id, identifier_type,"
                       " identifier_value, wildcard, challenge_type, thumbprint, validated_at, valid_until,"
                       " caa_checked_at, problem, evidence, subdomains) VALUES ($1, $2, 'dns', $3, false, 'http-01',"
                       " $4, $5, $6, $7, $8, $9, $10)", authorization_id, account_id, name,
                       hashlib.sha256(account_id).digest(),
                       self.now, None if problem else self.now + 30 * DAY, None if problem else self.now, problem,
                       pack_evidence(evidence or {"url": f"http://{name}/.well-known/acme-challenge/t", "status": 200}),
                       subdomains)

    async def order(self, account_id: bytes, names: list[str], authorization_ids: list[ObjectId], *,
                    expires: timedelta = DAY, moment: datetime | None = None) -> ObjectId:
        """An order as newOrder stores it."""
        order_id = self.new_id(moment)
        await self.run("acme_wfe", "INSERT INTO orders (id, account_id, expires_at, identifier_types,"
                       " identifier_values, authorization_ids, profile) VALUES ($1, $2, $3, $4, $5, $6, 'classic')",
                       order_id, account_id, self.now + expires, ["dns"] * len(names), names, authorization_ids)
        return order_id

    async def finalization(self, order_id: bytes, *, queued: bool) -> None:
        """The subscriber asked for the certificate."""
        await self.run("acme_wfe", "INSERT INTO finalizations VALUES ($1, $2, '')", order_id, self.now)
        if queued:
            await self.run("acme_wfe", "INSERT INTO issuance_requests (id, kind, requested_at) VALUES"
                           " ($1, 'order', $2)", order_id, self.now)

    async def refusal(self, order_id: bytes, problem: object) -> None:
        """The CA said no."""
        await self.run("ca_issuer", "INSERT INTO refusals VALUES ($1, $2, $3)", order_id, self.now, problem)

    async def certificate(self, request_id: bytes, account_id: bytes | None, names: list[str], *, signed: bool = True,
                          days_ago: int = 0, days: int = 90,
                          key: ec.EllipticCurvePrivateKey | None = None,
                          serial: bytes | None = None) -> x509.Certificate:
        """A certificate of issuer 1 with its names; without `signed` only the intent."""
        self.count += 1
        begins = self.now - days_ago * DAY
        serial = serial or serial_of(self.now, self.count)     # a day that has a partition
        certificate = (
            x509.CertificateBuilder().subject_name(x509.Name([]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.issuer_name)]))
            .public_key((key or ec.generate_private_key(ec.SECP256R1())).public_key())
            .serial_number(int.from_bytes(serial, "big")).not_valid_before(begins).not_valid_after(begins + days * DAY)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
            .sign(self.issuer_key, hashes.SHA256()))
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        await self.run("ca_issuer", "INSERT INTO issuances VALUES ($1, $2)", request_id, serial)
        await self.run("ca_issuer", "INSERT INTO certificates VALUES ($1, $2, $3, 1, 'classic', $4, $5, $6, $7, $8)",
                       serial, request_id, account_id, begins, begins + days * DAY, hashlib.sha256(spki).digest(),
                       certificate.tbs_certificate_bytes, begins)
        for name in names:
            await self.run("ca_issuer", "INSERT INTO certificate_names VALUES ($1, $2)", name[::-1], serial)
        if signed:
            await self.run("ca_issuer", "INSERT INTO certificate_signatures VALUES ($1, $2, $3)", serial, begins,
                           certificate.signature)
        return certificate

    async def revocation(self, serial: bytes, reason: int) -> None:
        """The CA carried a revocation out."""
        await self.run("ca_issuer", "INSERT INTO revocations (serial, revoked_at, reason, authority, evidence) VALUES"
                       " ($1, $2, $3, 'operator', $4)", serial, self.now, reason, {"operator": "ada", "comment": "x"})

    async def ocsp_request(self, serial: bytes, version: int) -> None:
        """The pre-signer has something to do."""
        await self.run("ca_issuer", "INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at)"
                       " VALUES ($1, $2, 1, '', $3)", serial, version, self.now)

    async def crl(self, shard: int, number: int, *, issuer_id: int = 1, age: timedelta = timedelta(),
                  der: bytes = b"crl", entries: int = 0, life: timedelta = 9 * DAY) -> None:
        """A CRL of a shard. The bytes matter to nobody here."""
        await self.run("ca_issuer", "INSERT INTO crls VALUES ($1, $2, $3, $4, $5, $6, $7)", issuer_id, shard, number,
                       self.now - age, self.now - age + life, entries, der)

    async def ocsp_shard(self, *, age: timedelta) -> None:
        """A range of serial numbers that was signed `age` ago."""
        first = serial_of(self.now - age, 1)
        await self.run("ocsp_signer", "INSERT INTO ocsp_shards (issuer_id, first_serial, last_serial, due_at,"
                       " signed_at) VALUES (1, $1, $2, $3, $4)", first, first[:2] + b"\xff" * 16,
                       self.now - age + timedelta(hours=54), self.now - age)


def bytes_of(certificate: x509.Certificate) -> bytes:
    """The serial number as it is stored."""
    return certificate.serial_number.to_bytes(18, "big")
