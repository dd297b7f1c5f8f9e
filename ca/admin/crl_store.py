"""What the role ca_admin reads about CRLs."""

from dataclasses import dataclass
from typing import Final

from ca.admin.crl_check import PublishedCrl
from ca.pki.crl import shard_url
from ca.process.postgres import Connection

CRL_ISSUERS: Final = "SELECT name, certificate, crl_shards FROM issuers ORDER BY id"
# One step down the primary key for each shard.
PUBLISHED: Final = """
SELECT issuers.name, issuers.certificate, latest.*
FROM issuers CROSS JOIN generate_series(0, issuers.crl_shards - 1) AS wanted (shard)
CROSS JOIN LATERAL (
    SELECT shard, number, this_update, next_update, entries, octet_length(der) AS size FROM crls
    WHERE crls.issuer_id = issuers.id AND crls.shard = wanted.shard ORDER BY number DESC LIMIT 1
) AS latest
ORDER BY issuers.id, latest.shard
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlIssuer:
    """An issuer with the number of its shards."""

    name: str
    certificate: bytes
    crl_shards: int


async def issuers(connection: Connection) -> list[CrlIssuer]:
    """Every issuer."""
    return [CrlIssuer(**dict(row)) for row in await connection.fetch(CRL_ISSUERS)]


async def published(connection: Connection, crl_base_url: str) -> list[PublishedCrl]:
    """The newest CRL of every shard."""
    return [PublishedCrl(
        issuer=row["name"], issuer_certificate=row["certificate"], shard=row["shard"],
        url=shard_url(crl_base_url, row["name"], row["shard"]), number=int(row["number"]),
        this_update=row["this_update"], next_update=row["next_update"], entries=row["entries"], size=row["size"])
        for row in await connection.fetch(PUBLISHED)]
