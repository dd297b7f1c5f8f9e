"""http-01: the key authorization under the well-known path of the name or address (RFC 8555 8.3, BR 3.2.2.4.19).

Redirects are followed as far as the Baseline Requirements let them count: four status codes, two schemes, two ports,
ten hops, and every hop is dialled like the first one, so none of them reaches an address that the first may not.
"""

import hmac
import ipaddress
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from acme_api.va.dial import Connection, Dialer, Host, client_context, tls_failure
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.http_get import MAX_RESPONSE_BYTES, BodyTooLong, Exchange, Head
from ca.pki.identifier import Identifier, IdentifierError, parse_identifier

MAX_BODY_BYTES: Final = 512
_MAX_REDIRECTS: Final = 10
_MAX_TARGET_BYTES: Final = 2_000
_REDIRECT_STATUSES: Final = frozenset({301, 302, 307, 308})
_TRANSIENT_STATUSES: Final = frozenset({404, 408, 425, 429, 500, 502, 503, 504})
_ASCII_WHITESPACE: Final = b" \t\r\n\v\f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Http01Ports:
    """Ports that stand for 80 and 443: in production they are these (H1, H3)."""

    http: int = 80
    https: int = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hop:
    """One request to make. `host_field` is the Host header: the name as asked, IPv6 in brackets (IP2)."""

    tls: bool
    host: Host
    port: int
    host_field: str
    target: str

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host_field}{self.target}"


class Http01:
    """Validates http-01 challenges. `refused_hosts` are the CA's own host names, to which no redirect leads (SF2)."""

    def __init__(
        self, *, dialer: Dialer, ports: Http01Ports, user_agent: str, refused_hosts: frozenset[str] = frozenset()
    ) -> None:
        self._dialer = dialer
        self._ports = ports
        self._user_agent = user_agent
        self._refused_hosts = refused_hosts
        self._tls_context = client_context()

    async def validate(self, identifier: Identifier, token: str, key_authorization: str, evidence: Evidence) -> None:
        """Returns when the identifier serves the key authorization; raises ValidationFailure when it does not."""
        hop = self._first_hop(identifier, token)
        seen = {hop.url}
        for redirects in range(_MAX_REDIRECTS + 1):
            async with self._dialer.dial(
                hop.host, hop.port, max_read_bytes=MAX_RESPONSE_BYTES, evidence=evidence
            ) as connection:
                location = await self._visit(connection, hop, key_authorization, evidence)
            if location is None:
                return
            hop = self._redirected(hop, location, number=redirects + 1)
            if hop.url in seen:
                raise ValidationFailure("connection", f"redirect {redirects + 1} leads back to an earlier URL (a loop)")
            seen.add(hop.url)
        raise ValidationFailure("connection", f"more than {_MAX_REDIRECTS} redirects")

    def _first_hop(self, identifier: Identifier, token: str) -> _Hop:
        host = ipaddress.ip_address(identifier.value) if identifier.type == "ip" else identifier.value
        return _Hop(tls=False, host=host, port=self._ports.http, host_field=_host_field(host),
                    target=f"/.well-known/acme-challenge/{token}")

    async def _visit(
        self, connection: Connection, hop: _Hop, key_authorization: str, evidence: Evidence
    ) -> bytes | None:
        """The Location of a redirect, or None when the key authorization was served here."""
        endpoint = connection.endpoint
        if hop.tls:
            evidence.wait_for(f"waiting for the TLS handshake of {endpoint}")
            try:
                await connection.start_tls(self._tls_context, hop.host if isinstance(hop.host, str) else None)
            except ssl.SSLError as fault:
                raise tls_failure(endpoint, fault) from fault
        evidence.wait_for(f"waiting for the response of {endpoint}")
        exchange = Exchange(connection)
        head = await exchange.get(target=hop.target, host=hop.host_field, user_agent=self._user_agent)
        if head.status in _REDIRECT_STATUSES:
            locations = head.values(b"location")
            if not locations:
                evidence.add("response", str(endpoint), status=head.status)
                raise ValidationFailure("connection", f"{endpoint} sent status {head.status} without a Location")
            evidence.add("response", str(endpoint), status=head.status, location=locations[-1].decode("latin-1"))
            return locations[-1]
        if head.status != 200:
            evidence.add("response", str(endpoint), status=head.status)
            raise ValidationFailure("incorrectResponse", f"{endpoint} sent status {head.status}, expected 200",
                                    transient=head.status in _TRANSIENT_STATUSES)
        await self._compare(exchange, head, connection, key_authorization, evidence)
        return None

    async def _compare(
        self, exchange: Exchange, head: Head, connection: Connection, key_authorization: str, evidence: Evidence
    ) -> None:
        endpoint = connection.endpoint
        evidence.wait_for(f"reading the response body of {endpoint}")
        try:
            body = await exchange.body(head, max_bytes=MAX_BODY_BYTES)
        except BodyTooLong as fault:
            evidence.add("response", str(endpoint), status=200, declared_bytes=fault.declared_bytes)
            detail = f"the response body of {endpoint} is longer than {MAX_BODY_BYTES} bytes"
            raise ValidationFailure("incorrectResponse", detail) from fault
        expected = key_authorization.encode("ascii")
        served = body.rstrip(_ASCII_WHITESPACE)
        if hmac.compare_digest(served, expected):
            evidence.add("response", str(endpoint), status=200, bytes=len(body))
            return
        evidence.add("response", str(endpoint), status=200, bytes=len(body), begins=body[:48].decode("latin-1"))
        raise ValidationFailure(
            "incorrectResponse", f"{endpoint} served {len(body)} bytes that are not the key authorization "
            f"({len(expected)} bytes expected): {_difference(served, expected)}")

    def _redirected(self, hop: _Hop, location: bytes, *, number: int) -> _Hop:
        """The request that a Location asks for (H3). Raises ValidationFailure (connection) when it is not followed."""

        def refuse(why: str) -> ValidationFailure:
            return ValidationFailure("connection", f"redirect {number} is not followed: {why}")

        # Checked before any parser that strips or repairs: printable ASCII alone can be in a URI (RFC 3986 2).
        if not location or any(not 0x21 <= octet <= 0x7E for octet in location):
            raise refuse("its Location holds characters that no URI has")
        if len(location) > 2 * _MAX_TARGET_BYTES:
            raise refuse(f"its path is longer than {_MAX_TARGET_BYTES} bytes")
        try:
            reference = urlsplit(location.decode("ascii"))
            parts = urlsplit(urljoin(hop.url, reference.geturl()))
            port, hostname = parts.port, parts.hostname or ""
        except ValueError as fault:
            raise refuse("its Location is not a URL") from fault
        if parts.scheme not in ("http", "https"):
            raise refuse("its scheme is neither http nor https")
        if reference.scheme and not reference.netloc:
            raise refuse("its Location has no host")
        if "@" in parts.netloc or "\\" in parts.netloc:
            raise refuse("its Location holds user information")
        tls = parts.scheme == "https"
        if port is None:
            port = self._ports.https if tls else self._ports.http
        if port not in (self._ports.http, self._ports.https):
            raise refuse(f"its port is neither {self._ports.http} nor {self._ports.https}")
        try:
            host = _redirect_host(hostname, bracketed="[" in parts.netloc)
        except ValueError as fault:
            raise refuse(str(fault)) from fault
        if host in self._refused_hosts:
            raise refuse("its host is this certificate authority")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if len(target) > _MAX_TARGET_BYTES:
            raise refuse(f"its path is longer than {_MAX_TARGET_BYTES} bytes")
        host_field = _host_field(host) + (f":{parts.port}" if parts.port not in (None, 443 if tls else 80) else "")
        return _Hop(tls=tls, host=host, port=port, host_field=host_field, target=target)


def _host_field(host: Host) -> str:
    return f"[{host}]" if isinstance(host, ipaddress.IPv6Address) else str(host)


def _redirect_host(hostname: str, *, bracketed: bool) -> Host:
    """A name by our own name rules, or an address in its one spelling. Raises ValueError that says what it is not."""
    if bracketed:
        if "%" in hostname:
            raise ValueError("its host has a zone identifier")
        try:
            return ipaddress.IPv6Address(hostname)
        except ValueError as fault:
            raise ValueError("its host is not an IPv6 address") from fault
    try:
        return ipaddress.IPv4Address(hostname)
    except ValueError:
        pass
    try:
        identifier = parse_identifier("dns", hostname.lower())
    except IdentifierError as fault:
        raise ValueError("its host is not a valid name") from fault
    if identifier.value.endswith(".well-known"):
        raise ValueError("its host ends with .well-known: is a slash missing at the end of the redirect target?")
    if identifier.is_wildcard:
        raise ValueError("its host is not a valid name")
    return identifier.value


def _difference(served: bytes, expected: bytes) -> str:
    """What is wrong, as far as it can be said without repeating what was served (SF4)."""
    if not served:
        return "nothing was served"
    if served == expected.partition(b".")[0]:
        return "the token alone, without the thumbprint of the account key"
    if served.partition(b".")[0] == expected.partition(b".")[0] and len(served) == len(expected):
        return "the right token with the thumbprint of another account key"
    return "a different value"
