"""dns-persist-01: a TXT record that names this CA and the account (draft-ietf-acme-dns-persist, BR 3.2.2.4.22)."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from acme_api.protocol.dns_persist import LABEL, PersistRefused, PersistRequest, require_persistent_grant
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Resolver
from ca.pki.identifier import Identifier
from ca.pki.policy import PERSIST_TTL_FLOOR_S


class DnsPersist01:
    """Validates dns-persist-01 challenges. `issuer_names` are the CA's names, lower case, as challenges show them."""

    def __init__(self, *, resolver: Resolver, issuer_names: Sequence[str]) -> None:
        self._resolver = resolver
        self._issuer_names = frozenset(issuer_names)

    async def validate(
        self, identifier: Identifier, *, wildcard: bool, account_url: str, now: datetime, evidence: Evidence
    ) -> datetime:
        """The moment until which this may be relied upon at most: the record's time to live, or eight hours when that
        is longer, and never beyond what the record itself says. Raises ValidationFailure."""
        name = f"{LABEL}.{identifier.base}"
        evidence.wait_for(f"looking up the TXT records of {name}", dns=True)
        answer = await self._resolver.txt(name)
        evidence.add("txt", name, got=[value.decode("latin-1") for value in answer.values], ttl_s=answer.ttl_s,
                     aliases=answer.aliases or None, dnssec=answer.authenticated or None)
        try:
            grant = require_persistent_grant(answer.values, PersistRequest(
                issuer_names=self._issuer_names, account_url=account_url, wildcard=wildcard, now=now))
        except PersistRefused as refused:
            # A record that is not there may be on its way; what a record says will not change in some seconds.
            raise ValidationFailure(refused.code, f"{name}: {refused.detail}",
                                    transient=not answer.values) from refused
        until = now + timedelta(seconds=max(answer.ttl_s, PERSIST_TTL_FLOOR_S))
        return until if grant.until is None else min(until, grant.until)
