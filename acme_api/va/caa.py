"""CAA lookup: every name from the identifier up to its top-level domain, asked at once (RFC 8659 3, BR 3.2.2.8)."""

import asyncio
from collections.abc import Sequence
from typing import Final

from acme_api.protocol.caa import (
    MAX_RECORDS,
    CaaForbids,
    CaaRecord,
    CaaRequest,
    names_to_climb,
    require_permission,
)
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Answer, Resolver
from ca.pki.identifier import Identifier

_SHOWN_RECORDS: Final = 8


class CaaChecker:
    """Asks whether we may issue. Names under `exempt_suffixes` are not asked; the internal policy alone has any."""

    def __init__(
        self, *, resolver: Resolver, identities: frozenset[str], exempt_suffixes: Sequence[str] = ()
    ) -> None:
        self._resolver = resolver
        self._identities = identities
        self._exempt_suffixes = tuple(suffix.strip(".").lower() for suffix in exempt_suffixes)

    async def require_permission(
        self, identifier: Identifier, *, wildcard: bool, method: str, account_url: str, evidence: Evidence
    ) -> None:
        """Returns when the records let us issue; raises ValidationFailure: caa when they forbid, dns when not known."""
        if identifier.type == "ip":
            evidence.add("caa", "not looked up for an address (RFC 8738 7)")
            return
        name = identifier.value.removeprefix("*.")
        if any(name == suffix or name.endswith(f".{suffix}") for suffix in self._exempt_suffixes):
            evidence.add("caa", "exempt by configuration")
            return
        request = CaaRequest(wildcard=wildcard, method=method, account_url=account_url, identities=self._identities)
        try:
            found_at, records = await self._relevant(name, evidence)
            permission = require_permission(records, request)
        except CaaForbids as forbids:
            evidence.add("caa_forbids", name, why=forbids.detail)
            raise ValidationFailure("caa", f"the CAA records for {name} forbid issuance: {forbids.detail}") from forbids
        evidence.add("caa", found_at or "no records up to the top-level domain",
                     permitted_by=str(permission.matched) if permission.matched else None)

    async def _relevant(self, name: str, evidence: Evidence) -> tuple[str | None, Sequence[CaaRecord]]:
        """The first non-empty set and where it is. A failure that is closer than any set is the outcome (CA8, CA11)."""
        names = names_to_climb(name)
        evidence.wait_for(f"looking up the CAA records of {name} and its parents", dns=True)
        results = await asyncio.gather(*(self._resolver.caa(each) for each in names), return_exceptions=True)
        for asked, result in zip(names, results, strict=True):
            if isinstance(result, BaseException):
                if isinstance(result, ValidationFailure):
                    evidence.add("caa_failed", asked, why=result.detail)
                raise result
            if result.values:
                _require_countable(asked, result)
                evidence.add("caa_records", asked, got=[str(record) for record in result.values[:_SHOWN_RECORDS]],
                             count=len(result.values), aliases=result.aliases or None,
                             dnssec=result.authenticated or None)
                return asked, result.values
        return None, ()


def _require_countable(name: str, answer: Answer[CaaRecord]) -> None:
    if len(answer.values) > MAX_RECORDS:
        raise ValidationFailure("dns", f"{name} has more than {MAX_RECORDS} CAA records")
