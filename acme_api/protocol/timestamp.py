"""Times on the wire: RFC 3339, UTC, whole seconds (row OR12: fractions have broken clients)."""

from datetime import datetime


def rfc3339(moment: datetime) -> str:
    """2026-11-24T02:38:00Z of an aware UTC moment; a fraction of a second is cut off."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
