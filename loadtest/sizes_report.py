"""What was measured at each number of certificates: the rows of the table, and the charts of cost against size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loadtest.ocsp_load import WrkResult
from loadtest.plot import Chart, Line
from loadtest.report import Report, Row, median, percentile
from loadtest.second_responder import CatchUp
from loadtest.signing_loop import BareRate
from loadtest.synthetic import SignedRound
from loadtest.targets import (
    CATCH_UP_PER_S,
    FORTY_MILLION_MIN,
    OCSP_GET,
    OCSP_MANY_RESPONSES,
    OCSP_POST,
    PRESIGN,
    RESPONDER_MEMORY_MB,
    REVOCATION_SEEN_P99_MS,
    Target,
)

SCENARIO = "ocsp sizes"
_FORTY_MILLION = 40_000_000
_HASHES = 2                     # signatures a certificate


@dataclass(slots=True, kw_only=True)
class Beside:
    """Runs of the responder and of nginx, in turn."""

    mine: list[WrkResult] = field(default_factory=list)
    nginx: list[WrkResult] = field(default_factory=list)

    @property
    def per_s(self) -> float | None:
        """Answers a second of the responder."""
        return median([one.per_s for one in self.mine])

    @property
    def nginx_per_s(self) -> float | None:
        """Answers a second of nginx."""
        return median([one.per_s for one in self.nginx])

    @property
    def ratio(self) -> float | None:
        """The responder's by nginx's."""
        return self.per_s / self.nginx_per_s if self.per_s and self.nginx_per_s else None


@dataclass(slots=True, kw_only=True)
class AtSize:
    """Everything at one number of certificates; bytes of memory are a worker's own, of disk the database's."""

    size: int
    get: Beside = field(default_factory=Beside)
    post: Beside = field(default_factory=Beside)
    bare: BareRate | None = None
    signed: SignedRound | None = None
    catch_up: CatchUp | None = None
    revoked_s: list[float] = field(default_factory=list)
    private_bytes: int = 0
    database_bytes: int = 0

    @property
    def signatures_per_s(self) -> float | None:
        """Of the pre-signer, storage and publication included."""
        return _HASHES * self.signed.serials / self.signed.elapsed_s if self.signed else None

    @property
    def store_bytes(self) -> float | None:
        """Of the responder's store, a certificate."""
        return self.catch_up.store_bytes / max(1, self.catch_up.responses) if self.catch_up else None


def add_rows(report: Report, found: Sequence[AtSize], rounds: Sequence[SignedRound], *, processes: int) -> None:
    """The figures of the largest size with their bounds, and those of each size; `rounds` is all that was signed."""
    first, last = found[0], found[-1]
    _answers(report, "GET", last.size, last.get, OCSP_GET)
    _answers(report, "POST", last.size, last.post, OCSP_POST)
    _add(report, f"GET by nginx's, {last.size:,} held", last.get.ratio, peer=f"with {first.size:,}",
         peer_value=first.get.ratio, target=OCSP_MANY_RESPONSES)
    for one in found:
        _add(report, f"signatures/s, P-256, {one.size:,} stored", one.signatures_per_s,
             target=PRESIGN if one.bare else None, peer=f"bare loop x {processes}" if one.bare else "",
             peer_value=one.bare.per_s if one.bare else None)
    serials, took_s = sum(one.serials for one in rounds), sum(one.elapsed_s for one in rounds)
    if serials:
        _add(report, "40 million responses in P-256 (extrapolated)",
             _FORTY_MILLION * took_s / (_HASHES * serials) / 60, unit="min", target=FORTY_MILLION_MIN,
             note=f"from {_HASHES * serials:,} signed in {took_s:,.0f} s by {processes} processes")
    for one in found:
        caught = one.catch_up
        if caught is not None:
            _add(report, f"catch-up of a new responder, {one.size:,} held, responses/s", caught.per_s,
                 target=CATCH_UP_PER_S if one is last else None,
                 note=f"{caught.responses:,} in {caught.took_s:.1f} s, "
                      f"{caught.responses / max(caught.cpu_s, 0.01):,.0f} a processor second")
    for one in found:
        _add(report, f"private memory of a worker, {one.size:,} held", one.private_bytes / 1e6, unit="MB",
             target=RESPONDER_MEMORY_MB)
    for one in found:
        _add(report, f"commit of a revocation to revoked answer under load, {one.size:,} held, p99",
             percentile(one.revoked_s, 0.99) * 1e3, unit="ms", target=REVOCATION_SEEN_P99_MS,
             note=f"{len(one.revoked_s)} revocations, p50 {percentile(one.revoked_s, 0.5) * 1e3:.0f} ms")
    _add(report, f"database bytes per certificate and response, {last.size:,} stored", last.database_bytes / last.size,
         unit="B")
    _add(report, "bytes of the responder's store, a certificate", last.store_bytes, unit="B")


def _answers(report: Report, method: str, size: int, runs: Beside, target: Target) -> None:
    peer = "nginx" if runs.nginx else ""
    _add(report, f"{method} answers/s, random among {size:,}", runs.per_s, peer=peer, peer_value=runs.nginx_per_s,
         target=target if peer else None)
    _add(report, "... answers per processor second of the server", median([one.per_cpu_s for one in runs.mine]),
         peer=peer, peer_value=median([one.per_cpu_s for one in runs.nginx]))


def _add(report: Report, figure: str, value: float | None, *, unit: str = "", peer: str = "",
         peer_value: float | None = None, target: Target | None = None, note: str = "") -> None:
    report.add(Row(scenario=SCENARIO, figure=figure, value=value, unit=unit, peer=peer, peer_value=peer_value,
                   target=target, note=note))


def charts(found: Sequence[AtSize], openssl_per_s: float | None) -> list[Chart]:
    """One for each figure. What openssl's responder answers a second does not depend on the size."""
    def line(name: str, value: Callable[[AtSize], float | None]) -> Line:
        points = [(one.size, value(one)) for one in found]
        return Line(name=name, points=[(size, one) for size, one in points if one is not None])

    return [
        Chart(title="Processor time of an answer (GET)", unit="µs", lines=[
            line("Chancery", lambda one: _microseconds(one.get.mine)),
            line("nginx, constant body", lambda one: _microseconds(one.get.nginx))]),
        Chart(title="Answers a second (GET)", unit="1/s", lines=[
            line("Chancery", lambda one: one.get.per_s),
            line("nginx, constant body", lambda one: one.get.nginx_per_s),
            line("openssl ocsp", lambda one: openssl_per_s)]),
        Chart(title="Answers a second (POST)", unit="1/s", lines=[
            line("Chancery", lambda one: one.post.per_s),
            line("nginx, constant body", lambda one: one.post.nginx_per_s)]),
        Chart(title="Signatures a second (P-256)", unit="1/s", lines=[
            line("pre-signer", lambda one: one.signatures_per_s),
            line("bare loop", lambda one: one.bare.per_s if one.bare else None)]),
        Chart(title="Catch-up of a new responder", unit="responses/s", lines=[
            line("Chancery", lambda one: one.catch_up.per_s if one.catch_up else None)]),
        Chart(title="Revocation seen under load", unit="ms", lines=[
            line("p99", lambda one: percentile(one.revoked_s, 0.99) * 1e3),
            line("p50", lambda one: percentile(one.revoked_s, 0.5) * 1e3)]),
        Chart(title="Private memory of a worker", unit="MB", lines=[
            line("Chancery", lambda one: one.private_bytes / 1e6)]),
        Chart(title="Bytes on disk, a certificate", unit="B", lines=[
            line("database", lambda one: one.database_bytes / one.size),
            line("responder's store", lambda one: one.store_bytes)]),
    ]


def _microseconds(runs: Sequence[WrkResult]) -> float | None:
    value = median([one.per_cpu_s for one in runs])
    return 1e6 / value if value else None
