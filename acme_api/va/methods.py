"""One question about one name, and the methods that answer it from where this process stands.

A question holds everything that an answer depends on and nothing of the queue it came from, so that the same question
can be asked from somewhere else, too.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from acme_api.protocol.challenge import (
    DNS_01,
    DNS_ACCOUNT_01,
    DNS_PERSIST_01,
    HTTP_01,
    TLS_ALPN_01,
    WITHOUT_TOKEN,
    key_authorization,
    offered,
)
from acme_api.va.caa import CaaChecker
from acme_api.va.dns01 import Dns01
from acme_api.va.dns_persist01 import DnsPersist01
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.http01 import Http01
from acme_api.va.tlsalpn01 import TlsAlpn01
from ca.pki.identifier import Identifier

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII)
_THUMBPRINT_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Does the subscriber control this identifier, and may we issue for it, at `now`?

    `identifier` is without `*.`; `token` and `thumbprint` are the challenge's and the account key's (RFC 8555 8.1);
    `persist`: the operator lets this account use dns-persist-01; `subdomains`: does he control all that is below it?
    """

    identifier: Identifier
    wildcard: bool
    method: str
    token: str | None
    thumbprint: bytes
    account_url: str
    persist: bool
    now: datetime
    subdomains: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a success is worth. `until`: it may not be relied upon any longer; None: as long as the rules say."""

    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """The validators, one a method, and the CAA checker: one try each, no deadline, nothing stored."""

    http_01: Http01
    dns_01: Dns01
    tls_alpn_01: TlsAlpn01
    dns_persist_01: DnsPersist01
    caa: CaaChecker

    async def validate(self, question: Question, evidence: Evidence) -> Proof:
        """What the answer is worth when it is right; raises ValidationFailure when it is not."""
        _require_offered(question)
        identifier, method, account = question.identifier, question.method, question.account_url
        if method == DNS_PERSIST_01:
            return Proof(until=await self.dns_persist_01.validate(
                identifier, wildcard=question.wildcard or question.subdomains, account_url=account, now=question.now,
                evidence=evidence))
        expected = key_authorization(question.token or "", question.thumbprint)
        if method == HTTP_01:
            await self.http_01.validate(identifier, question.token or "", expected, evidence)
        elif method == DNS_01:
            await self.dns_01.validate(identifier, expected, evidence)
        elif method == DNS_ACCOUNT_01:
            await self.dns_01.validate_account(identifier, account, expected, evidence)
        elif method == TLS_ALPN_01:
            await self.tls_alpn_01.validate(identifier, expected, evidence)
        else:
            raise AssertionError(f"offered, but nothing validates it: {method}")
        return Proof()

    async def require_caa_permission(self, question: Question, evidence: Evidence) -> None:
        """Returns when the CAA records let us issue; raises ValidationFailure: caa when they forbid, dns when nobody
        can know."""
        await self.caa.require_permission(
            question.identifier, wildcard=question.wildcard, method=question.method, account_url=question.account_url,
            evidence=evidence)


def _require_offered(question: Question) -> None:
    """Raises ValidationFailure (malformed) for what the rules do not let anybody ask: a front end that offered more is
    not believed."""
    method, identifier = question.method, question.identifier
    if method not in offered(identifier.type, wildcard=question.wildcard, persist=question.persist,
                             subdomains=question.subdomains):
        raise ValidationFailure("malformed", f"{method} cannot validate this identifier")
    has_token = question.token is not None and _TOKEN.fullmatch(question.token) is not None
    if (method not in WITHOUT_TOKEN and not has_token) or len(question.thumbprint) != _THUMBPRINT_BYTES:
        raise ValidationFailure("malformed", f"this authorization has no {method} challenge")
