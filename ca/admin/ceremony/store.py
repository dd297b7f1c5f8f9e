"""What the role ca_admin writes after a ceremony: issuers, their chains, and the files that are published.

Everything is public and comes from verified files. Recording the same ceremony again changes nothing; recording one
that contradicts what is there is refused.
"""

from typing import Final

from cryptography import x509

from ca.admin.ceremony.errors import RecordError
from ca.admin.ceremony.result import CaCertificate, CeremonyResult
from ca.process.postgres import Connection

CERTIFICATE_TYPE: Final = "application/pkix-cert"
CRL_TYPE: Final = "application/pkix-crl"

LOCK = "SELECT pg_advisory_xact_lock(hashtext('chancery issuers'))"

ISSUER_BY_NAME = "SELECT id, certificate, crl_shards FROM issuers WHERE name = $1"

# The first issuer for a kind of key is put to work at once; its successors are staged (`chancery issuer activate`).
INSERT_ISSUER = """
INSERT INTO issuers (id, name, key_type, certificate, crl_shards, active, created_at)
SELECT coalesce(max(id), 0) + 1, $1, $2, $3, $4,
    NOT coalesce(bool_or(key_type = $2 AND active AND retired_at IS NULL), false), $5
FROM issuers
RETURNING id
"""

UPSERT_CHAIN = """
INSERT INTO issuer_chains (issuer_id, position, certificates) VALUES ($1, $2, $3)
ON CONFLICT (issuer_id, position) DO UPDATE SET certificates = excluded.certificates
"""

FILE_BY_PATH = "SELECT body FROM published_files WHERE path = $1"

UPSERT_FILE = """
INSERT INTO published_files (path, content_type, body, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (path) DO UPDATE SET body = excluded.body, created_at = excluded.created_at
"""


async def record_ceremony(connection: Connection, result: CeremonyResult) -> list[str]:
    """Writes issuers (in the plan's order, from id 1), chains and published files, in one transaction, as ca_admin.

    Returns what was written, one line each; nothing when it was all there. Raises RecordError.
    """
    written: list[str] = []
    async with connection.transaction():
        await connection.execute(LOCK)
        for intermediate in result.intermediates:
            issuer_id, is_new = await _issuer(connection, intermediate, result)
            if is_new:
                written.append(f"issuer {issuer_id}: {intermediate.name}")
            for position, chain in enumerate(result.chains(intermediate)):
                await connection.execute(UPSERT_CHAIN, issuer_id, position, chain)
        for certificate in (*result.roots, *result.cross_signs):
            path = f"/{certificate.slug}.crt"
            known = await connection.fetchval(FILE_BY_PATH, path)
            if known is not None and known != certificate.certificate:
                raise RecordError(f"{path} is published with another certificate: a CA certificate is never replaced "
                                  "under its name")
            if known is None:
                await connection.execute(UPSERT_FILE, path, CERTIFICATE_TYPE, certificate.certificate, result.held_at)
                written.append(f"file {path}")
        for crl in result.crls:
            path = f"/{crl.slug}.crl"
            known = await connection.fetchval(FILE_BY_PATH, path)
            if known is None or _crl_number(known) < _crl_number(crl.der):
                await connection.execute(UPSERT_FILE, path, CRL_TYPE, crl.der, result.held_at)
                written.append(f"file {path}")
    return written


async def _issuer(connection: Connection, intermediate: CaCertificate, result: CeremonyResult) -> tuple[int, bool]:
    """The id of the issuer, and whether it was not there."""
    known = await connection.fetchrow(ISSUER_BY_NAME, intermediate.name)
    if known is None:
        made = await connection.fetchval(INSERT_ISSUER, intermediate.name, intermediate.key_type,
                                         intermediate.certificate, intermediate.crl_shards, result.held_at)
        return int(made), True
    if known["certificate"] != intermediate.certificate or known["crl_shards"] != intermediate.crl_shards:
        raise RecordError(f"the database has another issuer {intermediate.name!r}: each issuing CA has its own name")
    return int(known["id"]), False


def _crl_number(crl_der: bytes) -> int:
    return x509.load_der_x509_crl(crl_der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
