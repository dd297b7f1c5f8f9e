"""What the role ca_issuer reads to derive the right to issue: validations, looks at CAA, key changes, refused keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ca.pki.corroboration import Corroboration
from ca.pki.domain_control import CaaCheck, StaleCaa, Validation
from ca.pki.identifier import Identifier
from ca.pki.refusal import RefusalReason
from ca.process.postgres import Connection, Record

# Each validation that succeeded, whether its authorization was ended, and the newest look at CAA since: at its own
# name, and at each of the names $2 below it. One row for each look, or one without.
VALIDATIONS: Final = """
SELECT v.authorization_id, v.account_id, v.identifier_type, v.identifier_value, v.wildcard, v.subdomains,
    v.challenge_type, v.thumbprint, v.validated_at, v.valid_until, v.caa_checked_at,
    a.deactivated_at IS NOT NULL AS deactivated,
    v.remotes_asked, v.remotes_corroborated, v.remote_rirs, k.caa_name, k.checked_at AS rechecked_at,
    k.problem AS recheck_problem, k.remotes_asked AS rechecks_asked, k.remotes_corroborated AS rechecks_corroborated,
    k.remote_rirs AS recheck_rirs
FROM validations v
LEFT JOIN authorizations a ON a.id = v.authorization_id
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (caa_name) caa_name, checked_at, problem, remotes_asked, remotes_corroborated, remote_rirs
    FROM caa_checks WHERE caa_checks.authorization_id = v.authorization_id
        AND (caa_name = '' OR v.subdomains AND caa_name = ANY($2))
    ORDER BY caa_name, checked_at DESC
) AS k ON true
WHERE v.authorization_id = ANY($1) AND v.problem IS NULL AND v.valid_until IS NOT NULL
"""
KEY_CHANGES: Final = "SELECT account_id, jws FROM key_changes WHERE account_id = ANY($1) ORDER BY changed_at"
# A key that is blocked (spec/pki.md 7), that signs for an account (row FI5), or that a published list of weak keys has
# is not certified; nor is a name that is blocked, or below one that is blocked with all below it.
REFUSED: Final = """
SELECT spki_sha256, NULL::text AS name, NULL::boolean AS and_below
FROM unnest($1::bytea[], $2::bytea[]) AS wanted (spki_sha256, thumbprint)
WHERE EXISTS (SELECT FROM accounts WHERE accounts.thumbprint = wanted.thumbprint)
   OR EXISTS (SELECT FROM blocked_keys WHERE blocked_keys.spki_sha256 = wanted.spki_sha256)
UNION ALL
SELECT spki_sha256, NULL, NULL FROM unnest($3::bytea[], $4::bytea[]) AS listed (spki_sha256, digest)
WHERE EXISTS (SELECT FROM weak_keys WHERE weak_keys.digest = listed.digest)
UNION ALL
SELECT NULL, name, and_below FROM blocked_names WHERE name = ANY($5::text[])
"""
ASK_FOR_CAA_CHECKS: Final = "SELECT ask_for_caa_checks($1::bytea[], $2::bytea[], $3::text[])"
# What a stored problem of a CAA check is to the CA; every other type is a lookup that failed.
_REFUSAL_OF_PROBLEM: Final = {"caa": RefusalReason.CAA_FORBIDS, "serverInternal": RefusalReason.PERSPECTIVES_AWAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValidation:
    """A validation that succeeded, whether its authorization was ended since, and the newest look at CAA since, at its
    own name and at names below it."""

    validation: Validation
    deactivated: bool
    caa_checks: tuple[CaaCheck, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What is not certified: keys, by the SHA-256 of their SPKI, and names, with whether everything below is not."""

    keys: frozenset[bytes]
    names: Mapping[str, bool]


async def validations(
    connection: Connection, authorization_ids: Sequence[bytes], names: Sequence[str]
) -> list[StoredValidation]:
    """The validations that succeeded, with what was seen of CAA at `names` below them."""
    rows: dict[bytes, list[Record]] = {}
    for row in await connection.fetch(VALIDATIONS, list(authorization_ids), list(names)):
        rows.setdefault(row["authorization_id"], []).append(row)
    return [StoredValidation(
        validation=_validation(each[0]), deactivated=each[0]["deactivated"],
        caa_checks=tuple(_caa_check(row) for row in each if row["rechecked_at"] is not None))
        for each in rows.values()]


async def key_changes(connection: Connection, account_ids: Sequence[bytes]) -> dict[bytes, list[str]]:
    """The stored JWS of every key change of the accounts, the oldest first."""
    found: dict[bytes, list[str]] = {}
    for row in await connection.fetch(KEY_CHANGES, list(account_ids)):
        found.setdefault(row["account_id"], []).append(row["jws"])
    return found


async def refused(
    connection: Connection, keys: Sequence[tuple[bytes, bytes]], *, listed: Sequence[tuple[bytes, bytes]] = (),
    names: Sequence[str] = (),
) -> Refused:
    """What is refused of `keys` (SPKI SHA-256, JWK thumbprint), which are blocked or an account's; of `listed` (SPKI
    SHA-256, digest), which are in a published list of weak keys; and of `names`."""
    rows = await connection.fetch(
        REFUSED, [spki for spki, _ in keys], [thumbprint for _, thumbprint in keys], [spki for spki, _ in listed],
        [digest for _, digest in listed], list(names))
    return Refused(keys=frozenset(row["spki_sha256"] for row in rows if row["name"] is None),
                   names={row["name"]: row["and_below"] for row in rows if row["name"] is not None})


async def ask_for_caa_checks(connection: Connection, wanted: Sequence[tuple[bytes, StaleCaa]]) -> None:
    """Asks the VA to look at CAA again: (new request id, what is stale); what is asked for already is not again."""
    await connection.execute(ASK_FOR_CAA_CHECKS, [request_id for request_id, _ in wanted],
                             [each.authorization_id for _, each in wanted], [each.name for _, each in wanted])


def _validation(row: Record) -> Validation:
    return Validation(
        authorization_id=row["authorization_id"], account_id=row["account_id"],
        identifier=Identifier(type=row["identifier_type"], value=row["identifier_value"]),
        wildcard=row["wildcard"], subdomains=row["subdomains"], method=row["challenge_type"],
        thumbprint=row["thumbprint"], validated_at=row["validated_at"], valid_until=row["valid_until"],
        caa_checked_at=row["caa_checked_at"],
        corroboration=Corroboration(asked=row["remotes_asked"], corroborated=row["remotes_corroborated"],
                                    rirs=row["remote_rirs"]))


def _caa_check(row: Record) -> CaaCheck:
    checked_at, problem, name = row["rechecked_at"], row["recheck_problem"], row["caa_name"]
    if problem is None:
        return CaaCheck(authorization_id=row["authorization_id"], name=name, checked_at=checked_at, refusal=None,
                        corroboration=Corroboration(asked=row["rechecks_asked"], rirs=row["recheck_rirs"],
                                                    corroborated=row["rechecks_corroborated"]))
    kind = str(problem.get("type", "")).rpartition(":")[2]
    return CaaCheck(authorization_id=row["authorization_id"], name=name, checked_at=checked_at,
                    refusal=_REFUSAL_OF_PROBLEM.get(kind, RefusalReason.DNS_FAILED),
                    detail=str(problem.get("detail", "the CAA records could not be looked up")))
