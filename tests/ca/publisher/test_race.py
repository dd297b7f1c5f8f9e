"""The race of logs: who is asked when, when it ends, and that nothing is left running. Times are of the loop's clock,
and what is asserted is order, never speed."""

import asyncio
from collections.abc import Sequence

from ca.pki.ct_log_list import CtLog
from ca.pki.ct_policy import VerifiedSct
from ca.pki.sct import Sct
from ca.publisher.race import Race
from tests.ca.pki.test_ct_policy import make_log

LOGS = [make_log(number, f"operator {number}") for number in range(1, 7)]
NEVER = 1_000.0


class Runners:
    """What each log does: answers after some seconds, fails at once (None), or never answers."""

    def __init__(self, answers: dict[int, float | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.running = 0

    async def ask(self, log: CtLog) -> VerifiedSct | None:
        """One submission."""
        self.asked.append(log.description)
        self.running += 1
        try:
            delay = self.answers[LOGS.index(log)]
            await asyncio.sleep(delay or 0.0)
        finally:
            self.running -= 1
        return None if delay is None else VerifiedSct(
            sct=Sct(log_id=log.log_id, timestamp_ms=1, extensions=b"", signature_algorithm=3, signature=b""),
            data=log.log_id, log=log)


def _two(found: Sequence[VerifiedSct]) -> bool:
    return len(found) >= 2


async def _run(answers: dict[int, float | None], *, stagger_s: float = NEVER, total_s: float = 60.0,
               found: Sequence[VerifiedSct] = ()) -> tuple[list[str], list[str]]:
    runners = Runners(answers)
    got = await Race(ask=runners.ask, stagger_s=stagger_s, total_s=total_s).run(
        LOGS[:len(answers)], found, _two)
    assert runners.running == 0, "nothing is left running"
    return runners.asked, [each.log.description for each in got]


async def test_two_are_enough() -> None:
    """When the first two answer, no other is asked."""
    assert await _run({0: 0.0, 1: 0.0, 2: 0.0}) == (["log1", "log2"], ["log1", "log2"])


async def test_a_failure_calls_the_next_at_once() -> None:
    """Each failure starts the next log, without waiting for its turn."""
    assert await _run({0: None, 1: None, 2: 0.0, 3: 0.01}) == (["log1", "log2", "log3", "log4"], ["log3", "log4"])


async def test_a_slow_log_is_overtaken() -> None:
    """After the pause the next log starts, and the slow one is not waited for."""
    asked, got = await _run({0: NEVER, 1: 0.0, 2: 0.0}, stagger_s=0.01)
    assert (asked, got) == (["log1", "log2", "log3"], ["log2", "log3"])


async def test_all_fail() -> None:
    """The race ends when nobody is left, long before its time."""
    assert await _run(dict.fromkeys(range(4))) == (["log1", "log2", "log3", "log4"], [])


async def test_time_is_up() -> None:
    """Logs that never answer end with the race's time; what has arrived is kept."""
    asked, got = await _run({0: 0.0, 1: NEVER, 2: NEVER}, stagger_s=0.01, total_s=0.2)
    assert (asked, got) == (["log1", "log2", "log3"], ["log1"])


async def test_what_was_there_before() -> None:
    """SCTs of an earlier race count, and come first."""
    _, (first, *_rest) = await _run({0: 0.0, 1: 0.0})
    have = Runners({5: 0.0})
    known = await have.ask(LOGS[5])
    assert known is not None
    asked, got = await _run({0: 0.0, 1: NEVER}, found=[known])
    assert (asked, got) == (["log1", "log2"], ["log6", "log1"])
    assert await _run({}, found=[known, known]) == ([], ["log6", "log6"])
    assert first == "log1"


async def test_no_log_at_all() -> None:
    """An empty list is an empty result, at once."""
    assert await _run({}) == ([], [])
