"""Pre-signers and responders as real processes, on a real database."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from ca.process.lifecycle import READY_VARIABLE
from ca.process.settings import DatabaseSettings, HsmSettings, Settings, load_settings
from ocsp.protocol.batch import SignedStatus, encode_batch
from ocsp.protocol.response import Times
from ocsp.protocol.schedule import moment
from tests.ca.pki.authority import Authority
from tests.fixtures_postgres import TestDatabase
from tests.ports import free_port

_PATIENCE_S = 60.0


def _hsm_section(name: str, token: HsmSettings) -> str:
    values = {"module": token.module, "token_label": token.token_label, "pin_file": str(token.pin_file)}
    if token.conf:
        values["conf"] = str(token.conf)
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())])


def write_config(directory: Path, database: DatabaseSettings, *, hsm: HsmSettings | None = None,
                 ocsp: str = "", ocsp_hsm: HsmSettings | None = None) -> Path:
    """A configuration for the OCSP processes and the CA; other sections are there and not used."""
    token = hsm or HsmSettings(module="none", token_label="none", pin_file=directory / "pin")
    path = directory / "chancery.toml"
    path.write_text(f"""\
data_dir = "."
policy = "internal"
[database]
url = {json.dumps(database.url)}
secrets_dir = {json.dumps(str(database.secrets_dir))}
{_hsm_section("hsm", token)}
{_hsm_section("ocsp_hsm", ocsp_hsm) if ocsp_hsm else ""}
[acme]
base_url = "https://localhost:14000"
listen = ["127.0.0.1:{free_port()}"]
tls = false
nonce_key = "nonce.key"
[va]
caa_identities = ["chancery.example"]
[ca]
ocsp_url = "http://localhost:14001"
aia_base_url = "http://localhost:14002"
crl_base_url = "http://localhost:14002"
[ocsp]
listen = ["127.0.0.1:{free_port()}"]
store_dir = "ocsp"
map_size_gib = 1
{ocsp}
[distribution]
listen = ["127.0.0.1:{free_port()}"]
[admin]
listen = ["127.0.0.1:{free_port()}"]
""")
    return path


@dataclass(slots=True)
class Process:
    """A running process; its log is a file."""

    popen: "subprocess.Popen[bytes]"
    log: Path
    ready_file: Path

    async def ready(self) -> None:
        """Waits until it says that it does its work."""
        await until(lambda: self.ready_file.exists() or self.popen.poll() is not None)
        assert self.popen.poll() is None, self.log.read_text()

    def kill(self) -> None:
        """kill -9."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()


async def until(holds: object, *, patience_s: float = _PATIENCE_S, every_s: float = 0.01) -> None:
    """Waits until a call gives something true."""
    assert callable(holds)
    give_up_at = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        await asyncio.sleep(every_s)


@contextmanager
def running(role: str, config: Path, *, name: str = "") -> Iterator[Process]:
    """`chancery run ROLE`, ended with SIGTERM and exit code 0 unless the test killed it."""
    name = name or role
    ready_file = config.parent / f"{name}.ready"
    ready_file.unlink(missing_ok=True)
    log = config.parent / f"{name}.log"
    with log.open("ab") as output:
        popen = subprocess.Popen([sys.executable, "-m", "ca.admin.cli", "run", role, "--config", str(config)],
                                 stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                 env=os.environ | {READY_VARIABLE: str(ready_file)})
    try:
        yield Process(popen, log, ready_file)
    finally:
        if popen.poll() is None:
            popen.terminate()
            try:
                assert popen.wait(60) == 0, log.read_text()
            finally:
                popen.kill()


def settings_of(config: Path) -> Settings:
    """The configuration, parsed."""
    return load_settings(config, {})


def port_of(config: Path) -> int:
    """Where the responder listens."""
    return int(settings_of(config).ocsp.listen[0].rpartition(":")[2])


async def add_issuer(database: TestDatabase, own: Authority, *, issuer_id: int = 1, name: str = "Test E1") -> None:
    """As the ceremony does."""
    admin = await database.connect("ca_admin")
    try:
        await admin.execute("INSERT INTO issuers VALUES ($1, $2, $3, $4, 1, true, now())", issuer_id, name,
                            own.issuer.key_type, own.issuer.certificate_der)
    finally:
        await admin.close()


async def publish(database: TestDatabase, records: list[SignedStatus], times: Times, *, issuer_id: int = 1) -> int:
    """A batch row, as the pre-signer makes it; returns its id."""
    signer = await database.connect("ocsp_signer")
    try:
        async with signer.transaction():
            await signer.execute("SELECT pg_advisory_xact_lock(hashtext('chancery ocsp batches'))")
            batch_id: int = await signer.fetchval(
                "INSERT INTO ocsp_batches VALUES (nextval('ocsp_batch_id'), $1, $2, $3, $4, $5) RETURNING id",
                moment(times.produced_at_s), issuer_id, len(records), moment(times.next_update_s),
                encode_batch(times, records))
            await signer.execute("SELECT pg_notify('ocsp_batch', '')")
        return batch_id
    finally:
        await signer.close()


def times_now(*, life_s: int = 604_800) -> Times:
    """Times of a response that is signed now."""
    now_s = int(datetime.now(UTC).timestamp())
    this_s = now_s - now_s % 60
    return Times(produced_at_s=now_s, this_update_s=this_s, next_update_s=this_s + life_s - 1)


def openssl_ocsp(directory: Path, own: Authority, serial: bytes, port: int, *options: str) -> str:
    """`openssl ocsp` against a responder: everything that it says."""
    issuer, root = directory / "issuer.pem", directory / "root.pem"
    issuer.write_bytes(own.certificate.public_bytes(Encoding.PEM))
    root.write_bytes(own.root_certificate.public_bytes(Encoding.PEM))
    done = subprocess.run(["openssl", "ocsp", "-issuer", issuer, *options, "-serial", f"0x{serial.hex()}", "-url",
                           f"http://127.0.0.1:{port}/", "-CAfile", root, "-VAfile", issuer],
                          capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr
