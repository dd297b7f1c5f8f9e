"""What the database says to an operator, as values: one dataclass for each kind of row that `store` returns."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """That a certificate is revoked, why, and by what right."""

    revoked_at: datetime
    reason: int
    version: int
    authority: str
    evidence: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A serial number that was given to a certificate. Without `signature` it was meant, and may still be signed."""

    serial: bytes
    request_id: bytes
    account_id: bytes | None        # None: a certificate of our own services
    issuer_id: int
    issuer_name: str
    crl_shards: int
    profile: str
    not_before: datetime
    not_after: datetime
    spki_sha256: bytes
    tbs: bytes
    has_ocsp: bool                  # a short-lived one has none
    created_at: datetime
    signed_at: datetime | None
    signature: bytes | None
    revocation: Revocation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A subscriber."""

    id: bytes
    created_at: datetime
    thumbprint: bytes
    jwk: str
    contacts: tuple[str, ...]
    terms_agreed_at: datetime | None
    deactivated_at: datetime | None
    revoked_at: datetime | None
    eab_kid: str | None             # of the external account that it was made with
    dns_persist_allowed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """How much an account has done, and its key changes (when, from, to)."""

    orders: int
    latest_order_ids: tuple[bytes, ...]
    certificates: int
    key_changes: tuple[tuple[datetime, bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order with every later fact about it."""

    id: bytes
    account_id: bytes
    expires_at: datetime
    identifiers: tuple[tuple[str, str], ...]    # (type, value), positions as in authorization_ids
    authorization_ids: tuple[bytes, ...]
    profile: str
    finalized_at: datetime | None
    queued_at: datetime | None                  # waits for the CA since
    attempts: int
    leased_by: str | None
    serial: bytes | None                        # the intent
    precertificate_at: datetime | None          # None: Certificate Transparency was off, or it is not signed yet
    scts: int                                   # stored answers of logs
    signed_at: datetime | None
    has_ocsp: bool | None                       # None: there is no intent
    ocsp_waits_since: datetime | None           # the first OCSP response is not published yet
    refused_at: datetime | None
    refusal: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What the VA saw. `problem` is None when it succeeded."""

    challenge_type: str
    thumbprint: bytes
    validated_at: datetime
    valid_until: datetime | None
    caa_checked_at: datetime | None
    problem: dict[str, Any] | None
    evidence: object


@dataclass(frozen=True, slots=True, kw_only=True)
class CaaCheck:
    """A CAA set that was looked at again before issuance. `name`: one below the authorization's; "": its own."""

    name: str
    checked_at: datetime
    problem: dict[str, Any] | None
    evidence: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """An authorization with its validation, the challenge that waits for one, and later CAA checks."""

    id: bytes
    identifier_type: str
    identifier_value: str
    wildcard: bool
    expires_at: datetime
    challenge_types: tuple[str, ...]
    deactivated_at: datetime | None
    validation: Validation | None
    queued_at: datetime | None                  # an answered challenge waits for the VA since
    queued_type: str | None
    attempts: int
    leased_by: str | None
    caa_queued_at: datetime | None              # a CAA set is to be looked at again since
    caa_queued_names: tuple[str, ...]           # of these names; "": its own
    subdomains: bool                            # it stands for the names below, too
    caa_checks: tuple[CaaCheck, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuing certificate."""

    id: int
    name: str
    key_type: str
    certificate: bytes
    crl_shards: int
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessConnections:
    """The database connections of one kind of process."""

    process: str
    connections: int
    connected_since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """How much waits in a queue, and since when."""

    name: str
    depth: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateCounts:
    """Certificates signed and still stored; `exact` when they were counted, else PostgreSQL's estimate."""

    stored: int
    exact: bool
    last_24_h: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspFreshness:
    """Ranges of serial numbers that are signed again together, and the oldest response that may be held."""

    shards: int
    overdue: int
    oldest_signed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlFreshness:
    """The latest CRLs of one issuer."""

    issuer_name: str
    shards: int
    published: int
    entries: int
    oldest_this_update: datetime | None
    first_next_update: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Perspective:
    """A remote perspective as the validation processes see it, the worst of them; `retry_at`: it is left alone."""

    name: str
    rir: str
    answered_at: datetime | None
    lag_ms: int | None
    failures: int
    retry_at: datetime | None
    fault: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One look at the whole database."""

    database_version: str
    database_size_bytes: int
    processes: tuple[ProcessConnections, ...]
    issuers: tuple[Issuer, ...]
    queues: tuple[Queue, ...]
    certificates: CertificateCounts
    ocsp: OcspFreshness
    crls: tuple[CrlFreshness, ...]
    partitions_until: date | None
    perspectives: tuple[Perspective, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition: rows are PostgreSQL's estimate."""

    table: str
    name: str
    rows: int
    size_bytes: int
