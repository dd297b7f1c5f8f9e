"""The 15 steps of the cycle, with a death after each and a storage failure at each write, in CA, publisher, pre-signer.

After the restart every order is valid with one final certificate, or invalid with everything signed revocable, and the
global checker is content. The matrix is printed.
"""


from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ca.issuing.cycle import IssuingProcess, issue_batch
from ca.issuing.revoke import revoke_requested
from ca.pki.serial import serial_from_int
from ca.publisher.publish import Publisher
from hsm.errors import TokenLostError
from tests.ca.issuing.running import ca_process, until, write_settings
from tests.ca.issuing.transparent import Killed, TransparentWorld, transparent
from tests.ca.issuing.world import TestOrder, World
from tests.ct_log import personalities

CA_STEPS = (1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 14)
PUBLISHER_STEPS = (9, 10)
# Every write of the two processes in the course of an order: (who, what, table, kind of write).
WRITES = (
    ("ca", 1, "issuance_requests", "UPDATE"), ("ca", 4, "issuances", "INSERT"), ("ca", 4, "certificates", "INSERT"),
    ("ca", 4, "certificate_names", "INSERT"), ("ca", 4, "ocsp_requests", "INSERT"),
    ("ca", 8, "precertificate_signatures", "INSERT"), ("ca", 8, "ct_submissions", "INSERT"),
    ("publisher", 9, "ct_submissions", "UPDATE"), ("publisher", 10, "scts", "INSERT"),
    ("publisher", 10, "ct_submissions", "DELETE"), ("ca", 12, "final_certificates", "INSERT"),
    ("ca", 14, "certificate_signatures", "INSERT"), ("ca", 14, "issuance_requests", "DELETE"),
)
PRESIGNER_WRITES = (("ocsp_batches", "INSERT"), ("ocsp_requests", "DELETE"), ("ocsp_shards", "INSERT"))
FAILURES = ("disk full", "connection lost")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the matrix."""

    process: str
    step: str
    what: str
    logs: str
    ended: str
    serials: int
    precertificates: int
    finals: int

    def __str__(self) -> str:
        return _line(self.process, self.step, self.what, self.logs, self.ended, str(self.serials),
                     str(self.precertificates), str(self.finals))


def _line(process: str, step: str, what: str, logs: str, ended: str, *numbers: str) -> str:
    return f"{process:<9} {step:>4}  {what:<50} {logs:<6} {ended:<7} " + " ".join(f"{each:>8}" for each in numbers)


HEADING = _line("process", "step", "what happens", "logs", "order", "serials", "precerts", "finals")


@asynccontextmanager
async def failing(world: World, table: str, kind: str, how: str) -> AsyncIterator[None]:
    """Inside, the server fails the first such write, once: with an error, or by ending the session that writes."""
    act = ("RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'" if how == "disk full"
           else "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5)")
    result = "OLD" if kind == "DELETE" else "NEW"
    await world.owner.execute(f"""
        CREATE SEQUENCE failures;
        GRANT USAGE ON SEQUENCE failures TO PUBLIC;
        CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('failures') = 1 THEN {act}; END IF;
            RETURN {result};
        END $$;
        CREATE TRIGGER fail_once BEFORE {kind} ON {table} FOR EACH ROW EXECUTE FUNCTION fail_once()""")
    try:
        yield
        assert await world.owner.fetchval("SELECT is_called FROM failures"), f"nobody did {kind} {table}"
    finally:
        await world.owner.execute("DROP FUNCTION fail_once CASCADE; DROP SEQUENCE failures")


def dies_after(step: int, deaths: list[int]) -> Callable[[int], Awaitable[None]]:
    """For `after_step` of a process; `deaths` tells that it has happened."""
    async def after_step(number: int) -> None:
        if number == step:
            deaths.append(step)
            raise Killed
    return after_step


async def work(ct: TransparentWorld, ca: IssuingProcess, publisher: Publisher) -> None:
    """What the two do until there is nothing to do at present; raises what ends one of them."""
    worked = True
    while worked:
        worked = bool(await issue_batch(ca, 8))
        while await publisher.step():
            worked = True
        await publisher.settle()
        worked = bool(await ct.wake_logged()) or worked


async def run_to_failure(ct: TransparentWorld, ca: IssuingProcess, publisher: Publisher) -> BaseException | None:
    """Work that one failure disturbs: what ended it, if it did not only put off a submission. Claims stay held."""
    try:
        await work(ct, ca, publisher)
    except (Killed, Exception) as fault:
        await publisher.drain()
        return fault
    return None


async def restart(ct: TransparentWorld, *, logs_answer: bool) -> None:
    """New processes take over what the old ones held; with logs that stay away, until patience is over."""
    await ct.let_pauses_pass()
    await work(ct, ct.ca("next"), ct.publisher("next"))
    if logs_answer:
        return
    ct.world.clock_s += 601
    for _ in range(3):
        await ct.let_pauses_pass()
        await work(ct, ct.ca("later"), ct.publisher("later"))


async def outcome(ct: TransparentWorld, order: TestOrder, process: str, step: int, what: str, logs: str) -> Row:
    """How it ended, after every promise has been looked at."""
    world = ct.world
    counts = await world.owner.fetchrow("""
        SELECT (SELECT count(*) FROM issuances WHERE request_id = $1) AS serials,
            (SELECT count(*) FROM precertificate_signatures JOIN issuances USING (serial) WHERE request_id = $1) AS pre,
            (SELECT count(*) FROM final_certificates JOIN issuances USING (serial) WHERE request_id = $1) AS finals""",
        order.id)
    assert counts is not None
    certificate, refusal = await world.certificate(order.id), await world.refusal(order.id)
    assert (certificate is None) is not (refusal is None), what
    assert await world.queued() == 0
    assert await ct.statement("SELECT count(*) FROM ct_submissions") == 0
    if certificate is not None:
        assert tuple(counts.values()) == (1, 1, 1)
        assert serial_from_int(certificate.serial_number) == await world.serial(order.id)
        assert len(await ct.scts_of(order.id)) == 2
    else:
        assert counts["finals"] == 0, "nothing follows a refusal"
        if counts["serials"]:
            await revoked(ct, await world.serial(order.id))
    await world.check()
    return Row(process, str(step), what, logs, "invalid" if certificate is None else "valid", *counts.values())


async def revoked(ct: TransparentWorld, serial: bytes) -> None:
    """A serial number that was given out can be revoked, whatever became of it, and OCSP is asked to say so."""
    ca = ct.ca("revoker")
    await ct.world.revocation_request(serial, 4, "operator")
    changed = await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)
    assert changed is not None
    assert await ct.statement("SELECT count(*) FROM revocations WHERE serial = $1", serial) == 1
    assert await ct.statement("SELECT count(*) FROM ocsp_requests WHERE serial = $1 AND version = 1", serial) == 1


async def test_the_matrix(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Deaths after each step, failures at each write, a token that is away at either signature; logs that answer and
    logs that do not: each order ends as it must."""
    rows: list[Row] = []
    async with transparent(world, personalities(2)) as ct:
        for logs in ("answer", "away"):
            for log in ct.logs:
                log.mode = "ok" if logs == "answer" else "down"
            for step in sorted((*CA_STEPS, *PUBLISHER_STEPS)):
                if logs == "away" and step not in (*range(1, 10), 11):
                    continue        # no SCT, so no step of these
                order = await world.ordered(f"killed{step}.{logs}.example.com")
                if (logs, step) == ("away", 11):
                    await work(ct, ct.ca(), ct.publisher())     # so far that the request has waited once
                    await ct.let_pauses_pass()
                ca, publisher = ct.ca(), ct.publisher()
                dying = publisher if step in PUBLISHER_STEPS else ca
                deaths: list[int] = []
                dying.after_step = dies_after(step, deaths)
                await run_to_failure(ct, ca, publisher)
                assert set(deaths) == {step}
                await restart(ct, logs_answer=logs == "answer")
                rows.append(await outcome(ct, order, "publisher" if step in PUBLISHER_STEPS else "ca", step,
                                          "killed", logs))
        for how in FAILURES:
            order = await world.ordered(f"refused{len(rows)}.example.com")
            async with failing(world, "refusals", "INSERT", how):
                await run_to_failure(ct, ct.ca(), ct.publisher())
                world.clock_s += 601
                await ct.let_pauses_pass()
                assert await run_to_failure(ct, ct.ca(), ct.publisher()) is not None
                await restart(ct, logs_answer=False)
            rows.append(await outcome(ct, order, "ca", 11, f"{how}: INSERT refusals", "away"))
        for log in ct.logs:
            log.mode = "ok"
        for process, step, table, kind in WRITES:
            for how in FAILURES:
                order = await world.ordered(f"failed{len(rows)}.example.com")
                async with failing(world, table, kind, how):
                    await run_to_failure(ct, ct.ca(), ct.publisher())
                    await restart(ct, logs_answer=True)
                rows.append(await outcome(ct, order, process, step, f"{how}: {kind} {table}", "answer"))
        for step, calls in ((6, 1), (13, 2)):
            order = await world.ordered(f"token{step}.example.com")
            assert isinstance(await run_to_failure(ct, _without_token(ct, calls), ct.publisher()), TokenLostError)
            await restart(ct, logs_answer=True)
            rows.append(await outcome(ct, order, "ca", step, "the token is away", "answer"))
    with capsys.disabled():
        print("", HEADING, *rows, sep="\n")
    assert len(rows) == 13 + 9 + 2 * (1 + len(WRITES)) + 2
    assert {row.ended for row in rows if row.logs == "answer"} == {"valid"}
    assert {row.ended for row in rows if row.logs == "away"} == {"invalid"}


def _without_token(ct: TransparentWorld, call: int) -> IssuingProcess:
    """A CA whose token is away at its n-th signature."""
    ca = ct.ca()
    signer, calls = ca.signer, 0

    class Away(type(signer)):  # type: ignore[misc] # the class of the process's own signer
        async def sign(self, *arguments: object) -> list[bytes]:
            nonlocal calls
            calls += 1
            if calls == call:
                raise TokenLostError("the token is away")
            signatures: list[bytes] = await signer.sign(*arguments)  # type: ignore[arg-type]
            return signatures

    ca.signer = Away(ct.world.thread, ca.audit)
    ca.signer._for_lint = signer._for_lint
    return ca


async def test_the_pre_signer(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Storage failures at each write of the pre-signer: the first OCSP response is published all the same, once its
    process has got over it or was started again, and the order is valid then."""
    settings = write_settings(tmp_path, world)
    rows: list[Row] = []
    for table, kind in PRESIGNER_WRITES:
        for how in FAILURES:
            order = await world.ordered(f"n{len(rows)}.example.com")
            await issue_batch(world.process(), 8)
            serial = await world.serial(order.id)
            waits = "NOT EXISTS (SELECT FROM ocsp_requests WHERE serial = $1)"
            async with failing(world, table, kind, how), ca_process(settings, package="ocsp.presign"):
                await until(world, waits, serial, timeout_s=60.0)
            assert await world.owner.fetchval(
                "SELECT count(*) FROM ocsp_batches WHERE position($1::bytea IN payload) > 0", serial) >= 1
            await world.check()
            rows.append(Row("presign", "-", f"{how}: {kind} {table}", "-", "valid", 1, 0, 1))
    with capsys.disabled():
        print("", HEADING, *rows, sep="\n")
