"""What an operator means by a query, and what a mass revocation is foretold to cost."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ca.admin.context import CommandError
from ca.admin.forecast import forecast
from ca.admin.incident_store import ShardCensus
from ca.admin.selection import parse_selection


def test_a_query() -> None:
    """Quotes, days, times with a zone; one spelling of names."""
    found = parse_selection("issuer='Example R1' since=2026-11-01 until=2026-11-02T14:00:00+02:00 name=WWW.Example.COM."
                            f" profile=classic key={'ab' * 32}")
    assert (found.issuer, found.name, found.profile, found.key) == (
        "Example R1", "www.example.com", "classic", bytes.fromhex("ab" * 32))
    assert (found.since, found.until) == (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, 12, tzinfo=UTC))
    assert found.serials is None


@pytest.mark.parametrize("text", [
    "", "   ", "issuer", "issuer=", "colour=red", "issuer=a issuer=b", "since=yesterday", "name=a..b", "key=zz",
    "account=x", "serials=/nonexistent", "issuer='x", "serials=/dev/null", "serials=x issuer=y"])
def test_no_query(text: str) -> None:
    """Empty, unknown, twice, unreadable: exit code 2; an empty one never means everything."""
    with pytest.raises(CommandError) as raised:
        parse_selection(text)
    assert raised.value.exit_code == 2


def test_a_file_of_serial_numbers(tmp_path: Path) -> None:
    """One a line in any usual form, without comments, each once; a prefix is refused with its line."""
    file = tmp_path / "serials"
    file.write_text("# found by the linter\n0AD8:6f01 " + "00" * 14 + "\n\n0ad86f01" + "00" * 14 + "\n7f" + "11" * 17)
    assert parse_selection(f"serials={file}").serials == (
        bytes.fromhex("0ad86f01" + "00" * 14), bytes.fromhex("7f" + "11" * 17))
    file.write_text("7f" + "11" * 17 + "\n0ad86f01\n")
    with pytest.raises(CommandError, match="line 2"):
        parse_selection(f"serials={file}")


def test_the_forecast() -> None:
    """Rows, signatures, CRL sizes: by issuer, with what the CRLs hold today."""
    census = [ShardCensus(issuer="E1", key_type="ec", shard=shard, issuer_id=1, certificates=1000 + shard, revoked=100,
                          responses=900) for shard in range(4)]
    census.append(ShardCensus(issuer="R1", key_type="rsa", shard=0, issuer_id=2, certificates=30_000, revoked=0,
                              responses=0))
    found = forecast(census, {(1, 3): (5000, 255_600)})
    first, second = found.issuers
    assert (found.certificates, found.to_revoke) == (34_006, 33_606)
    assert (first.to_revoke, first.responses, first.shards, first.largest_crl_entries) == (3606, 3600, 4, 5903)
    assert first.largest_crl_bytes == 600 + 51 * 5903
    assert 0.4 < first.hsm_s < 0.5
    assert second.hsm_s < 0.01, "no OCSP for these"
    text = dict(found.facts())
    assert "more than 20,000 in one CRL" in text["R1"]
    assert "7,200 OCSP signatures" in text["E1"]
