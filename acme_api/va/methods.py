"""One question about one name, and the methods that answer it from where this process stands.

A question holds everything that an answer depends on and nothing of the queue it came from, so that the same question
can be asked from somewhere else, too.
"""

import re
from dataclasses import dataclass
from typing import Final

from acme_api.protocol.challenge import DNS_01, HTTP_01, TLS_ALPN_01, key_authorization, offered
from acme_api.va.caa import CaaChecker
from acme_api.va.dns01 import Dns01
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.http01 import Http01
from acme_api.va.tlsalpn01 import TlsAlpn01
from ca.pki.identifier import Identifier

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII)
_THUMBPRINT_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Does the subscriber control this identifier, and may we issue for it? `identifier` is without `*.`; `token` and
    `thumbprint` are the challenge's and the account key's (RFC 8555 8.1)."""

    identifier: Identifier
    wildcard: bool
    method: str
    token: str | None
    thumbprint: bytes
    account_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """The validators, one a method, and the CAA checker: one try each, no deadline, nothing stored."""

    http_01: Http01
    dns_01: Dns01
    tls_alpn_01: TlsAlpn01
    caa: CaaChecker

    async def validate(self, question: Question, evidence: Evidence) -> None:
        """Returns when the challenge is answered rightly; raises ValidationFailure when it is not."""
        expected = _key_authorization(question)
        identifier = question.identifier
        if question.method == HTTP_01:
            await self.http_01.validate(identifier, question.token or "", expected, evidence)
        elif question.method == DNS_01:
            await self.dns_01.validate(identifier, expected, evidence)
        elif question.method == TLS_ALPN_01:
            await self.tls_alpn_01.validate(identifier, expected, evidence)
        else:
            raise AssertionError(f"offered, but nothing validates it: {question.method}")

    async def require_caa_permission(self, question: Question, evidence: Evidence) -> None:
        """Returns when the CAA records let us issue; raises ValidationFailure: caa when they forbid, dns when nobody
        can know."""
        await self.caa.require_permission(
            question.identifier, wildcard=question.wildcard, method=question.method, account_url=question.account_url,
            evidence=evidence)


def _key_authorization(question: Question) -> str:
    """What proves control. What validates what is asked again here: a front end that offered more than the rules let
    it is not believed. Raises ValidationFailure (malformed)."""
    method, identifier = question.method, question.identifier
    if method not in offered(identifier.type, wildcard=question.wildcard):
        raise ValidationFailure("malformed", f"{method} cannot validate this identifier")
    if question.token is None or not _TOKEN.fullmatch(question.token) or len(question.thumbprint) != _THUMBPRINT_BYTES:
        raise ValidationFailure("malformed", f"this authorization has no {method} challenge")
    return key_authorization(question.token, question.thumbprint)
