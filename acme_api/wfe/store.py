"""What the role acme_wfe does with nonces and orders. The rest by subject: account_store.py, authorization_store.py,
certificate_store.py, limit_store.py, renewal_store.py.

Two kinds of sessions: `reads` do not wait for the disk (synchronous_commit off), for reading and for nonces; with
`writes` a commit is on disk before anybody is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeAlias

from acme_api.protocol.account import Account
from acme_api.protocol.authorization import Authorization, AuthorizationFacts, Validation
from acme_api.protocol.challenge import type_bits
from acme_api.protocol.directory import Resource, Target
from acme_api.protocol.nonce import issued_at_s, spent_key
from acme_api.protocol.order import Order, OrderFacts
from acme_api.protocol.rate_limit import Take
from acme_api.wfe.account_store import SIGNER, signer_of
from acme_api.wfe.authorization_store import AUTHORIZATION, authorization_of
from acme_api.wfe.certificate_store import CHAIN, Chain, chain_of
from acme_api.wfe.finalizing import CAA_NAMES, CONTROLS, Finalizing, controls_of
from acme_api.wfe.limit_store import store_limited, with_limits, without_limits
from acme_api.wfe.prospects import PROSPECTS, Prospects, Wish, prospects_of
from ca.pki.identifier import Identifier
from ca.process.postgres import Record
from ca.process.sessions import Sessions

READ_OPTIONS: Final = {"synchronous_commit": "off", "plan_cache_mode": "force_generic_plan"}
WRITE_OPTIONS: Final = {"plan_cache_mode": "force_generic_plan"}

# Burns the nonce, and loads the account and what the request is about, in one round trip. The commit does not wait for
# the disk: what a crash of the server could forget is younger than the crash, and every nonce made before the server's
# last start, or before its last recovery (which resets its statistics), is refused here; $4 does the same after a
# failover, which no server tells of itself. That keeps a nonce single use at no cost.
_SPEND: Final = f"""
WITH spent AS (
    INSERT INTO spent_nonces (nonce)
    SELECT $1::bigint WHERE $1 IS NOT NULL AND to_timestamp($2::float8) >= greatest(
        pg_postmaster_start_time(), (SELECT stats_reset FROM pg_stat_wal), $4::timestamptz)
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT EXISTS (SELECT FROM spent) AS fresh, {SIGNER}%s
FROM (VALUES (1)) AS one (row) LEFT JOIN accounts AS signer ON signer.%s = $3%s
"""  # noqa: S608 - of constants

# Which timeline the server is on tells a promoted standby and a restored database from what they were before.
_TIMELINE: Final = "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer"
_NOTE_TIMELINE: Final = f"""
INSERT INTO database_timelines (timeline, noticed_at) VALUES ({_TIMELINE}, $1) ON CONFLICT DO NOTHING
"""  # noqa: S608 - of constants
_NO_NONCE_BEFORE: Final = f"""
SELECT greatest(pg_postmaster_start_time(), (SELECT stats_reset FROM pg_stat_wal),
    (SELECT noticed_at FROM database_timelines WHERE timeline = {_TIMELINE}))
"""  # noqa: S608 - of constants

# Every fact that an order's status depends on, in one statement; authorizations as arrays in the identifiers' order.
_ORDER: Final = """
SELECT o.id, o.account_id, o.expires_at, o.identifier_types, o.identifier_values, o.authorization_ids, o.profile,
    o.not_before, o.not_after, o.replaces, o.renews, f.order_id IS NOT NULL AS finalized, r.problem AS refusal,
    i.serial, s.serial IS NOT NULL AND NOT EXISTS (
        SELECT FROM ocsp_requests q WHERE q.serial = i.serial AND q.version = 0) AS published, z.*
FROM orders o
LEFT JOIN finalizations f ON f.order_id = o.id
LEFT JOIN refusals r ON r.request_id = o.id
LEFT JOIN issuances i ON i.request_id = o.id
LEFT JOIN certificate_signatures s ON s.serial = i.serial
CROSS JOIN LATERAL (
    SELECT array_agg(coalesce(a.expires_at, o.expires_at) ORDER BY u.position) AS expiries,
        array_agg(a.deactivated_at ORDER BY u.position) AS deactivations,
        array_agg(v.challenge_type ORDER BY u.position) AS methods,
        array_agg(v.validated_at ORDER BY u.position) AS validated,
        array_agg(v.valid_until ORDER BY u.position) AS valid_until,
        jsonb_agg(v.problem ORDER BY u.position) AS problems%s
    FROM unnest(o.authorization_ids) WITH ORDINALITY AS u (id, position)
    LEFT JOIN authorizations a ON a.id = u.id
    LEFT JOIN validations v ON v.authorization_id = u.id%s) z
"""
# What may still change of an order that is finalized.
_PROGRESS: Final = """
SELECT r.problem AS refusal, i.serial, s.serial IS NOT NULL AND NOT EXISTS (
    SELECT FROM ocsp_requests q WHERE q.serial = i.serial AND q.version = 0) AS published
FROM (VALUES ($1::bytea)) AS o (id)
LEFT JOIN refusals r ON r.request_id = o.id
LEFT JOIN issuances i ON i.request_id = o.id
LEFT JOIN certificate_signatures s ON s.serial = i.serial
"""
_ORDERS_OF_ACCOUNT: Final = _ORDER % ("", "") + """
WHERE o.account_id = $1 AND ($2::bytea IS NULL OR o.id < $2) ORDER BY o.id DESC LIMIT $3
"""
_OWNS_ORDER: Final = "SELECT EXISTS (SELECT FROM orders WHERE id = $1 AND account_id = $2)"
_INSERT_ORDER_TEXT: Final = """
WITH {room}, authorized AS (
    INSERT INTO authorizations (id, account_id, identifier_type, identifier_value, wildcard, expires_at,
        challenge_types, challenge_tokens, subdomains)
    SELECT id, $2, type, value, wildcard, $10, types, tokens, subdomains
    FROM unnest($11::bytea[], $12::text[], $13::text[], $14::boolean[], $15::smallint[], $16::bytea[], $19::boolean[])
        AS n (id, type, value, wildcard, types, tokens, subdomains), room WHERE room.is_left
){taken}
INSERT INTO orders (id, account_id, expires_at, identifier_types, identifier_values, authorization_ids, profile,
    not_before, not_after, replaces, renews)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $17, $18 FROM room WHERE room.is_left RETURNING id
"""
_INSERT_ORDER: Final = without_limits(_INSERT_ORDER_TEXT)
_LIMITED_INSERT_ORDER: Final = with_limits(_INSERT_ORDER_TEXT, first=20,
                                           gate="(SELECT FROM room WHERE is_left) AS gate")

_NOTIFY: Final = "SELECT pg_notify(channel, '') FROM unnest($1::text[]) AS channel"

_ORDER_BY_ID: Final = f"{_ORDER % ('', '')} WHERE o.id = $1"
_SPEND_BY_ID: Final = _SPEND % ("", "id", "")
_SPEND_BY_THUMBPRINT: Final = _SPEND % ("", "thumbprint", "")
_LOADED: Final = " LEFT JOIN LATERAL (%s) AS loaded ON true"
_SPEND_AND_AUTHORIZATION: Final = _SPEND % (", loaded.*", "id", _LOADED % f"{AUTHORIZATION} WHERE a.id = $5")
_SPEND_AND_ORDER: Final = _SPEND % (", loaded.*", "id", _LOADED % f"{_ORDER % ('', '')} WHERE o.id = $5")
_SPEND_AND_FINALIZING: Final = _SPEND % (
    ", loaded.*", "id", _LOADED % f"{_ORDER % (CONTROLS, CAA_NAMES)} WHERE o.id = $5")
_SPEND_AND_PROSPECTS: Final = _SPEND % (", loaded.*", "id", _LOADED % PROSPECTS)
_SPEND_AND_CHAIN: Final = _SPEND % (", loaded.*", "id", _LOADED % CHAIN.format(
    order="$5", serial="$6", variant="$7"))


Loaded: TypeAlias = Authorization | Order | Finalizing | Chain | Prospects
"""What a request is about: by its URL, or for a new order by its payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentNonce:
    """`fresh`: the nonce was good and is dead from now on. `account` None: there is none of that URL or key. `loaded`
    None: there is no such object, or the resource is none of those that are loaded with the account."""

    fresh: bool
    account: Account | None
    loaded: Loaded | None


class Store:
    """Statements and the values they take and give; decisions are the protocol package's."""

    def __init__(self, *, reads: Sessions, writes: Sessions) -> None:
        self._reads = reads
        self._writes = writes
        self._no_nonce_before: datetime | None = None

    def refuse_nonces_before(self, moment: datetime) -> None:
        """Called when the connection to the database was lost: another server may have taken over, and may not have
        seen the last nonces being spent."""
        self._no_nonce_before = moment

    async def note_timeline(self, now: datetime) -> None:
        """Records when a promoted standby or a restored database was first seen, unless somebody has: servers that
        start later cannot tell by themselves."""
        await self._writes.fetch(_NOTE_TIMELINE, now)

    async def no_nonce_before(self, now: datetime) -> datetime:
        """The database's last start, recovery or failover: older nonces are refused, by this server from now on."""
        await self.note_timeline(now)
        moment: datetime = await self._reads.fetchval(_NO_NONCE_BEFORE)
        self._no_nonce_before = moment
        return moment

    async def spend_nonce(
        self, nonce: bytes | None, *, account_id: bytes | None, target: Target, wish: Wish | None = None
    ) -> SpentNonce:
        """Burns the nonce (None: there is nothing to burn) and loads the account by its id, and with it the
        authorization, order or certificate that the request is about, or what is known of the names of a `wish`."""
        arguments = (*_spending(nonce), account_id, self._no_nonce_before)
        loaded: Loaded | None = None
        if wish is not None:
            rows = await self._reads.fetch(_SPEND_AND_PROSPECTS, *arguments, *wish.columns())
            return SpentNonce(fresh=rows[0]["fresh"], account=signer_of(rows[0]), loaded=prospects_of(rows, wish))
        match target.resource:
            case Resource.AUTHORIZATION | Resource.CHALLENGE:
                row = await self._one_row(_SPEND_AND_AUTHORIZATION, *arguments, target.object_id)
                loaded = None if row["id"] is None else authorization_of(row)
            case Resource.ORDER:
                row = await self._one_row(_SPEND_AND_ORDER, *arguments, target.object_id)
                loaded = None if row["id"] is None else _order(row)
            case Resource.FINALIZE:
                row = await self._one_row(_SPEND_AND_FINALIZING, *arguments, target.object_id)
                loaded = None if row["id"] is None else _finalizing(row)
            case Resource.CERTIFICATE:
                row = await self._one_row(_SPEND_AND_CHAIN, *arguments, target.object_id, target.serial,
                                          target.alternate)
                loaded = chain_of(row)
            case _:
                row = await self._one_row(_SPEND_BY_ID, *arguments)
        return SpentNonce(fresh=row["fresh"], account=signer_of(row), loaded=loaded)

    async def spend_nonce_of_key(self, nonce: bytes | None, *, thumbprint: bytes | None) -> SpentNonce:
        """Burns the nonce (None: there is nothing to burn) and loads the account that has the key, if one is named."""
        row = await self._one_row(_SPEND_BY_THUMBPRINT, *_spending(nonce), thumbprint, self._no_nonce_before)
        return SpentNonce(fresh=row["fresh"], account=signer_of(row), loaded=None)

    async def _one_row(self, sql: str, *arguments: Any) -> Record:
        row = await self._reads.fetchrow(sql, *arguments)
        if row is None:
            raise AssertionError("the statement gives one row")
        return row

    async def order(self, order_id: bytes) -> Order:
        """An order with all its facts as they are now; there is one."""
        return _order(await self._one_row(_ORDER_BY_ID, order_id))

    async def progress(self, order: Order) -> Order:
        """An order that was finalized a moment ago, with what has become of it."""
        row = await self._one_row(_PROGRESS, order.id)
        return replace(order, serial=row["serial"], facts=replace(
            order.facts, finalized=True, refusal=row["refusal"], published=row["published"]))

    async def orders_of_account(self, account_id: bytes, *, before: bytes | None, limit: int) -> list[Order]:
        """The account's orders with all their facts, newest first, older than the order `before`."""
        return [_order(row) for row in await self._reads.fetch(_ORDERS_OF_ACCOUNT, account_id, before, limit)]

    async def owns_order(self, account_id: bytes, order_id: bytes) -> bool:
        """Whether the order exists and is the account's."""
        return bool(await self._reads.fetchval(_OWNS_ORDER, order_id, account_id))

    async def insert_order(
        self, order: Order, new: Sequence[Authorization], *, expires_at: datetime, now: datetime,
        takes: Sequence[Take] = (),
    ) -> bool:
        """Stores an order and its new authorizations in one transaction with what it takes from limits; False when one
        of them has no room. `expires_at` is the authorizations'."""
        return await store_limited(
            self._writes, _LIMITED_INSERT_ORDER if takes else _INSERT_ORDER, takes, now,
            order.id, order.account_id, order.facts.expires_at,
            [each.type for each in order.identifiers], [each.value for each in order.identifiers],
            list(order.authorization_ids), order.profile, order.not_before, order.not_after, expires_at,
            [each.id for each in new], [each.identifier_type for each in new], [each.identifier_value for each in new],
            [each.wildcard for each in new], [type_bits(c.type for c in each.challenges) for each in new],
            [each.token_seed for each in new], order.replaces, order.renews,
            [each.subdomains for each in new])

    async def notify(self, channels: Sequence[str]) -> None:
        """Wakes the processes that listen on the channels."""
        await self._reads.fetch(_NOTIFY, list(channels))


def _spending(nonce: bytes | None) -> tuple[int, float] | tuple[None, None]:
    """What is written of a nonce, and the unix time at which it was made."""
    return (None, None) if nonce is None else (spent_key(nonce), float(issued_at_s(nonce)))


def _finalizing(row: Record) -> Finalizing:
    order = _order(row)
    return Finalizing(order=order, controls=controls_of(row, order))


def _order(row: Record) -> Order:
    columns: Sequence[Sequence[Any]] = [row[name] for name in (
        "expiries", "deactivations", "methods", "validated", "valid_until", "problems")]
    authorizations = tuple(AuthorizationFacts(
        expires_at=expires_at, deactivated_at=deactivated_at, validation=None if method is None else Validation(
            challenge_type=method, validated_at=validated_at, valid_until=valid_until, problem=problem))
        for expires_at, deactivated_at, method, validated_at, valid_until, problem in zip(*columns, strict=True))
    return Order(
        id=row["id"], account_id=row["account_id"], profile=row["profile"], not_before=row["not_before"],
        not_after=row["not_after"], replaces=row["replaces"], renews=row["renews"], serial=row["serial"],
        authorization_ids=tuple(row["authorization_ids"]),
        identifiers=tuple(Identifier(type=kind, value=value) for kind, value in zip(
            row["identifier_types"], row["identifier_values"], strict=True)),
        facts=OrderFacts(expires_at=row["expires_at"], authorizations=authorizations, finalized=row["finalized"],
                         refusal=row["refusal"], published=row["published"]))
