"""dns-01 and dns-account-01: the digest of the key authorization in a TXT record (RFC 8555 8.4, BR 3.2.2.4.7; row DA1,
BR 3.2.2.4.21). They differ in the name of the record alone."""

import hmac

from acme_api.protocol.challenge import dns_account_label, dns_txt_value
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Resolver
from ca.pki.identifier import Identifier


class Dns01:
    """Validates dns-01 and dns-account-01 challenges, those of wildcard names at their base name (DN1)."""

    def __init__(self, *, resolver: Resolver) -> None:
        self._resolver = resolver

    async def validate(self, identifier: Identifier, key_authorization: str, evidence: Evidence) -> None:
        """Returns when one TXT record holds the expected value; raises ValidationFailure when none does."""
        await self._require_value(f"_acme-challenge.{identifier.base}", key_authorization, evidence)

    async def validate_account(
        self, identifier: Identifier, account_url: str, key_authorization: str, evidence: Evidence
    ) -> None:
        """As `validate`, at the name that is the account's own."""
        name = f"{dns_account_label(account_url)}._acme-challenge.{identifier.base}"
        await self._require_value(name, key_authorization, evidence)

    async def _require_value(self, name: str, key_authorization: str, evidence: Evidence) -> None:
        evidence.wait_for(f"looking up the TXT records of {name}", dns=True)
        answer = await self._resolver.txt(name)
        evidence.add("txt", name, got=[value.decode("latin-1") for value in answer.values],
                     aliases=answer.aliases or None, dnssec=answer.authenticated or None)
        if not answer.values:
            why = "has no TXT record" if answer.exists else "does not exist (NXDOMAIN)"
            raise ValidationFailure("dns", f"{name} {why}", transient=True)
        expected = dns_txt_value(key_authorization).encode("ascii")
        # Every record is compared, and exactly: case and white space count (DN2).
        matches = [hmac.compare_digest(value, expected) for value in answer.values]
        if not any(matches):
            count = len(answer.values)
            raise ValidationFailure(
                "incorrectResponse", f"none of the {count} TXT record{'s' if count > 1 else ''} at {name} has the "
                f"expected value{_hint(answer.values, key_authorization, expected)}")


def _hint(values: tuple[bytes, ...], key_authorization: str, expected: bytes) -> str:
    """A common mistake that can be named without repeating a record (SF4)."""
    if key_authorization.encode("ascii") in values:
        return ": one holds the key authorization itself, not its SHA-256 digest"
    if any(value.strip(b' \t"=') == expected for value in values):
        return ": one has quotes, padding or white space around it"
    if any(value.lower() == expected.lower() for value in values):
        return ": one differs in letter case alone"
    return ""
