"""A bare loop of PKCS#11 signatures in a process of its own: the ceiling of what a pre-signer can do.

Run as `python -m loadtest.signing_loop`; python-pkcs11 and SoftHSM do not survive two threads or a fork, so each loop
is a fresh process with one thread and one session, as each signer of Chancery is.
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loadtest.program import ProgramFault, find_program

_LABEL = "loadtest"
_ROOT = Path(__file__).resolve().parents[1]
_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
_ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=127"}     # as the supervisor starts signers
_MESSAGE_BYTES = 163    # of the part of an OCSP response that is signed
_OPENING_TRIES, _BETWEEN_TRIES_S = 20, 0.05
KeyKind = Literal["ec", "rsa"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A SoftHSM token of the load test's own."""

    module: str
    conf: Path
    pin: str


async def make_token(work: Path, module: str, backend: str) -> Token:
    """Raises ProgramFault when SoftHSM's tool is missing or fails."""
    tool = find_program("softhsm2-util")
    if tool is None:
        raise ProgramFault("softhsm2-util is not on this machine")
    tokens, conf = work / "tokens", work / "softhsm2.conf"
    tokens.mkdir(exist_ok=True)
    conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = {backend}\nlog.level = ERROR\n", "utf-8")
    pin = secrets.token_hex(8)
    process = await asyncio.create_subprocess_exec(
        tool, "--init-token", "--free", "--label", _LABEL, "--pin", pin, "--so-pin", secrets.token_hex(8),
        env={**os.environ, "SOFTHSM2_CONF": str(conf)}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT)
    output = (await process.communicate())[0].decode("utf-8", errors="replace")
    if process.returncode != 0:
        raise ProgramFault(f"softhsm2-util: {output.strip()[-200:]}")
    return Token(module=module, conf=conf, pin=pin)


def backend_of(conf: Path | None) -> str:
    """The object store of a SoftHSM configuration, so that both tokens are of one kind."""
    text = conf.read_text("utf-8") if conf is not None and conf.exists() else ""
    found = re.search(r"(?m)^\s*objectstore\.backend\s*=\s*(\w+)", text)
    return found.group(1) if found else "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class BareRate:
    """Signatures a second of all loops together, and for each second of processor time."""

    per_s: float
    per_cpu_s: float


async def bare_rate(token: Token, kind: KeyKind, *, processes: int, seconds_s: float) -> BareRate:
    """That many loops at once. Raises ProgramFault."""
    environ = _ALLOCATOR | os.environ | {"SOFTHSM2_CONF": str(token.conf), "LOADTEST_PIN": token.pin}
    running = [await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.signing_loop", "--module", token.module, "--key", kind, "--seconds",
        str(seconds_s), env=environ, cwd=_ROOT, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE) for _ in range(processes)]
    per_s, signatures, cpu_s = 0.0, 0, 0.0
    for process in running:
        output, errors = await process.communicate()
        if process.returncode != 0:
            raise ProgramFault(f"the bare signing loop failed: {errors.decode(errors='replace').strip()[-300:]}")
        found = json.loads(output)
        per_s += float(found["per_s"])
        signatures += int(found["signatures"])
        cpu_s += float(found["cpu_s"])
    return BareRate(per_s=per_s, per_cpu_s=signatures / cpu_s)


def main() -> None:
    """Signs until the time is over and prints the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", required=True)
    parser.add_argument("--key", choices=("ec", "rsa"), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()

    import pkcs11  # here alone: importing it elsewhere would bring the module into the load generator

    with _open(pkcs11.lib(arguments.module)) as session:
        key = _make_key(session, arguments.key)
        mechanism = pkcs11.Mechanism.ECDSA if arguments.key == "ec" else pkcs11.Mechanism.RSA_PKCS
        prefix = b"" if arguments.key == "ec" else _DIGEST_INFO_SHA256
        count, started, cpu_before = 0, time.perf_counter(), time.process_time()
        elapsed_s = 0.0
        while elapsed_s < arguments.seconds:
            for _ in range(50):
                message = count.to_bytes(8, "big") * (_MESSAGE_BYTES // 8)
                key.sign(prefix + hashlib.sha256(message).digest(), mechanism=mechanism)
                count += 1
            elapsed_s = time.perf_counter() - started
        cpu_s = time.process_time() - cpu_before
    print(json.dumps({"per_s": count / elapsed_s, "signatures": count, "cpu_s": cpu_s}))


def _open(library: Any) -> Any:
    """SoftHSM looks at its tokens once, and leaves one out to which another loop, which starts at the same time, writes
    just then: it has to look anew."""
    import pkcs11

    for _ in range(_OPENING_TRIES):
        try:
            return library.get_token(token_label=_LABEL).open(user_pin=os.environ["LOADTEST_PIN"], rw=True)
        except pkcs11.PKCS11Error:
            time.sleep(_BETWEEN_TRIES_S)
            library.reinitialize()
    return library.get_token(token_label=_LABEL).open(user_pin=os.environ["LOADTEST_PIN"], rw=True)


def _make_key(session: Any, kind: str) -> Any:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    wanted = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
    if kind == "rsa":
        _, key = session.generate_keypair(pkcs11.KeyType.RSA, 2048, store=True, private_template=wanted,
                                          capabilities=pkcs11.MechanismFlag.SIGN)
        return key
    parameters = session.create_domain_parameters(pkcs11.KeyType.EC, {
        pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True)
    _, key = parameters.generate_keypair(store=True, private_template=wanted, capabilities=pkcs11.MechanismFlag.SIGN)
    return key


if __name__ == "__main__":
    main()
