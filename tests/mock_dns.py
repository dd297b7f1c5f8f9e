"""A real DNS server for tests: UDP and TCP on a loopback port, with every misbehaviour that a resolver must survive.

In a test: `async with MockDns() as dns: dns.set("a.example", "A", "127.0.0.1")`. As a program with an HTTP control API,
for acceptance tests and hook scripts of other people's clients:

    python -m tests.mock_dns --port 5300 --control-port 5301 [--default-a 127.0.0.1] [--default-aaaa ::1]
    curl -d '{"name": "_acme-challenge.a.example", "type": "TXT", "values": ["..."]}' http://127.0.0.1:5301/add

Control calls (POST, JSON): /set and /add {name, type, values}, /clear {name?, type?}, /misbehave {name, kind, type?,
delay_s?}, /default {"A": [...], ...}, /forget-queries {}; GET /queries, GET /healthz. It answers as a recursive
resolver does: the whole CNAME chain in one message, NXDOMAIN or an empty answer with a SOA record. A name "*.x" answers
for every name under x that has no records of its own. Port 0 takes a free port; the program prints both in a JSON line.
"""

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, TypeAlias

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset
from aiohttp import web

Value: TypeAlias = str | Sequence[str]
"""Presentation form; for TXT the text itself, or a sequence of the character-strings of one record."""

Kind: TypeAlias = Literal[
    "servfail", "refused", "formerr", "drop", "delay", "truncate", "truncate-always", "wrong-id", "garbage",
    "foreign-answer", "foreign-question", "lower-case", "no-chain", "half-chain", "close",
]
_RCODES = {"servfail": dns.rcode.SERVFAIL, "refused": dns.rcode.REFUSED, "formerr": dns.rcode.FORMERR}
_MAX_HOPS = 40
_UDP_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Query:
    """One question as it arrived; `name` keeps the spelling of the asker (0x20)."""

    name: str
    type: str
    transport: Literal["udp", "tcp"]
    edns_payload_bytes: int


@dataclass(slots=True)
class _Misbehaviour:
    kind: Kind
    delay_s: float = 0.0


@dataclass(slots=True)
class MockDns:
    """The server and its data. Names are given without a trailing dot, in any case; `ttls_s` lower case."""

    host: str = "127.0.0.1"
    port: int = 0
    default: dict[str, list[Value]] = field(default_factory=dict)
    queries: list[Query] = field(default_factory=list)
    ttl_s: int = 0
    ttls_s: dict[str, int] = field(default_factory=dict)
    _records: dict[str, dict[str, list[Value]]] = field(default_factory=dict)
    _misbehaviours: dict[tuple[str, str | None], _Misbehaviour] = field(default_factory=dict)
    _udp: asyncio.DatagramTransport | None = None
    _tcp: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        """HOST:PORT, as the setting va.resolver takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def set(self, name: str, rdtype: str, *values: Value) -> None:
        """Replaces the records of one type at one name."""
        self._records.setdefault(_key(name), {})[rdtype.upper()] = list(values)

    def add(self, name: str, rdtype: str, *values: Value) -> None:
        """Adds records beside those that are there."""
        self._records.setdefault(_key(name), {}).setdefault(rdtype.upper(), []).extend(values)

    def clear(self, name: str | None = None, rdtype: str | None = None) -> None:
        """Takes away one type at a name, a whole name with its misbehaviour, or everything but the default."""
        if name is None:
            self._records.clear()
            self._misbehaviours.clear()
        elif rdtype is not None:
            self._records.get(_key(name), {}).pop(rdtype.upper(), None)
            self._misbehaviours.pop((_key(name), rdtype.upper()), None)
        else:
            self._records.pop(_key(name), None)
            for key in [key for key in self._misbehaviours if key[0] == _key(name)]:
                del self._misbehaviours[key]

    def misbehave(self, name: str, kind: Kind, *, rdtype: str | None = None, delay_s: float = 0.0) -> None:
        """From now on questions for the name (of one type, or of any) are answered in this bad way."""
        self._misbehaviours[_key(name), rdtype.upper() if rdtype else None] = _Misbehaviour(kind, delay_s)

    def asked(self, rdtype: str) -> list[str]:
        """The names asked for one type, in order, lower case."""
        return [query.name.lower() for query in self.queries if query.type == rdtype]

    async def start(self) -> "MockDns":
        """Opens the same port for UDP and TCP; port 0 is replaced by the one that was found free."""
        loop = asyncio.get_running_loop()
        for _ in range(20):
            self._tcp = await asyncio.start_server(self._serve_tcp, self.host, self.port)
            port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=(self.host, port))
            except OSError:
                self._tcp.close()
                if self.port:
                    raise
                continue
            self.port = port
            return self
        raise OSError("no port is free for both UDP and TCP")

    async def stop(self) -> None:
        """Closes both sockets and gives up what is being answered slowly."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> "MockDns":
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def respond(self, wire: bytes, transport: Literal["udp", "tcp"]) -> bytes | None:
        """The bytes to send back for one question, or None for silence."""
        try:
            query = dns.message.from_wire(wire)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self.queries.append(Query(question.name.to_text(omit_final_dot=True), rdtype, transport, query.payload))
        name = _key(question.name.to_text())
        bad = self._misbehaviours.get((name, rdtype)) or self._misbehaviours.get((name, None)) or _Misbehaviour("delay")
        await asyncio.sleep(bad.delay_s)
        if bad.kind in ("drop", "close"):
            return None
        if bad.kind == "garbage":
            return wire[:2] + b"\x81\x80" + b"\xff" * 40
        response = dns.message.make_response(query, recursion_available=True)
        if bad.kind in _RCODES:
            response.set_rcode(_RCODES[bad.kind])
        else:
            self._fill(response, name, rdtype, bad.kind)
        return _wire(response, query, bad.kind, transport)

    def _fill(self, response: dns.message.Message, name: str, rdtype: str, kind: Kind) -> None:
        owner = name
        for _ in range(_MAX_HOPS):
            here = self._at(owner)
            values = here.get(rdtype, [])
            if values:
                shown = "elsewhere.invalid" if kind == "foreign-answer" else owner
                response.answer.append(_rrset(shown, rdtype, values, self._ttl_of(owner)))
                break
            alias = here.get("CNAME")
            if not alias or rdtype == "CNAME":
                if not self._exists(owner):
                    response.set_rcode(dns.rcode.NXDOMAIN)
                break
            response.answer.append(_rrset(owner, "CNAME", alias[:1], self._ttl_of(owner)))
            owner = _key(str(alias[0]))
            if kind in ("no-chain", "half-chain"):
                break
        if kind == "no-chain":
            response.answer.clear()
        if kind != "half-chain" and not any(dns.rdatatype.to_text(rrset.rdtype) == rdtype for rrset in response.answer):
            response.authority.append(_rrset("", "SOA", ["ns.invalid. hostmaster.invalid. 1 60 60 60 60"]))

    def _ttl_of(self, name: str) -> int:
        return self.ttls_s.get(name, self.ttl_s)

    def _at(self, name: str) -> Mapping[str, list[Value]]:
        here = self._records.get(name)
        labels = name.split(".")
        for start in range(1, len(labels)):
            if here is None:
                here = self._records.get(".".join(["*", *labels[start:]]))
        return here if here is not None else self.default

    def _exists(self, name: str) -> bool:
        return bool(self._at(name)) or any(known.endswith(f".{name}") for known in self._records)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                answer = await self.respond(await reader.readexactly(length), "tcp")
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    def serve_udp(self, wire: bytes, peer: tuple[str, int], transport: asyncio.DatagramTransport) -> None:
        """Answers one datagram in a task of its own, so that a slow answer holds up no other."""

        async def answer() -> None:
            response = await self.respond(wire, "udp")
            if response is not None and not transport.is_closing():
                transport.sendto(response, peer)

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: MockDns) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._server.serve_udp(data, addr, self._transport)


def _key(name: str) -> str:
    return name.rstrip(".").lower()


def _rrset(name: str, rdtype: str, values: Sequence[Value], ttl_s: int = 0) -> dns.rrset.RRset:
    rrset = dns.rrset.RRset(dns.name.from_text(name), dns.rdataclass.IN, dns.rdatatype.from_text(rdtype))
    for value in values:
        rrset.add(_rdata(rdtype, value), ttl=ttl_s)
    return rrset


def _rdata(rdtype: str, value: Value) -> dns.rdata.Rdata:
    if rdtype == "TXT":
        strings = [value[start:start + 255] for start in range(0, max(len(value), 1), 255)] if isinstance(
            value, str) else value
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT,
                                       [text.encode("latin-1") for text in strings])
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(rdtype), str(value))


def _wire(response: dns.message.Message, query: dns.message.Message, kind: Kind, transport: str) -> bytes:
    if kind == "wrong-id":
        response.id = query.id ^ 0x5555
    if kind == "foreign-question":
        response.question = [dns.rrset.RRset(dns.name.from_text("elsewhere.invalid"), dns.rdataclass.IN,
                                             query.question[0].rdtype)]
    if kind == "lower-case":
        lower = dns.name.from_text(query.question[0].name.to_text().lower())
        response.question = [dns.rrset.RRset(lower, dns.rdataclass.IN, query.question[0].rdtype)]
    wire = response.to_wire(max_size=65_535)
    limit = min(max(query.payload, 512), _UDP_MAX_BYTES)
    if kind == "truncate-always" or (transport == "udp" and (kind == "truncate" or len(wire) > limit)):
        response.flags |= dns.flags.TC
        response.answer.clear()
        response.authority.clear()
        wire = response.to_wire()
    return wire


def control_application(server: MockDns) -> web.Application:
    """The HTTP control API."""

    async def change(request: web.Request) -> web.Response:
        body = await request.json()
        match request.match_info["call"]:
            case "set":
                server.set(body["name"], body["type"], *body["values"])
            case "add":
                server.add(body["name"], body["type"], *body["values"])
            case "clear":
                server.clear(body.get("name"), body.get("type"))
            case "misbehave":
                server.misbehave(body["name"], body["kind"], rdtype=body.get("type"), delay_s=body.get("delay_s", 0.0))
            case "default":
                server.default = {rdtype.upper(): list(values) for rdtype, values in body.items()}
            case "forget-queries":
                server.queries.clear()
            case _:
                raise web.HTTPNotFound
        return web.json_response({})

    async def queries(_request: web.Request) -> web.Response:
        return web.json_response([{"name": query.name, "type": query.type, "transport": query.transport}
                                  for query in server.queries])

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"dns": server.address})

    application = web.Application()
    application.add_routes([web.get("/queries", queries), web.get("/healthz", healthz), web.post("/{call}", change)])
    return application


async def _run(arguments: argparse.Namespace) -> None:
    server = MockDns(host=arguments.host, port=arguments.port)
    if arguments.default_a:
        server.default["A"] = [arguments.default_a]
    if arguments.default_aaaa:
        server.default["AAAA"] = [arguments.default_aaaa]
    runner = web.AppRunner(control_application(server), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", arguments.control_port)
    await site.start()
    async with server:
        print(json.dumps({"dns": server.address, "control": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serves until it is ended by a signal."""
    parser = argparse.ArgumentParser(prog="python -m tests.mock_dns", description="DNS server with an HTTP control API")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="UDP and TCP port of the DNS server, 0: any")
    parser.add_argument("--control-port", type=int, default=0, help="port of the control API on 127.0.0.1, 0: any")
    parser.add_argument("--default-a", default="", help="A record of every name that has no records")
    parser.add_argument("--default-aaaa", default="", help="AAAA record of every name that has no records")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
