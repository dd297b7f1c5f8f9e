"""ACME Renewal Information: when a certificate should be renewed, and what an order replaces (RFC 9773).

The window is a twelfth of the certificate's life and lies in its last third, at a place that the serial number chooses:
who was issued in one busy hour does not come back in one, and a fifth of the life is left when renewing fails. What
must be replaced now (revoked, about to be, its key lost, part of an incident) has a window in the past.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from acme_api.protocol import base64url
from acme_api.protocol.problem import Problem, malformed, unauthorized
from acme_api.protocol.timestamp import rfc3339
from ca.pki.identifier import Identifier

CACHE_S: Final = 600
"""How long an answer may be kept by others, so that an incident is heard of at the next poll (row AR5)."""
_POLL_S: Final = 21_600
_POLL_JITTER: Final = 0.2
_SHORTEST_WINDOW: Final = timedelta(hours=1)
_SECOND: Final = timedelta(seconds=1)
_PART_OF_LIFE: Final = 12
_MOST_SERIAL_BYTES: Final = 20     # RFC 5280 4.1.2.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateId:
    """A certificate by its issuer's key identifier and its serial number (RFC 9773 4.1).

    The serial number is the contents of a DER INTEGER, or that without the zero byte that a high first bit asks for,
    because some clients leave it out. A serial number of ours has a low first bit, so its spelling is one.
    """

    key_id: bytes
    serial: bytes

    def __str__(self) -> str:
        return f"{base64url.encode(self.key_id)}.{base64url.encode(self.serial)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewable:
    """A certificate of ours. `replace_now`: it is revoked or about to be, its key is lost, or it is part of an open
    incident, which `explanation_url` may explain. `replaced`: the certificate of an order that names it is issued."""

    id: CertificateId
    account_id: bytes | None
    not_before: datetime
    not_after: datetime
    identifiers: Collection[Identifier]
    replace_now: bool
    explanation_url: str
    replaced: bool


def parse_certificate_id(text: str) -> CertificateId:
    """The certificate that is meant. Raises malformed (rows AR2, AR5)."""
    parts = text.split(".")
    if len(parts) != 2 or not all(parts):
        raise malformed("a certificate is named by its issuer's key identifier and its serial number, in base64url "
                        "with a dot between them (RFC 9773 4.1)")
    try:
        key_id, serial = (base64url.decode(part) for part in parts)
    except base64url.Base64Error as fault:
        raise malformed(f"a part of the certificate's name is {fault}") from None
    if len(serial) > _MOST_SERIAL_BYTES:
        raise malformed("a serial number has at most twenty bytes")
    if serial[0] == 0 and len(serial) > 1 and serial[1] < 0x80:
        raise malformed("the serial number begins with a zero byte that DER does not have")
    return CertificateId(key_id=key_id, serial=serial)


def renewal_window(certificate: Renewable, now: datetime) -> tuple[datetime, datetime]:
    """Start and end, whole seconds, at least an hour apart (row AR3)."""
    if certificate.replace_now:
        end = now.replace(microsecond=0) - timedelta(hours=1)
        return end - _SHORTEST_WINDOW, end
    life = certificate.not_after - certificate.not_before + _SECOND
    part = life / _PART_OF_LIFE
    length = max(part, _SHORTEST_WINDOW)
    start = certificate.not_before + life * 2 / 3 + part * _spread(certificate.id.serial, "window")
    start = min(start, certificate.not_after - length).replace(microsecond=0)
    return start, (start + length).replace(microsecond=0)


def retry_after_s(certificate: Renewable) -> int:
    """When to ask again: six hours, more or less, so that clients of one hour do not stay together (row AR4)."""
    return round(_POLL_S * (1 + _POLL_JITTER * (2 * _spread(certificate.id.serial, "poll") - 1)))


def renewal_info_object(certificate: Renewable, now: datetime) -> dict[str, Any]:
    """RFC 9773 4.2."""
    start, end = renewal_window(certificate, now)
    document: dict[str, Any] = {"suggestedWindow": {"start": rfc3339(start), "end": rfc3339(end)}}
    if certificate.explanation_url:
        document["explanationURL"] = certificate.explanation_url
    return document


def parse_replaces(value: Any) -> CertificateId:
    """What newOrder wants to replace. Raises malformed (row AR7)."""
    if not isinstance(value, str):
        raise malformed("ARI 'replaces' is not a string")
    try:
        return parse_certificate_id(value)
    except Problem as fault:
        raise malformed(f"ARI 'replaces': {fault.detail}") from None


def require_replaceable(
    certificate: Renewable, account_id: bytes, identifiers: Collection[Identifier]
) -> None:
    """Raises Problem unless an order of the account for these identifiers may replace the certificate (AR8, AR9)."""
    if certificate.account_id != account_id:
        raise unauthorized("ARI 'replaces': the certificate belongs to another account")
    if not set(certificate.identifiers) & set(identifiers):
        raise malformed("ARI 'replaces': the certificate and the order have no identifier in common")
    if certificate.replaced:
        raise Problem("alreadyReplaced", "ARI 'replaces': the certificate has been replaced by another order already")


def is_due(certificate: Renewable, now: datetime) -> bool:
    """Whether the window has begun: an order that renews then is exempt from limits (row AR10)."""
    return renewal_window(certificate, now)[0] <= now


def _spread(serial: bytes, what: str) -> float:
    """A number from 0 up to 1, the same for a serial number at each look, evenly spread over serial numbers."""
    digest = hashlib.sha256(what.encode("ascii") + serial).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)
