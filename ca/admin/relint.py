"""Looks at stored certificates with the linters of today: a mis-issuance that a new rule, or a new version of pkilint,
finds is a certificate to revoke within five days (BR 4.9.1.1), and there may be very many of them.

In the order of their serial numbers, a few hundred in memory at a time; the linters run in processes of their own, each
with one batch. What the CA would let pass before signing passes here, too.
"""

import asyncio
import functools
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from ca.admin import lint_store as store
from ca.admin.lint_store import SignedCertificate, StoredFinding, Wanted
from ca.pki.der import DerError
from ca.pki.issuer import read_issuer
from ca.pki.lint import Severity, allowances, lint_certificate
from ca.pki.profile import PROFILES
from ca.pki.tbs import assemble
from ca.process.ambient import Ambient
from ca.process.postgres import Connection

BATCH: Final = 250
_read_issuer = functools.lru_cache(maxsize=64)(read_issuer)


@dataclass(slots=True, kw_only=True)
class Relinted:
    """What came of it so far."""

    certificates: int = 0
    with_findings: int = 0
    by_code: Counter[str] = field(default_factory=Counter)


def lint_batch(
    batch: Sequence[SignedCertificate], issuers: Mapping[int, bytes], *, public: bool
) -> list[StoredFinding]:
    """The findings that no allowance of the profile covers. Computes, and does nothing else: it runs in a process of
    its own."""
    return [StoredFinding(serial=certificate.serial, code=code, severity=severity, detail=detail)
            for certificate in batch for code, (severity, detail) in _lint(certificate, issuers, public=public).items()]


def _lint(certificate: SignedCertificate, issuers: Mapping[int, bytes], *, public: bool) -> dict[str, tuple[str, str]]:
    """Severity and detail by code; a code that occurs more than once counts with its first detail."""
    try:
        whole = assemble(certificate.tbs, certificate.signature)
    except (DerError, StopIteration) as fault:
        return {"chancery.unreadable": (Severity.FATAL.name, f"what is stored is no certificate: {fault}")}
    profile = PROFILES.get(certificate.profile)
    allowed = {} if profile is None else allowances(profile, public=public)
    found: dict[str, tuple[str, str]] = {}
    for finding in lint_certificate(whole, _read_issuer(issuers[certificate.issuer_id])):
        if finding.code not in allowed:
            found.setdefault(finding.code, (finding.severity.name, finding.detail))
    return found


async def relint(
    connection: Connection, wanted: Wanted, issuers: Mapping[int, bytes], *, ambient: Ambient, public: bool, jobs: int,
    progress: Callable[[Relinted], None],
) -> Relinted:
    """Looks at every certificate that is wanted, and stores what is found; `issuers`: certificates by id.

    `progress` is called after each batch. What was stored stays when this is interrupted.
    """
    loop = asyncio.get_running_loop()
    done, after = Relinted(), b""
    running: deque[tuple[Sequence[SignedCertificate], asyncio.Future[list[StoredFinding]]]] = deque()
    # Not forked: a copy of this process would have its connection to the database.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        while True:
            batch = await store.next_certificates(connection, wanted, after=after, limit=BATCH)
            if batch:
                after = batch[-1].serial
                running.append((batch, loop.run_in_executor(
                    pool, functools.partial(lint_batch, batch, issuers, public=public))))
            while running and (not batch or len(running) > jobs):
                linted, future = running.popleft()
                found = await future
                await store.replace_findings(connection, [each.serial for each in linted], found, now=ambient.now())
                done.certificates += len(linted)
                done.with_findings += len({finding.serial for finding in found})
                done.by_code.update(finding.code for finding in found)
                progress(done)
            if not batch:
                return done
