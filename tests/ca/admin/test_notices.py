"""What is degraded by the configuration and its files: Certificate Transparency that is off, a log list that ends."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import structlog

from ca.admin.notices import notices, transparency_notices
from ca.issuing.__main__ import transparency_of
from ca.process.settings import CtSettings, Settings, load_settings
from tests.ct_log import CtLogs, personalities

_SAMPLE = Path(__file__).parents[3] / "deploy" / "public.toml"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def _logs(end: datetime | None = None) -> bytes:
    logs = CtLogs(personalities(4))
    for log in logs:
        log.url = f"https://{log.name}.example/"
        log.end = end or log.end
    return logs.list_json()


@pytest.fixture
def public(tmp_path: Path) -> Settings:
    """A public CA with a list of logs that is good."""
    (tmp_path / "chancery.toml").write_bytes(_SAMPLE.read_bytes())
    (tmp_path / "log_list.json").write_bytes(_logs())
    return load_settings(tmp_path / "chancery.toml", {})


def _codes(settings: Settings, now: datetime = NOW) -> list[str]:
    return [reason.code for reason in transparency_notices(settings, now)]


def test_a_public_ca_that_logs_nothing(public: Settings) -> None:
    """It may (a test of a new CA), and nobody overlooks it: status is degraded, and the CA's log says so at its start.
    An internal CA is not complained of."""
    off = msgspec.structs.replace(public, ct=CtSettings(enabled=False))
    [reason] = transparency_notices(off, NOW)
    assert (reason.code, reason.text) == (
        "ct_off", "certificates are not logged, and browsers accept none of them: [ct] enabled = false")
    assert "ct_off" in [each.code for each in notices(off, NOW)]
    with structlog.testing.capture_logs() as logged:
        transparency_of(off, structlog.get_logger())
        transparency_of(public, structlog.get_logger())
    assert [(each["log_level"], each["event"]) for each in logged] == [
        ("warning", "certificates are not logged, and browsers accept none of them")]
    internal = msgspec.structs.replace(off, policy="internal")
    assert _codes(internal) == []
    assert _codes(public) == []


def test_a_list_that_nobody_renews(public: Settings) -> None:
    """Old, then so old that it is not gone by; it cannot be read, or is gone."""
    assert _codes(public, NOW + 29 * DAY) == []
    assert _codes(public, NOW + 31 * DAY) == ["log_list_old"]
    assert public.ct.log_list is not None
    public.ct.log_list.write_text("{}", "utf-8")
    assert _codes(public) == ["log_list_unusable"]
    public.ct.log_list.unlink()
    assert _codes(public) == ["log_list_unusable"]


@pytest.mark.parametrize(("ends_after_days", "codes"), [
    (200, []), (119, ["log_list_ends"]), (91, ["log_list_ends"]), (89, ["log_list_short"]), (-1, ["log_list_short"])])
def test_shards_that_end(public: Settings, ends_after_days: int, codes: list[str]) -> None:
    """Thirty days before the first certificate of 90 days could not be logged, and when it cannot."""
    assert public.ct.log_list is not None
    public.ct.log_list.write_bytes(_logs(NOW + ends_after_days * DAY))
    assert _codes(public) == codes
