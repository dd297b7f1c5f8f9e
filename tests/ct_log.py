"""Certificate Transparency logs for tests and demos: real HTTP, real SCTs, with every misbehaviour of section 3.5.

It shares no code with the CA: SCTs, the TBS without poison and the Merkle tree are made here on their own.

In a test: `async with CtLogs(personalities(4)) as logs: logs["log1"].mode = "down"`. As a program:

    python -m tests.ct_log --logs 4 --list /tmp/logs.json [--roots roots.pem] [--control-port 15600]
    curl -d '{"log": "log2", "mode": "down", "retry_after_s": 3}' http://127.0.0.1:15600/set

Modes: ok, down (503, with Retry-After when `retry_after_s` is set), drop (closes the connection), slow (`delay_s`
seconds first), bad-signature, wrong-id, future, garbage, refuse (400). Each log speaks add-chain, add-pre-chain,
get-roots, get-sth and get-entries; `submissions` counts what was asked of it. GET /counts of the control port shows it.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_POISON = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.3")
_POISON_OID_DER = bytes.fromhex("060a2b06010401d679020403")
LogKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class BadChain(Exception):
    """What a log answers 400 to."""


@dataclass(slots=True, kw_only=True)
class Log:
    """One log with its key, its entries and its present manners."""

    name: str
    operator: str
    tiled: bool = False
    key: LogKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    start: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    end: datetime = datetime(2045, 1, 1, tzinfo=UTC)
    roots: Sequence[x509.Certificate] = ()     # empty: every root is taken
    state: str = "usable"
    mode: str = "ok"
    retry_after_s: int | None = None
    delay_s: float = 0.0
    submissions: int = 0
    url: str = ""
    _entries: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    _scts: dict[bytes, dict[str, Any]] = field(default_factory=dict)

    @property
    def spki(self) -> bytes:
        """Its public key, DER."""
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def log_id(self) -> bytes:
        """SHA-256 of it."""
        return hashlib.sha256(self.spki).digest()

    @property
    def entry_count(self) -> int:
        """How many different certificates it has taken."""
        return len(self._entries)

    def listed(self) -> dict[str, Any]:
        """Its entry in a log list."""
        return {"description": self.name, "log_id": base64.b64encode(self.log_id).decode(),
                "key": base64.b64encode(self.spki).decode(), ("submission_url" if self.tiled else "url"): self.url,
                "mmd": 86400, "state": {self.state: {"timestamp": "2026-01-01T00:00:00Z"}},
                "temporal_interval": {"start_inclusive": f"{self.start:%Y-%m-%dT%H:%M:%SZ}",
                                      "end_exclusive": f"{self.end:%Y-%m-%dT%H:%M:%SZ}"}}

    def add(self, chain: Sequence[bytes], *, precertificate: bool) -> dict[str, Any]:
        """The answer to a submission. Raises BadChain."""
        leaf, issuer = self._checked(chain, precertificate=precertificate)
        if precertificate:
            tbs = without_poison(leaf.tbs_certificate_bytes)
            issuer_spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            signed_entry = (struct.pack(">H", 1) + hashlib.sha256(issuer_spki).digest()
                            + struct.pack(">I", len(tbs))[1:] + tbs)
        else:
            signed_entry = struct.pack(">H", 0) + struct.pack(">I", len(chain[0]))[1:] + chain[0]
        known = self._scts.get(signed_entry)
        if known is not None:
            return known
        timestamp = int(datetime.now(UTC).timestamp() * 1000)
        extensions = b""
        if self.tiled:
            extensions = b"\x00" + struct.pack(">H", 5) + len(self._entries).to_bytes(5, "big")
        leaf_input = struct.pack(">BBQ", 0, 0, timestamp) + signed_entry + _vector(extensions)
        self._entries.append((leaf_input, b"".join(chain), timestamp))
        self._scts[signed_entry] = answer = {
            "sct_version": 0, "id": base64.b64encode(self.log_id).decode(), "timestamp": timestamp,
            "extensions": base64.b64encode(extensions).decode(),
            "signature": base64.b64encode(self._digitally_signed(leaf_input)).decode()}
        return answer

    def spoilt(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer as a log of this mode lies it."""
        if self.mode == "bad-signature":
            signed = self._digitally_signed(b"something else")
            return {**answer, "signature": base64.b64encode(signed).decode()}
        if self.mode == "wrong-id":
            return {**answer, "id": base64.b64encode(hashlib.sha256(b"another log").digest()).decode()}
        if self.mode == "future":
            timestamp = answer["timestamp"] + 3_600_000
            return {**answer, "timestamp": timestamp}
        return answer

    def tree_head(self) -> dict[str, Any]:
        """get-sth."""
        root = _tree_hash([hashlib.sha256(b"\x00" + leaf).digest() for leaf, _, _ in self._entries])
        timestamp = int(datetime.now(UTC).timestamp() * 1000)
        signed = struct.pack(">BBQQ", 0, 1, timestamp, len(self._entries)) + root
        return {"tree_size": len(self._entries), "timestamp": timestamp,
                "sha256_root_hash": base64.b64encode(root).decode(),
                "tree_head_signature": base64.b64encode(self._digitally_signed(signed)).decode()}

    def entries(self, first: int, last: int) -> list[dict[str, str]]:
        """get-entries."""
        return [{"leaf_input": base64.b64encode(leaf).decode(), "extra_data": base64.b64encode(extra).decode()}
                for leaf, extra, _ in self._entries[first:last + 1]]

    def _checked(self, chain: Sequence[bytes], *, precertificate: bool) -> tuple[x509.Certificate, x509.Certificate]:
        try:
            parsed = [x509.load_der_x509_certificate(each) for each in chain]
        except ValueError as fault:
            raise BadChain("not certificates") from fault
        if len(parsed) < 2:
            raise BadChain("no issuer")
        poisoned = any(extension.oid == _POISON and extension.critical for extension in parsed[0].extensions)
        if poisoned is not precertificate:
            raise BadChain("poison missing" if precertificate else "poison in add-chain")
        try:
            for below, above in pairwise(parsed):
                below.verify_directly_issued_by(above)
            if self.roots and not any(_is_issued_by(parsed[-1], root) for root in self.roots):
                raise BadChain("unknown root")
        except (InvalidSignature, ValueError, TypeError) as fault:
            raise BadChain("the chain does not hold") from fault
        not_after = parsed[0].not_valid_after_utc
        if not self.start <= not_after < self.end:
            raise BadChain("outside of the shard")
        if not_after < datetime.now(UTC):
            raise BadChain("expired")
        return parsed[0], parsed[1]

    def _digitally_signed(self, message: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return b"\x04\x01" + _vector(self.key.sign(message, padding.PKCS1v15(), hashes.SHA256()))
        return b"\x04\x03" + _vector(self.key.sign(message, ec.ECDSA(hashes.SHA256())))


def without_poison(tbs: bytes) -> bytes:
    """The TBS as RFC 6962 3.2 has logs sign it: found by its tags, with lengths written anew."""
    fields = list(_elements(_body(tbs)))
    extensions = [each for each in _elements(_body(_body(fields[-1]))) if not _body(each).startswith(_POISON_OID_DER)]
    last = _element(0xA3, _element(0x30, b"".join(extensions)))
    return _element(0x30, b"".join(fields[:-1]) + last)


def _elements(data: bytes) -> Iterable[bytes]:
    while data:
        size = _header(data) + _length(data)
        yield data[:size]
        data = data[size:]


def _header(data: bytes) -> int:
    return 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)


def _length(data: bytes) -> int:
    return int.from_bytes(data[2:_header(data)], "big") if data[1] & 0x80 else data[1]


def _body(data: bytes) -> bytes:
    return data[_header(data):]


def _element(tag: int, body: bytes) -> bytes:
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(size)]) + size + body


def _vector(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _tree_hash(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 2.1."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _tree_hash(leaves[:split]) + _tree_hash(leaves[split:])).digest()


def _is_issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    if certificate == root:
        return True
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def personalities(count: int) -> list[Log]:
    """`log1`, `log2`, ...: operators Alder and Birch in turn, every second pair tiled."""
    return [Log(name=f"log{number + 1}", operator=("Alder", "Birch")[number % 2], tiled=number % 4 in (1, 2))
            for number in range(count)]


class CtLogs:
    """Logs that listen on loopback ports of their own inside `async with`."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self._logs = {log.name: log for log in logs}
        self._runners: list[web.AppRunner] = []

    def __getitem__(self, name: str) -> Log:
        return self._logs[name]

    def __iter__(self) -> "Any":
        return iter(self._logs.values())

    async def __aenter__(self) -> "CtLogs":
        for log in self._logs.values():
            log.url = await self._serve(_application(log)) + "/"
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def list_json(self, *, age: timedelta = timedelta()) -> bytes:
        """The log list of version 3 with all of them, made `age` ago."""
        operators: dict[str, dict[str, Any]] = {}
        for log in self._logs.values():
            operator = operators.setdefault(log.operator, {
                "name": log.operator, "email": ["logs@example.com"], "logs": [], "tiled_logs": []})
            operator["tiled_logs" if log.tiled else "logs"].append(log.listed())
        return json.dumps({"version": "90.1", "log_list_timestamp": f"{datetime.now(UTC) - age:%Y-%m-%dT%H:%M:%SZ}",
                           "operators": list(operators.values())}, indent=1).encode()

    async def serve_control(self, port: int) -> str:
        """The control API; its base URL."""

        async def change(request: web.Request) -> web.Response:
            wanted = await request.json()
            log = self._logs[wanted.pop("log")]
            for name, value in wanted.items():
                if name not in ("mode", "retry_after_s", "delay_s"):
                    raise web.HTTPBadRequest(text=name)
                setattr(log, name, value)
            return web.Response()

        async def counts(_request: web.Request) -> web.Response:
            return web.json_response({log.name: {"submissions": log.submissions, "entries": log.entry_count}
                                      for log in self._logs.values()})

        application = web.Application()
        application.router.add_post("/set", change)
        application.router.add_get("/counts", counts)
        return await self._serve(application, port)

    async def _serve(self, application: web.Application, port: int = 0) -> str:
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self._runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"


def _application(log: Log) -> web.Application:
    async def submit(request: web.Request) -> web.StreamResponse:
        log.submissions += 1
        if log.mode == "slow":
            await asyncio.sleep(log.delay_s)
        if log.mode == "drop":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if log.mode == "down":
            pause = {} if log.retry_after_s is None else {"Retry-After": str(log.retry_after_s)}
            return web.Response(status=503, text="away\n", headers=pause)
        if log.mode == "refuse":
            return web.Response(status=400, text="not from you\n")
        if log.mode == "garbage":
            return web.Response(body=os.urandom(64), content_type="application/json")
        try:
            chain = [base64.b64decode(each, validate=True) for each in (await request.json())["chain"]]
            answer = log.add(chain, precertificate=request.path.endswith("add-pre-chain"))
        except (BadChain, ValueError, KeyError) as fault:
            return web.Response(status=400, text=f"{fault}\n")
        return web.json_response(log.spoilt(answer))

    async def roots(_request: web.Request) -> web.Response:
        return web.json_response({"certificates": [base64.b64encode(root.public_bytes(Encoding.DER)).decode()
                                                   for root in log.roots]})

    async def tree_head(_request: web.Request) -> web.Response:
        return web.json_response(log.tree_head())

    async def entries(request: web.Request) -> web.Response:
        return web.json_response({"entries": log.entries(int(request.query["start"]), int(request.query["end"]))})

    application = web.Application()
    application.router.add_post("/ct/v1/add-pre-chain", submit)
    application.router.add_post("/ct/v1/add-chain", submit)
    application.router.add_get("/ct/v1/get-roots", roots)
    application.router.add_get("/ct/v1/get-sth", tree_head)
    application.router.add_get("/ct/v1/get-entries", entries)
    return application


@asynccontextmanager
async def _program(arguments: argparse.Namespace) -> AsyncIterator[dict[str, Any]]:
    logs = personalities(arguments.logs)
    if arguments.roots is not None:
        roots = x509.load_pem_x509_certificates(arguments.roots.read_bytes())
        for log in logs:
            log.roots = roots
    async with CtLogs(logs) as served:
        control = await served.serve_control(arguments.control_port)
        arguments.list.write_bytes(served.list_json())
        yield {"control": control, "list": str(arguments.list), "logs": {log.name: log.url for log in served}}


async def _main(arguments: argparse.Namespace) -> None:
    async with _program(arguments) as facts:
        print(json.dumps(facts), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Certificate Transparency logs for tests and demos.")
    parser.add_argument("--logs", type=int, default=4)
    parser.add_argument("--list", type=Path, required=True, help="where the log list is written")
    parser.add_argument("--roots", type=Path, default=None, help="PEM file of the roots that are taken; all if absent")
    parser.add_argument("--control-port", type=int, default=0)
    asyncio.run(_main(parser.parse_args()))
