"""Everything that is served, as one value in memory: request paths to files whose headers are already made.

A snapshot is replaced whole, so a request sees either the old or the new one; the next one takes over every CRL that
has not changed. No database is asked while a request waits (spec/pki.md 6: a CRL is published atomically).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import urlsplit

from ca.pki.crl import ca_issuers_url, shard_url

CRL_TYPE = "application/pkix-crl"
CERTIFICATE_TYPE = "application/pkix-cert"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """One body with its validators (RFC 9110 8.8); `next_update` of a CRL bounds how long it may be cached."""

    body: bytes
    content_type: str
    etag: str
    last_modified: datetime
    last_modified_text: str
    next_update: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlKey:
    """Which CRL a shard shows. A greater number is newer, always (RFC 5280 5.2.3)."""

    issuer_id: int
    shard: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crl:
    """A CRL as the CA stored it."""

    key: CrlKey
    this_update: datetime
    next_update: datetime
    der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuing certificate: served at its AIA URL, and its name makes the URLs of its CRLs."""

    id: int
    name: str
    certificate: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CeremonyFile:
    """A root or cross certificate or a CA CRL of a ceremony, with the path that it is served at."""

    path: str
    content_type: str
    body: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The files by request path, and the CRLs they came from by (issuer, shard)."""

    files: Mapping[str, PublishedFile] = field(default_factory=dict)
    crls: Mapping[tuple[int, int], tuple[CrlKey, PublishedFile]] = field(default_factory=dict)

    def newer(self, latest: Iterable[CrlKey]) -> list[CrlKey]:
        """The keys that this snapshot has not got yet. A smaller number is never newer: a CRL does not go back."""
        missing = []
        for key in latest:
            held = self.crls.get((key.issuer_id, key.shard))
            if held is None or held[0].number < key.number:
                missing.append(key)
        return missing


def next_snapshot(
    held: Snapshot,
    *,
    issuers: Iterable[Issuer],
    ceremony_files: Iterable[CeremonyFile],
    crls: Iterable[Crl],
    aia_base_url: str,
    crl_base_url: str,
) -> Snapshot:
    """`held` with the given CRLs in place of older ones, under the issuers and files that exist now.

    Paths count from the base URLs; when those have a path themselves, both spellings are served, because a proxy in
    front may or may not cut it off.
    """
    shown = dict(held.crls)
    for crl in crls:
        shown[crl.key.issuer_id, crl.key.shard] = (crl.key, _crl_file(crl))
    files: dict[str, PublishedFile] = {}

    def publish(base_url: str, path: str, file: PublishedFile) -> None:
        files[path] = files[urlsplit(base_url).path.rstrip("/") + path] = file

    for ceremony_file in ceremony_files:
        base_url = crl_base_url if ceremony_file.content_type == CRL_TYPE else aia_base_url
        publish(base_url, ceremony_file.path,
                _file(ceremony_file.body, ceremony_file.content_type, ceremony_file.created_at))
    names = {}
    for issuer in issuers:
        names[issuer.id] = issuer.name
        publish(aia_base_url, ca_issuers_url("", issuer.name),
                _file(issuer.certificate, CERTIFICATE_TYPE, issuer.created_at))
    for (issuer_id, shard), (_, file) in shown.items():
        if issuer_id in names:
            publish(crl_base_url, shard_url("", names[issuer_id], shard), file)
    return Snapshot(files=files, crls=shown)


def _crl_file(crl: Crl) -> PublishedFile:
    return _file(crl.der, CRL_TYPE, crl.this_update, crl.next_update)


def _file(body: bytes, content_type: str, modified: datetime, next_update: datetime | None = None) -> PublishedFile:
    modified = modified.replace(microsecond=0)
    return PublishedFile(
        body=body,
        content_type=content_type,
        etag=f'"{hashlib.sha256(body).hexdigest()}"',
        last_modified=modified,
        last_modified_text=format_datetime(modified, usegmt=True),
        next_update=next_update,
    )
