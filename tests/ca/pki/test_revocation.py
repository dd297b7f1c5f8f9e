"""Revocation: reasons, and what a request changes."""

from datetime import UTC, datetime, timedelta

import pytest

from ca.pki.revocation import (
    ALLOWED_REASONS,
    REASON_NAMES,
    Revocation,
    effective_reason,
    next_revocation,
    proves_key_compromise,
)

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SERIAL = bytes(range(1, 19))


def test_reasons() -> None:
    """RV4: the closed list, every one with a name."""
    assert set(ALLOWED_REASONS) == {0, 1, 3, 4, 5, 9} == set(REASON_NAMES)
    for reason in (2, 6, 7, 8, 10, -1, 11, 256):
        with pytest.raises(ValueError):
            effective_reason(reason, "account")


def test_who_proves_something_decides_the_reason() -> None:
    """Control of the names means that the certificate is no longer wanted; the certificate's key means it is lost."""
    assert effective_reason(4, "account") == 4
    assert effective_reason(9, "operator") == 9
    assert effective_reason(4, "authorizations") == 5
    assert effective_reason(7, "certificate_key") == 1
    assert proves_key_compromise(1, "certificate_key")
    assert proves_key_compromise(1, "operator")
    assert not proves_key_compromise(1, "account")
    assert not proves_key_compromise(4, "operator")


def test_a_reason_moves_to_key_compromise_and_never_away() -> None:
    """First revocation, upgrade with the old time and version 2, and repetitions that change nothing."""
    first = next_revocation(None, serial=SERIAL, reason=0, now=NOW)
    assert first == Revocation(serial=SERIAL, revoked_at=NOW, reason=0, version=1)
    later = NOW + timedelta(days=1)
    upgraded = next_revocation(first, serial=SERIAL, reason=1, now=later)
    assert upgraded == Revocation(serial=SERIAL, revoked_at=NOW, reason=1, version=2)
    for known in (first, upgraded):
        for reason in ALLOWED_REASONS - {1}:
            assert next_revocation(known, serial=SERIAL, reason=reason, now=later) is None
    assert next_revocation(upgraded, serial=SERIAL, reason=1, now=later) is None
    direct = next_revocation(None, serial=SERIAL, reason=1, now=NOW)
    assert next_revocation(direct, serial=SERIAL, reason=1, now=later) is None
