"""What a mass revocation will cost, before it is ordered: rows, time of the HSM, sizes of CRLs, OCSP responses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ca.admin.incident_store import ShardCensus
from ca.admin.output import size, span

# A CRL entry with its reason, and everything else in a CRL (spec/pki.md 6).
_ENTRY_BYTES: Final = 51
_EMPTY_CRL_BYTES: Final = 600
# Two CertID hashes are answered; a response and its index entry in a batch.
_SIGNATURES_PER_STATUS: Final = 2
_RESPONSE_BYTES: Final = {"ec": 320, "rsa": 510}
# SoftHSM on one core; a hardware token is slower, and says so in `chancery hsm bench`.
SIGNATURES_PER_S: Final[Mapping[str, int]] = {"ec": 18_000, "rsa": 1_600}
# What the CA carries out in a second, measured with pre-signers that keep up (a million in 113 s, on two cores).
_ROWS_PER_S: Final = 8_000
_MOST_ENTRIES: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerForecast:
    """The part of one issuer."""

    issuer: str
    certificates: int
    to_revoke: int
    responses: int
    response_bytes: int
    hsm_s: float
    shards: int
    largest_crl_entries: int
    largest_crl_bytes: int
    crl_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """All of it."""

    issuers: tuple[IssuerForecast, ...]

    @property
    def certificates(self) -> int:
        """Selected."""
        return sum(each.certificates for each in self.issuers)

    @property
    def to_revoke(self) -> int:
        """Not revoked yet."""
        return sum(each.to_revoke for each in self.issuers)

    @property
    def seconds(self) -> float:
        """About how long it takes: rows are written while the HSM signs."""
        return max(self.to_revoke / _ROWS_PER_S, sum(each.hsm_s for each in self.issuers))

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {
            "certificates": self.certificates, "to_revoke": self.to_revoke, "seconds": round(self.seconds, 1),
            "issuers": [{
                "issuer": each.issuer, "certificates": each.certificates, "to_revoke": each.to_revoke,
                "ocsp_responses": each.responses, "ocsp_bytes": each.response_bytes,
                "hsm_seconds": round(each.hsm_s, 2), "crl_shards": each.shards,
                "largest_crl_entries": each.largest_crl_entries, "largest_crl_bytes": each.largest_crl_bytes,
                "crl_bytes": each.crl_bytes} for each in self.issuers]}

    def facts(self) -> list[tuple[str, str]]:
        """For people."""
        facts = [("certificates", f"{self.certificates:,}, of which {self.certificates - self.to_revoke:,} are revoked "
                  "already"),
                 ("to revoke", f"{self.to_revoke:,} rows, about {span(timedelta(seconds=self.seconds))}")]
        for each in self.issuers:
            warning = "" if each.largest_crl_entries <= _MOST_ENTRIES else (
                f"; more than {_MOST_ENTRIES:,} in one CRL: give the next issuer more shards")
            facts.append((each.issuer, f"{each.to_revoke:,} certificates\n"
                          f"HSM: {each.responses * _SIGNATURES_PER_STATUS:,} OCSP signatures, "
                          f"{span(timedelta(seconds=each.hsm_s))}\n"
                          f"CRLs: {each.shards} shards, {size(each.crl_bytes)} in all; the largest has "
                          f"{each.largest_crl_entries:,} entries, {size(each.largest_crl_bytes)}{warning}\n"
                          f"OCSP: {each.responses:,} certificates get new responses, {size(each.response_bytes)}"))
        return facts


def forecast(
    census: Iterable[ShardCensus],
    crls: Mapping[tuple[int, int], tuple[int, int]],
    *,
    signatures_per_s: Mapping[str, float] = SIGNATURES_PER_S,
) -> Forecast:
    """From the certificates by shard and the CRLs of today (issuer id, shard) -> (entries, bytes)."""
    by_issuer: dict[str, list[ShardCensus]] = {}
    for part in census:
        by_issuer.setdefault(part.issuer, []).append(part)
    return Forecast(issuers=tuple(_of_issuer(parts, crls, signatures_per_s) for parts in by_issuer.values()))


def _of_issuer(
    parts: list[ShardCensus], crls: Mapping[tuple[int, int], tuple[int, int]], rates: Mapping[str, float]
) -> IssuerForecast:
    entries = {}
    for part in parts:
        held = crls.get((part.issuer_id, part.shard), (0, _EMPTY_CRL_BYTES))[0]
        entries[part.shard] = held + part.certificates - part.revoked
    responses = sum(part.responses for part in parts)
    rate = rates[parts[0].key_type]
    return IssuerForecast(
        issuer=parts[0].issuer, certificates=sum(part.certificates for part in parts),
        to_revoke=sum(part.certificates - part.revoked for part in parts), responses=responses,
        response_bytes=responses * _SIGNATURES_PER_STATUS * _RESPONSE_BYTES[parts[0].key_type],
        hsm_s=(responses * _SIGNATURES_PER_STATUS + len(parts)) / rate, shards=len(parts),
        largest_crl_entries=max(entries.values()),
        largest_crl_bytes=_EMPTY_CRL_BYTES + _ENTRY_BYTES * max(entries.values()),
        crl_bytes=sum(_EMPTY_CRL_BYTES + _ENTRY_BYTES * count for count in entries.values()))
