"""The list of CT logs that browsers know: Google's JSON of version 3, which a local list of test logs has the form of.

A list with a mistake is refused as a whole, so that what was in force before stays in force. Entries of logs that take
no certificates (pending, read-only, retired, rejected) are kept out without being looked at.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from ca.pki.policy import LOG_LIST_LIFE_S
from ca.pki.sct import LogKey

_OPEN_STATES: Final = frozenset({"qualified", "usable"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class LogListError(ValueError):
    """The list cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CtLog:
    """A log that takes certificates at present."""

    log_id: bytes                  # SHA-256 of its key
    description: str
    operator: str
    key: LogKey = field(hash=False)
    url: str                       # of submissions, ends with a slash
    tiled: bool                    # static-ct-api, not RFC 6962
    not_after_from: datetime | None        # temporal shard, both None for a log that takes every certificate
    not_after_before: datetime | None

    def takes(self, not_after: datetime) -> bool:
        """Whether a certificate that ends then falls into its temporal interval."""
        return ((self.not_after_from is None or not_after >= self.not_after_from)
                and (self.not_after_before is None or not_after < self.not_after_before))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogList:
    """The logs that take certificates, by log id, and when the list was made."""

    made_at: datetime
    logs: Mapping[bytes, CtLog]

    def candidates(self, not_after: datetime) -> tuple[CtLog, ...]:
        """The logs for a certificate that ends then."""
        return tuple(log for log in self.logs.values() if log.takes(not_after))

    def require_fresh(self, now: datetime) -> None:
        """Returns while browsers would still go by this list. Raises LogListError."""
        if now - self.made_at > timedelta(seconds=LOG_LIST_LIFE_S):
            raise LogListError(f"the list of CT logs is of {self.made_at:%Y-%m-%d}, more than "
                               f"{LOG_LIST_LIFE_S // 86_400} days old: install a new one")


class _Interval(msgspec.Struct):
    start_inclusive: datetime
    end_exclusive: datetime


class _Log(msgspec.Struct):
    log_id: str
    key: str
    description: str = ""
    url: str = ""
    submission_url: str = ""
    state: dict[str, Any] = {}
    temporal_interval: _Interval | None = None


class _Operator(msgspec.Struct):
    name: str
    logs: list[_Log] = []
    tiled_logs: list[_Log] = []


class _Document(msgspec.Struct):
    log_list_timestamp: datetime
    operators: list[_Operator]


def parse_log_list(data: bytes) -> LogList:
    """The list in its JSON form, version 3. Raises LogListError."""
    try:
        document = msgspec.json.decode(data, type=_Document)
    except msgspec.DecodeError as fault:
        raise LogListError(f"not a list of CT logs of version 3: {fault}") from fault
    if document.log_list_timestamp.tzinfo is None:
        raise LogListError("log_list_timestamp has no time zone")
    logs: dict[bytes, CtLog] = {}
    for log in _open_logs(document):
        if log.log_id in logs:
            raise LogListError(f"{log.description!a} is in the list twice")
        logs[log.log_id] = log
    return LogList(made_at=document.log_list_timestamp, logs=logs)


def require_signed(data: bytes, signature: bytes, key_pem: bytes) -> None:
    """Returns when the publisher of the list has signed these bytes: RSA (PKCS #1 v1.5) or ECDSA, with SHA-256.

    Raises LogListError.
    """
    try:
        key = load_pem_public_key(key_pem)
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise LogListError("the publisher's key cannot be read: expected a public key in PEM") from fault
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            raise LogListError("the publisher's key is neither RSA nor ECDSA")
    except InvalidSignature as fault:
        raise LogListError("the signature of the list is not by the publisher's key: it has been changed, or the key "
                           "is another one") from fault


def _open_logs(document: _Document) -> Iterator[CtLog]:
    for operator in document.operators:
        for tiled, entries in ((False, operator.logs), (True, operator.tiled_logs)):
            for entry in entries:
                if _OPEN_STATES & entry.state.keys():
                    yield _log(entry, operator.name, tiled=tiled)


def _log(entry: _Log, operator: str, *, tiled: bool) -> CtLog:
    name = entry.description or entry.log_id
    try:
        log_id, spki = base64.b64decode(entry.log_id, validate=True), base64.b64decode(entry.key, validate=True)
        key = load_der_public_key(spki)
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as fault:
        raise LogListError(f"log {name!a}: its id or key cannot be read") from fault
    if hashlib.sha256(spki).digest() != log_id:
        raise LogListError(f"log {name!a}: its id is not the SHA-256 of its key")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise LogListError(f"log {name!a}: its key is neither RSA nor ECDSA (RFC 6962 2.1.4)")
    interval = entry.temporal_interval
    if interval is not None and (interval.start_inclusive.tzinfo is None or interval.end_exclusive.tzinfo is None):
        raise LogListError(f"log {name!a}: its temporal interval has no time zone")
    return CtLog(log_id=log_id, description=name, operator=operator, key=key, tiled=tiled,
                 url=_url(entry.submission_url if tiled else entry.url, name),
                 not_after_from=None if interval is None else interval.start_inclusive,
                 not_after_before=None if interval is None else interval.end_exclusive)


def _url(url: str, name: str) -> str:
    """https, and http to this machine alone, where test logs are."""
    try:
        parts = urlsplit(url)
        hostname = parts.hostname
    except ValueError as fault:
        raise LogListError(f"log {name!a}: {url!a} is not a URL") from fault
    secure = parts.scheme == "https" or (parts.scheme == "http" and hostname in _LOOPBACK)
    if not secure or not hostname or parts.query or parts.fragment:
        raise LogListError(f"log {name!a}: {url!a} is not an https URL")
    return url if url.endswith("/") else url + "/"
