"""Reads audit logs and verifies their chains, without any process or database: the files are enough.

`read_chain` gives the records of one chain in order and stops with ChainBroken at the first line that does not follow.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ca.process.audit_log import segment_name


class ChainBroken(Exception):
    """A line that was changed, taken out or put in, or a segment that is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One line. `values` is everything but its place in the chain; `digest` is what the next line must name."""

    number: int
    at: str
    event: str
    digest: bytes
    values: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class ChainSummary:
    """What a chain holds. Signatures by (kind, key): how many were asked for and how many were made."""

    name: str
    chain: str = ""
    records: int = 0
    first_at: str = ""
    last_at: str = ""
    digest: bytes = b""
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    signed: Counter[tuple[str, str]] = field(default_factory=Counter)
    without_intent: list[int] = field(default_factory=list)


def chain_directories(root: Path) -> list[Path]:
    """The chains under an audit directory."""
    return sorted(path for path in root.iterdir() if path.is_dir() and (path / segment_name(1)).exists()
                  ) if root.is_dir() else []


def read_chain(directory: Path) -> Iterator[AuditRecord]:
    """The records of a chain. Raises ChainBroken.

    A last line without its end is what a crash, or a writer at this moment, left: it is not read, and nothing was
    signed on the strength of it.
    """
    number, digest, segment = 0, "", 0
    while (path := directory / segment_name(segment + 1)).exists():
        segment += 1
        is_last = not (directory / segment_name(segment + 1)).exists()
        with path.open("rb") as file:
            for at, line in enumerate(file, 1):
                place = f"{directory.name}/{path.name}, line {at}"
                if not line.endswith(b"\n"):
                    if is_last:
                        return
                    raise ChainBroken(f"{place}: the line has no end")
                record = _record(line[:-1], place)
                if record.pop("n", None) != number + 1:
                    raise ChainBroken(f"{place}: record {number + 1} was expected")
                if record.pop("prev", None) != digest:
                    raise ChainBroken(f"{place}: it does not follow the line before, which was changed or taken out")
                number, digest = number + 1, hashlib.sha256(line[:-1]).hexdigest()
                yield AuditRecord(number=number, at=record.pop("at", ""), event=record.pop("event", ""),
                                  digest=bytes.fromhex(digest), values=record)
    later = sorted(path.name for path in directory.glob("*.log") if path.name > segment_name(segment))
    if later:
        raise ChainBroken(f"{directory.name}: segment {segment_name(segment + 1)} is missing, {later[0]} is there")


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise ChainBroken(f"{place}: it is no JSON: {fault}") from fault
    if not isinstance(record, dict):
        raise ChainBroken(f"{place}: it is no JSON object")
    return record


def summarize(directory: Path, wanted: Mapping[int, bytes] | None = None) -> tuple[ChainSummary, dict[int, bytes]]:
    """Reads a chain to its end: what it holds, and the digests of the `wanted` records that exist.

    Every signature needs an intent before it over the same bytes with the same key. Raises ChainBroken.
    """
    summary = ChainSummary(name=directory.name)
    found: dict[int, bytes] = {}
    intents: set[tuple[str, str, str]] = set()
    for record in read_chain(directory):
        if wanted and record.number in wanted:
            found[record.number] = record.digest
        summary.records, summary.last_at, summary.digest = record.number, record.at, record.digest
        summary.first_at = summary.first_at or record.at
        summary.chain = summary.chain or str(record.values.get("chain", ""))
        if record.event not in ("signing", "signed"):
            continue
        kind, key = str(record.values.get("kind")), str(record.values.get("key"))
        what = (kind, key, str(record.values.get("tbs_sha256")))
        count = int(record.values.get("count", 1))
        if record.event == "signing":
            intents.add(what)
            summary.asked[kind, key] += count
        else:
            summary.signed[kind, key] += count
            if what not in intents:
                summary.without_intent.append(record.number)
            intents.discard(what)
    return summary, found
