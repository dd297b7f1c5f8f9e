"""DNS questions to a trusted, validating resolver; the only module that knows dnspython.

The resolver does recursion, caching and DNSSEC: a bogus answer arrives here as SERVFAIL with a code that says why, and
where the zone is signed the AD bit is demanded (`dnssec`). What is done here: a fresh source port and message id for
every question, random letter case (0x20) where an answer that does not repeat it is asked again over TCP, EDNS with
1232 octets, TCP when truncated, and answers read strictly: the alias chain from the name that was asked, nothing else
in the message. NXDOMAIN and "no such record" are answers; everything else is a failure, so that callers fail closed
(RFC 8659 3, BR 3.2.2.8): dns, or serverInternal when our own resolver is away (row P8).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Literal, TypeAlias, TypeVar

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CAA
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA

from acme_api.protocol.caa import CaaRecord
from acme_api.va import dnssec
from acme_api.va.dns_errors import why
from acme_api.va.failure import ValidationFailure
from ca.pki.special_addresses import IpAddress
from ca.process.lifecycle import StartupError

Server: TypeAlias = tuple[str, int]
_Type: TypeAlias = Literal["A", "AAAA", "TXT", "CAA", "DS", "NS", "SOA"]
_TYPES: Final = {"A": dns.rdatatype.A, "AAAA": dns.rdatatype.AAAA, "TXT": dns.rdatatype.TXT,
                 "CAA": dns.rdatatype.CAA, "DS": dns.rdatatype.DS, "NS": dns.rdatatype.NS,
                 "SOA": dns.rdatatype.SOA}
_Value = TypeVar("_Value")

# Two tries, together the five seconds that a question may take (SF6).
TRY_TIMEOUTS_S: Final = (2.0, 3.0)
# An OPT record: the root, type 41, a payload of 1232 octets, no extended code, version 0, no flags, no options.
_OPT: Final = b"\x00\x00\x29" + (1232).to_bytes(2, "big") + b"\x00\x00\x00\x00\x00\x00"
_MAX_ALIASES: Final = 16
_MAX_ANSWER_RECORDS: Final = 500
_LOOPBACK: Final[tuple[IpAddress, ...]] = (ipaddress.ip_address("::1"), ipaddress.ip_address("127.0.0.1"))
_RESOLV_CONF: Final = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[_Value]):
    """What the resolver said: the values at the end of the alias chain, none when there are none.

    `exists` is False for NXDOMAIN. `authenticated`: the resolver says that DNSSEC proves every part of it. `ttl_s` is
    the shortest time to live along the way, 0 when there are no values.
    """

    name: str
    rdtype: str
    values: tuple[_Value, ...]
    exists: bool = True
    aliases: tuple[str, ...] = ()
    authenticated: bool = False
    ttl_s: int = 0


def servers_of(setting: str, *, resolv_conf: Path = _RESOLV_CONF) -> tuple[Server, ...]:
    """The resolvers to ask, from "HOST:PORT" or, when that is empty, from /etc/resolv.conf.

    Empty when the machine has none: then names under .localhost still work, and every other question fails as one.
    """
    if not setting:
        return _servers_of_file(resolv_conf)
    host, separator, port = setting.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise StartupError(f"va.resolver: expected HOST:PORT, got {setting!r}")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    except OSError as fault:
        raise StartupError(f"va.resolver: {host} has no address: {fault}") from fault
    return ((str(found[0][4][0]), int(port)),)


def _servers_of_file(path: Path) -> tuple[Server, ...]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    servers = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            servers.append((words[1], 53))
    return tuple(servers[:3])


class Resolver:
    """Asks addresses, TXT and CAA records; at most five seconds a question, at most one retry (SF6, CA8)."""

    def __init__(
        self,
        *,
        servers: Sequence[Server],
        random_bytes: Callable[[int], bytes],
        localhost_names: bool = False,
        require_dnssec: bool = False,
        try_timeouts_s: Sequence[float] = TRY_TIMEOUTS_S,
    ) -> None:
        self._servers = tuple(servers)
        self._try_timeouts_s = tuple(try_timeouts_s)
        self._timeout_s = sum(self._try_timeouts_s)
        self._random_bytes = random_bytes
        self._localhost_names = localhost_names
        self._require_dnssec = require_dnssec

    async def addresses(self, name: str) -> Answer[IpAddress]:
        """A and AAAA together, IPv6 first. One of the two may fail as long as the other one has an address."""
        if self._is_localhost(name):
            return Answer(name=name, rdtype="A+AAAA", values=_LOOPBACK)
        results = await asyncio.gather(
            self._ask(name, "AAAA"), self._ask(name, "A"), return_exceptions=True)
        answers = [result for result in results if isinstance(result, Answer)]
        faults = [result for result in results if isinstance(result, BaseException)]
        values = tuple(ipaddress.ip_address(rdata.address) for answer in answers for rdata in answer.values
                       if isinstance(rdata, dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA))
        try:
            if faults and not (values and all(isinstance(fault, ValidationFailure) for fault in faults)):
                raise next((fault for fault in faults if not isinstance(fault, ValidationFailure)), faults[0])
        finally:
            # As below: exceptions that their own frame holds are cycles.
            del results, faults
        return Answer(name=name, rdtype="A+AAAA", values=values, exists=any(answer.exists for answer in answers),
                      aliases=answers[0].aliases, authenticated=all(answer.authenticated for answer in answers))

    async def txt(self, name: str) -> Answer[bytes]:
        """TXT records, the strings of each joined (RFC 8555 8.4). Names under .localhost are asked like others."""
        if self._is_localhost(name) and not self._servers:
            return Answer(name=name, rdtype="TXT", values=(), exists=False)
        answer = await self._ask(name, "TXT")
        values = tuple(b"".join(rdata.strings) for rdata in answer.values
                       if isinstance(rdata, dns.rdtypes.ANY.TXT.TXT))
        return Answer(name=name, rdtype="TXT", values=values, exists=answer.exists, aliases=answer.aliases,
                      authenticated=answer.authenticated, ttl_s=answer.ttl_s)

    async def caa(self, name: str) -> Answer[CaaRecord]:
        """CAA records of this one name; climbing is the caller's."""
        if self._is_localhost(name):
            return Answer(name=name, rdtype="CAA", values=())
        answer = await self._ask(name, "CAA")
        values = tuple(CaaRecord(flags=rdata.flags, tag=rdata.tag.decode("latin-1"), value=rdata.value)
                       for rdata in answer.values if isinstance(rdata, dns.rdtypes.ANY.CAA.CAA))
        return Answer(name=name, rdtype="CAA", values=values, exists=answer.exists, aliases=answer.aliases,
                      authenticated=answer.authenticated)

    def _is_localhost(self, name: str) -> bool:
        """RFC 6761 6.3: such names are loopback for everybody, so no server need be asked."""
        return self._localhost_names and (name == "localhost" or name.endswith(".localhost"))

    async def _ask(self, name: str, rdtype: _Type) -> Answer[dns.rdata.Rdata]:
        answer = await self._look_up(name, rdtype)
        if self._require_dnssec and not answer.authenticated:
            await dnssec.require_unsigned((name, *answer.aliases), self._ask_about_zone)
        return answer

    async def _ask_about_zone(self, name: str, rdtype: dnssec.ZoneType) -> dnssec.Found:
        answer = await self._look_up(name, rdtype)
        return dnssec.Found(present=bool(answer.values), authenticated=answer.authenticated)

    async def _look_up(self, name: str, rdtype: _Type) -> Answer[dns.rdata.Rdata]:
        try:
            target = dns.name.from_text(name)
        except dns.exception.DNSException as fault:
            raise ValidationFailure("dns", f"{name} cannot be asked: it is too long for a DNS name") from fault
        aliases: list[str] = []
        ttls_s: list[int] = []
        authenticated = True
        ended = False
        # Not raised where the timeout is caught: a task that ends with an exception which leads to a Timeout of this
        # very task is a cycle, and a thousand silent name servers are a thousand.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while not ended:
                    response = await self._exchange(target, rdtype, name)
                    authenticated = authenticated and response.authenticated
                    target, values, ended = _follow(response, target, rdtype, aliases, ttls_s)
                    if len(aliases) > _MAX_ALIASES:
                        raise ValidationFailure("dns", f"{rdtype} of {name}: more than {_MAX_ALIASES} aliases")
        if not ended:
            raise self._timed_out(name, rdtype)
        return Answer(name=name, rdtype=rdtype, values=values, exists=response.rcode == dns.rcode.NOERROR,
                      aliases=tuple(aliases), authenticated=authenticated, ttl_s=min(ttls_s) if values else 0)

    async def _exchange(self, target: dns.name.Name, rdtype: _Type, name: str) -> "_Response":
        """The first usable response, after at most one retry at the next server."""
        if not self._servers:
            raise ValidationFailure(
                "serverInternal", f"{rdtype} of {name} cannot be asked: no DNS resolver is configured")
        failure = self._timed_out(name, rdtype)
        # A resolver says precisely why when it finds out, and only "bogus" when it is asked again.
        extended_errors: tuple[int, ...] = ()
        for number, timeout_s in enumerate(self._try_timeouts_s):
            server = self._servers[number % len(self._servers)]
            try:
                async with asyncio.timeout(timeout_s):
                    response = await self._query(server, target, rdtype)
            except TimeoutError:
                failure = self._timed_out(name, rdtype)
                continue
            except (OSError, asyncio.IncompleteReadError):
                failure = ValidationFailure(
                    "serverInternal", f"{rdtype} of {name}: the DNS resolver cannot be reached", transient=True)
                continue
            except (dns.exception.DNSException, _TooManyRecords) as fault:
                what = "too many records" if isinstance(fault, _TooManyRecords) else "a malformed answer"
                failure = ValidationFailure("dns", f"{rdtype} of {name}: {what} came back", transient=True)
                continue
            if response.rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                return response
            extended_errors += response.extended_errors
            reason = why(dns.rcode.to_text(response.rcode), extended_errors)
            failure = ValidationFailure("dns", f"{rdtype} of {name} answered with {reason}", transient=True)
        try:
            raise failure
        finally:
            # As above: an exception that its own frame holds is a cycle.
            del failure

    def _timed_out(self, name: str, rdtype: _Type) -> ValidationFailure:
        detail = f"{rdtype} of {name}: no answer within {self._timeout_s:.0f} seconds"
        return ValidationFailure("dns", detail, transient=True)

    async def _query(self, server: Server, target: dns.name.Name, rdtype: _Type) -> "_Response":
        wire = _question(target, rdtype, self._random_bytes(34))
        datagram = await _ask_udp(server, wire)
        truncated = datagram[2] & 0x02
        question_end = len(wire) - len(_OPT)
        if not truncated and datagram[12:question_end] == wire[12:question_end]:
            with suppress(dns.exception.DNSException):
                return _parse(datagram)
        return _parse(await _ask_tcp(server, wire))


class _TooManyRecords(Exception):
    pass


def _question(name: dns.name.Name, rdtype: _Type, entropy: bytes) -> bytes:
    """A query: two random bytes of id, RD and AD set, each letter's case from one further random bit (0x20), EDNS."""
    bits = int.from_bytes(entropy[2:], "big")
    spelled = bytearray(name.to_wire() or b"")
    for index, octet in enumerate(spelled):
        if 0x61 <= octet | 0x20 <= 0x7A:
            # A length octet is at most 63, so this is never one.
            spelled[index] = (octet | 0x20) ^ ((bits & 1) << 5)
            bits >>= 1
    return b"".join((entropy[:2], b"\x01\x20\x00\x01\x00\x00\x00\x00\x00\x01", spelled,
                     int(_TYPES[rdtype]).to_bytes(2, "big"), b"\x00\x01", _OPT))


def _same_question(answer: bytes, query: bytes) -> bool:
    """The id, the response bit and the question itself, letters in any case; the rest is not looked at."""
    end = query.index(b"\x00", 12) + 5
    return (len(answer) >= end and answer[:2] == query[:2] and bool(answer[2] & 0x80) and answer[4:6] == b"\x00\x01"
            and answer[12:end].lower() == query[12:end].lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Response:
    """What is read of a message. `message` is None when nothing was answered: most CAA questions end so."""

    rcode: dns.rcode.Rcode
    authenticated: bool
    message: dns.message.Message | None
    extended_errors: tuple[int, ...] = ()


def _parse(wire: bytes) -> _Response:
    authenticated = bool(wire[3] & 0x20)
    answers = int.from_bytes(wire[6:8], "big")
    if answers > _MAX_ANSWER_RECORDS:
        raise _TooManyRecords
    if answers == 0 and _has_plain_rcode(wire):
        return _Response(rcode=dns.rcode.Rcode(wire[3] & 0x0F), authenticated=authenticated, message=None)
    message = dns.message.from_wire(wire)
    return _Response(rcode=message.rcode(), authenticated=authenticated, message=message,
                     extended_errors=tuple(int(option.code) for option in message.extended_errors()))


def _has_plain_rcode(wire: bytes) -> bool:
    """Whether the four bits of the header are the whole response code: an OPT record may add eight (RFC 6891 6.1.3)."""
    if wire[10:12] == b"\x00\x00":
        return True
    return wire[10:12] == b"\x00\x01" and wire[-11:-8] == b"\x00\x00\x29" and wire[-6] == 0 and wire[-2:] == b"\x00\x00"


def _follow(
    response: _Response, target: dns.name.Name, rdtype: _Type, aliases: list[str], ttls_s: list[int]
) -> tuple[dns.name.Name, tuple[dns.rdata.Rdata, ...], bool]:
    """Walks the alias chain of one response: where it ends, the values there, and whether that is the whole answer.

    It is not when the resolver gave an alias and neither the target's records nor a SOA that denies them.
    """
    followed = False
    message = response.message
    if message is None:
        return target, (), True
    while len(aliases) <= _MAX_ALIASES:
        found = message.get_rrset(message.answer, target, dns.rdataclass.IN, _TYPES[rdtype])
        if found is not None:
            ttls_s.append(found.ttl)
            return target, tuple(found), True
        alias = message.get_rrset(message.answer, target, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if alias is None:
            break
        ttls_s.append(alias.ttl)
        target = alias[0].target
        aliases.append(target.to_text(omit_final_dot=True).lower())
        followed = True
    denied = response.rcode == dns.rcode.NXDOMAIN or any(
        rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority)
    return target, (), denied or not followed


class _Datagram(asyncio.DatagramProtocol):
    """Takes the first datagram that answers our question; others (late, forged) are dropped and waiting goes on."""

    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _addr: object) -> None:
        if not self.answer.done() and _same_question(data, self._query):
            self.answer.set_result(data)

    def error_received(self, fault: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(fault)

    def connection_lost(self, fault: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(fault or ConnectionAbortedError())


async def _ask_udp(server: Server, wire: bytes) -> bytes:
    """One question from a fresh source port; a connected socket hears nobody but this server."""
    connected = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        connected.setblocking(False)
        connected.connect(server)
    except BaseException:
        connected.close()
        raise
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Datagram(wire), sock=connected)
    try:
        transport.sendto(wire)
        return await protocol.answer
    finally:
        if not protocol.answer.done():
            protocol.answer.cancel()
        transport.close()


async def _ask_tcp(server: Server, wire: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(wire).to_bytes(2, "big") + wire)
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(length)
    finally:
        writer.close()
    if not _same_question(answer, wire):
        raise dns.exception.FormError
    return answer
