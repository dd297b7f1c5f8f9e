"""What the role acme_wfe reads for renewal information and for orders that replace a certificate (RFC 9773)."""

from typing import Final

from acme_api.protocol.renewal_info import CertificateId, Renewable
from ca.pki.identifier import Identifier
from ca.process.postgres import Record
from ca.process.sessions import Sessions

# An order replaces a certificate when its own is signed, not when it is made: an order that fails replaces nothing.
_RENEWABLE: Final = """
SELECT c.account_id, c.not_before, c.not_after, i.certificate AS issuer, o.identifier_types, o.identifier_values,
    EXISTS (SELECT FROM revocations WHERE serial = c.serial)
        OR EXISTS (SELECT FROM revocation_requests WHERE serial = c.serial)
        OR EXISTS (SELECT FROM blocked_keys WHERE spki_sha256 = c.spki_sha256) AS ended,
    (SELECT n.explanation_url FROM incident_serials m JOIN incidents n ON n.name = m.incident
     WHERE m.serial = c.serial AND n.closed_at IS NULL ORDER BY n.opened_at DESC LIMIT 1) AS incident,
    EXISTS (SELECT FROM orders r JOIN issuances j ON j.request_id = r.id
            JOIN certificate_signatures t ON t.serial = j.serial WHERE r.replaces = $2) AS replaced
FROM certificates c
JOIN certificate_signatures s ON s.serial = c.serial
JOIN issuers i ON i.id = c.issuer_id
LEFT JOIN orders o ON o.id = c.request_id
WHERE c.serial = $1
"""


class RenewalStore:
    """One statement: everything about one certificate."""

    def __init__(self, *, reads: Sessions) -> None:
        self._reads = reads

    async def renewable(self, wanted: CertificateId) -> tuple[Renewable, bytes] | None:
        """A certificate that is signed, by its serial number alone, and the DER of its issuer's certificate."""
        row = await self._reads.fetchrow(_RENEWABLE, wanted.serial, str(wanted))
        return None if row is None else (_renewable(wanted, row), row["issuer"])


def _renewable(wanted: CertificateId, row: Record) -> Renewable:
    pairs = zip(row["identifier_types"] or (), row["identifier_values"] or (), strict=True)
    return Renewable(
        id=wanted, account_id=row["account_id"], not_before=row["not_before"], not_after=row["not_after"],
        identifiers=frozenset(Identifier(type=kind, value=value) for kind, value in pairs),
        replace_now=row["ended"] or row["incident"] is not None, explanation_url=row["incident"] or "",
        replaced=row["replaced"])
