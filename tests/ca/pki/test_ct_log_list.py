"""The log list of version 3: which logs count, and that a wrong list is refused as a whole."""

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.ct_log_list import LogListError, parse_log_list
from tests.ct_log import CtLogs, personalities

NOW = datetime.now(UTC)


def _document(count: int = 4) -> dict[str, Any]:
    logs = CtLogs(personalities(count))
    for log in logs:
        log.url = f"https://{log.name}.example/2027h1"
    document: dict[str, Any] = json.loads(logs.list_json())
    return document


def _parse(document: object) -> Any:
    return parse_log_list(json.dumps(document).encode())


def test_what_is_read() -> None:
    """Operator, kind, key, submission URL (with its slash), interval, in both of the list's places for logs."""
    before = datetime.now(UTC)
    found = _parse(_document())
    assert {(log.description, log.operator, log.tiled, log.url) for log in found.logs.values()} == {
        ("log1", "Alder", False, "https://log1.example/2027h1/"), ("log2", "Birch", True, "https://log2.example/2027h1/"),
        ("log3", "Alder", True, "https://log3.example/2027h1/"), ("log4", "Birch", False, "https://log4.example/2027h1/")}
    assert before - timedelta(seconds=1) < found.made_at <= datetime.now(UTC)
    assert all(log_id == log.log_id for log_id, log in found.logs.items())


@pytest.mark.parametrize(("state", "counts"), [
    ("usable", True), ("qualified", True), ("pending", False), ("readonly", False), ("retired", False),
    ("rejected", False), ("of-tomorrow", False)])
def test_states(state: str, counts: bool) -> None:
    """Only qualified and usable logs take certificates; an unknown state is none of them."""
    document = _document(1)
    document["operators"][0]["logs"][0]["state"] = {state: {"timestamp": "2026-01-01T00:00:00Z"}}
    assert len(_parse(document).logs) == int(counts)


def test_temporal_interval() -> None:
    """The start is inside, the end outside; a log without interval takes everything."""
    document = _document(1)
    log = document["operators"][0]["logs"][0]
    log["temporal_interval"] = {"start_inclusive": "2027-01-01T00:00:00Z", "end_exclusive": "2027-07-01T00:00:00Z"}
    start, end, second = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 7, 1, tzinfo=UTC), timedelta(seconds=1)
    found = _parse(document)
    assert [len(found.candidates(moment)) for moment in (start - second, start, end - second, end)] == [0, 1, 1, 0]
    del log["temporal_interval"]
    assert len(_parse(document).candidates(datetime(2099, 1, 1, tzinfo=UTC))) == 1


def test_age() -> None:
    """70 days and not a second more (spec/pki.md 3.2)."""
    found = _parse(_document())
    found.require_fresh(found.made_at + timedelta(days=70))
    with pytest.raises(LogListError, match="70 days old"):
        found.require_fresh(found.made_at + timedelta(days=70, seconds=1))


def _first(document: dict[str, Any]) -> dict[str, Any]:
    log: dict[str, Any] = document["operators"][0]["logs"][0]
    return log


def _ed25519(document: dict[str, Any]) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _first(document).update(key=base64.b64encode(spki).decode(),
                            log_id=base64.b64encode(hashlib.sha256(spki).digest()).decode())


_FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "id of another key": lambda d: _first(d).update(log_id="A" * 43 + "="),
    "id that is no base64": lambda d: _first(d).update(log_id="!"),
    "key that is none": lambda d: _first(d).update(key="AAAA"),
    "key of another kind": _ed25519,
    "http elsewhere": lambda d: _first(d).update(url="http://log.example/"),
    "no url": lambda d: _first(d).update(url=""),
    "url with a query": lambda d: _first(d).update(url="https://log.example/?a"),
    "the same log twice": lambda d: d["operators"][0]["logs"].append(_first(d)),
    "interval without zone": lambda d: _first(d).update(temporal_interval={
        "start_inclusive": "2027-01-01T00:00:00", "end_exclusive": "2027-07-01T00:00:00"}),
    "no timestamp": lambda d: d.pop("log_list_timestamp"),
    "no operators": lambda d: d.pop("operators"),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_wrong_list_is_refused(fault: str) -> None:
    """One mistake and the list as a whole is not used: what was in force before stays in force."""
    document = _document()
    _FAULTS[fault](document)
    with pytest.raises(LogListError):
        _parse(document)


def test_http_on_this_machine() -> None:
    """Test logs on loopback may be spoken to without TLS."""
    document = _document(1)
    _first(document).update(url="http://127.0.0.1:6962/a")
    assert next(iter(_parse(document).logs.values())).url == "http://127.0.0.1:6962/a/"


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """LogListError and nothing else."""
    with pytest.raises(LogListError):
        parse_log_list(data)
