"""OCSP responses signed in bulk: made-up certificates are queued in the database, and the clock runs until none waits.

Peer: a bare loop of the same signatures through the same module, in as many processes. A serial number costs as many
signatures as the responder has different answers for it, which is asked, not assumed.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives import hashes

from loadtest.database import connected
from loadtest.http_connection import HttpConnection, HttpFault, loopback_origin
from loadtest.ocsp_load import OcspFault, RequestMaker, Subject, ask
from loadtest.program import ProgramFault
from loadtest.report import Row, median
from loadtest.session import Session
from loadtest.signing_loop import BareRate, KeyKind, Token, backend_of, bare_rate, make_token
from loadtest.synthetic import Issuer, SignedRound, active_issuers, require_own, sign_made_up
from loadtest.targets import PRESIGN

_SCENARIO = "presign"
_NAMES = {"ec": "P-256", "rsa": "RSA-2048"}
_SEEN_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PresignOptions:
    """Serial numbers a round for each kind of key, rounds, and seconds of each bare loop."""

    ec_serials: int
    rsa_serials: int
    rounds: int
    seconds_s: float
    peer: bool


async def run_presign(session: Session, options: PresignOptions) -> None:
    """Measures and adds rows. Raises ProgramFault when Chancery or its database cannot be reached."""
    chancery = await session.chancery()
    require_own(chancery)
    settings = chancery.settings()
    processes = presign_workers(settings)
    token = await signing_token(session, settings["hsm"]) if options.peer else None
    async with connected(chancery) as connection:
        issuers = await active_issuers(connection)
        with session.steps("presign", len(issuers) * options.rounds * 2) as steps:
            for issuer in issuers:
                bare: list[BareRate] = []
                signed: list[SignedRound] = []
                for number in range(options.rounds):
                    name = f"presign {_NAMES[issuer.key_type]}, round {number + 1} of {options.rounds}"
                    if token is not None:
                        steps.now(f"{name}, bare loop")
                        bare.append(await bare_rate(token, cast(KeyKind, issuer.key_type), processes=processes,
                                                          seconds_s=options.seconds_s))
                    steps.done()
                    steps.now(f"{name}, pre-signer")
                    count = options.ec_serials if issuer.key_type == "ec" else options.rsa_serials
                    signed.append(await sign_made_up(connection, chancery, issuer, count, session.synthetic))
                    steps.done()
                await _report(session, settings, issuer, bare, signed, processes)


def presign_workers(settings: dict[str, Any]) -> int:
    """How many pre-signers run, as the environment or the configuration says."""
    return int(os.environ.get("CHANCERY_OCSP__PRESIGN_WORKERS")
               or settings.get("ocsp", {}).get("presign_workers", 1))


async def signing_token(session: Session, hsm: dict[str, str]) -> Token | None:
    """A token for bare loops, of the kind that the pre-signer uses; None, with a note, when it cannot be made."""
    try:
        if "softhsm" not in Path(hsm["module"]).name:
            raise ProgramFault(f"{hsm['module']} is not SoftHSM, so no token for a bare loop can be made")
        directory = (await session.chancery()).require_data_dir()
        conf = directory / hsm["conf"] if hsm.get("conf") else None
        return await make_token(session.peer_work(), hsm["module"], backend_of(conf))
    except ProgramFault as fault:
        session.report.note(f"presign: not measured against a bare loop: {fault}")
        return None


async def _report(session: Session, settings: dict[str, dict[str, str]], issuer: Issuer, bare: Sequence[BareRate],
                  signed: Sequence[SignedRound], processes: int) -> None:
    sample = [one for one in session.synthetic if one.issuer == issuer.certificate][-1]
    answers = await _signatures_per_serial(settings["ca"]["ocsp_url"], sample)
    rates = [one.serials * answers / one.elapsed_s for one in signed]
    session.report.details[f"presign {issuer.name}"] = {
        "signatures_per_serial": answers, "processes": processes, "bare": [asdict(one) for one in bare],
        "rounds": [asdict(one) for one in signed]}
    session.report.add(Row(
        scenario=_SCENARIO, figure=f"signatures/s, {_NAMES[issuer.key_type]}", value=median(rates), unit="",
        note=f"{signed[-1].serials} serials, {signed[-1].batches} batches, {answers} signatures each",
        peer=f"bare loop x {processes}" if bare else "", peer_value=median([one.per_s for one in bare]),
        target=PRESIGN if bare else None))
    per_cpu_s = [one.serials * answers / one.cpu_s["presign"] for one in signed if one.cpu_s.get("presign")]
    session.report.add(Row(
        scenario=_SCENARIO, figure=f"{_NAMES[issuer.key_type]}, per processor second of the signers", unit="",
        value=median(per_cpu_s), peer="bare loop" if bare else "",
        peer_value=median([one.per_cpu_s for one in bare])))


async def _signatures_per_serial(url: str, subject: Subject) -> int:
    """Different signatures among the answers to a SHA-1 and a SHA-256 CertID. Raises ProgramFault without an answer."""
    origin, maker = loopback_origin(url), RequestMaker()
    connection = HttpConnection(origin, None)
    give_up_at = time.monotonic() + _SEEN_PATIENCE_S
    try:
        while True:
            try:
                return len({(await ask(connection, subject, maker.request(subject, algorithm), "GET"))[0].signature
                            for algorithm in (hashes.SHA1(), hashes.SHA256())})  # noqa: S303 - what clients send
            except (OcspFault, HttpFault, OSError) as fault:
                if time.monotonic() > give_up_at:
                    raise ProgramFault(f"a signed serial number is not answered by {url}: {fault}") from fault
                await asyncio.sleep(0.05)
    finally:
        connection.close()
