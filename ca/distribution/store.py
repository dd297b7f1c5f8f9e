"""All that the role ca_reader asks: which CRLs are the latest, their bytes, the issuers and the files of ceremonies."""

from collections.abc import Sequence

from ca.distribution.snapshot import CeremonyFile, Crl, CrlKey, Issuer
from ca.process.postgres import Connection

ISSUERS = "SELECT id, name, certificate, created_at FROM issuers ORDER BY id"

CEREMONY_FILES = "SELECT path, content_type, body, created_at FROM published_files"

# One step down the primary key for each shard, however many old CRLs the table keeps.
LATEST_CRL_KEYS = """
SELECT issuers.id AS issuer_id, latest.shard, latest.number
FROM issuers
CROSS JOIN generate_series(0, issuers.crl_shards - 1) AS wanted (shard)
CROSS JOIN LATERAL (
    SELECT crls.shard, crls.number FROM crls
    WHERE crls.issuer_id = issuers.id AND crls.shard = wanted.shard
    ORDER BY crls.number DESC LIMIT 1
) AS latest
"""

CRLS = """
SELECT issuer_id, shard, number, this_update, next_update, der
FROM crls JOIN unnest($1::smallint[], $2::smallint[], $3::numeric[]) AS wanted (issuer_id, shard, number)
    USING (issuer_id, shard, number)
"""


async def issuers(connection: Connection) -> list[Issuer]:
    """Every issuer, active or not: its certificates point at its AIA and CRL URLs for as long as they live."""
    return [Issuer(id=row["id"], name=row["name"], certificate=row["certificate"], created_at=row["created_at"])
            for row in await connection.fetch(ISSUERS)]


async def ceremony_files(connection: Connection) -> list[CeremonyFile]:
    """The root and cross certificates and the CA CRLs."""
    return [CeremonyFile(path=row["path"], content_type=row["content_type"], body=row["body"],
                         created_at=row["created_at"])
            for row in await connection.fetch(CEREMONY_FILES)]


async def latest_crl_keys(connection: Connection) -> list[CrlKey]:
    """The newest CRL of every shard that has one."""
    return [CrlKey(issuer_id=row["issuer_id"], shard=row["shard"], number=int(row["number"]))
            for row in await connection.fetch(LATEST_CRL_KEYS)]


async def crls(connection: Connection, keys: Sequence[CrlKey]) -> list[Crl]:
    """The CRLs of `keys` that still exist."""
    rows = await connection.fetch(CRLS, [key.issuer_id for key in keys], [key.shard for key in keys],
                                  [key.number for key in keys])
    return [Crl(key=CrlKey(issuer_id=row["issuer_id"], shard=row["shard"], number=int(row["number"])),
                this_update=row["this_update"], next_update=row["next_update"], der=row["der"])
            for row in rows]
