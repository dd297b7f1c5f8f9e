"""What newOrder has to know of its names beside the request itself: read by the statement that spends its nonce.

So the names are parsed before it is known who signed the request. Nothing but this reading depends on that: what is
wrong with them is said in its turn, and only to whose request is in order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from acme_api.protocol.order import OrderRequest, ReusableAuthorization
from acme_api.wfe.authorization_store import facts_of
from acme_api.wfe.coverage import coverage
from ca.pki.blocked_name import lookup_names
from ca.pki.identifier import Identifier
from ca.process.postgres import Record

# For `signer`, one row at least: names that are blocked, whether the profile is switched off, and authorizations to be
# used again. OFFSET 0 has each name looked up by itself: a plan that was made while the tables were empty, and is kept,
# would go through all authorizations of the account. The parameters from $5 on are those of Wish.columns.
PROSPECTS: Final = """
SELECT blocked.names, blocked.below, EXISTS (SELECT FROM disabled_profiles WHERE profile = $14) AS profile_disabled, r.*
FROM (SELECT array_agg(name) AS names, array_agg(and_below) AS below FROM blocked_names WHERE name = ANY($13::text[]))
    AS blocked
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (w.position) w.position, f.*
    FROM unnest($5::text[], $6::text[], $7::boolean[], $8::integer[], $9::boolean[])
        AS w (type, value, wildcard, position, above)
    CROSS JOIN LATERAL (
        SELECT a.id, a.expires_at, a.deactivated_at, v.challenge_type, v.validated_at, v.valid_until, v.problem,
            v.caa_checked_at
        FROM authorizations a JOIN validations v ON v.authorization_id = a.id
        WHERE a.account_id = signer.id AND hashtext(a.identifier_value) = hashtext(w.value)
            AND a.identifier_value = w.value AND a.identifier_type = w.type AND a.wildcard = w.wildcard
            AND a.id >= $10 AND a.deactivated_at IS NULL
            AND v.problem IS NULL AND v.valid_until > $11 AND v.validated_at < a.expires_at
            AND (v.caa_checked_at > $12 OR a.identifier_type = 'ip')
            AND ($15 OR signer.dns_persist_allowed_at IS NOT NULL OR v.challenge_type <> 'dns-persist-01')
            AND v.remotes_corroborated >= $16 AND (v.subdomains OR NOT w.above)
        OFFSET 0) AS f
    ORDER BY w.position, w.above, f.caa_checked_at DESC NULLS LAST) AS r ON true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A new order as its payload has it, and which authorizations would do: made at or after the object id
    `made_after`, valid until `valid_until` or longer, with a look at CAA after `caa_after`, seen by enough perspectives
    for the policy now, on a persistent record only where `persist` or the account's permission lets them; for a domain
    above, where `subdomains` lets them."""

    request: OrderRequest
    made_after: bytes
    valid_until: datetime
    caa_after: datetime
    persist: bool
    subdomains: bool
    least_corroborated: int

    def columns(self) -> tuple[Any, ...]:
        """The parameters of PROSPECTS."""
        names = self.request.identifiers
        return (*coverage(names, subdomains=self.subdomains), self.made_after, self.valid_until, self.caa_after,
                lookup_names(names), self.request.profile, self.persist, self.least_corroborated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """What is known of a wish. `blocked`: name -> whether everything below it is blocked, too; `reusable`: valid
    authorizations of the account (row OR15)."""

    wish: Wish
    blocked: Mapping[str, bool]
    profile_disabled: bool
    reusable: Mapping[Identifier, ReusableAuthorization]


def prospects_of(rows: Sequence[Record], wish: Wish) -> Prospects:
    """The rows of PROSPECTS."""
    return Prospects(
        wish=wish, blocked=dict(zip(rows[0]["names"] or (), rows[0]["below"] or (), strict=True)),
        profile_disabled=rows[0]["profile_disabled"],
        reusable={wish.request.identifiers[row["position"]]: ReusableAuthorization(id=row["id"], facts=facts_of(row))
                  for row in rows if row["position"] is not None})
