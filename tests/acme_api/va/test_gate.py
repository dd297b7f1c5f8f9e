"""Promises of the gate in front of a place: bounds, turns, and what a caller that gives up leaves behind (SF6)."""

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from acme_api.va.gate import FairGate


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_owners_take_turns() -> None:
    """SF6: with one place, and ten of one owner waiting before one of another, the other is next but one."""
    gate = FairGate(limit=1, each=1)
    order: list[str] = []

    async def visit(owner: str) -> None:
        async with gate.enter("place", owner):
            order.append(owner)
            await asyncio.sleep(0)

    visits = [asyncio.create_task(visit(owner)) for owner in [*["many"] * 10, "few", "few"]]
    await asyncio.gather(*visits)
    assert order[:4] == ["many", "many", "few", "many"]
    assert Counter(order) == {"many": 10, "few": 2}
    assert len(gate) == 0


async def test_another_place_is_another_place() -> None:
    """SF6: who waits for one place holds up nobody at another."""
    gate = FairGate(limit=1, each=1)
    async with gate.enter("a", "x"), asyncio.timeout(30), gate.enter("b", "x"):
        assert len(gate) == 2
    assert len(gate) == 0


async def test_who_gives_up_while_being_let_in_passes_it_on() -> None:
    """A caller that is cancelled in the moment in which it is let in does not take the place with it."""
    gate = FairGate(limit=1, each=1)
    inside: list[str] = []

    async def visit(name: str) -> None:
        async with gate.enter("place", "owner"):
            inside.append(name)
            await asyncio.Event().wait()

    async with gate.enter("place", "owner"):
        visits = [asyncio.create_task(visit(name)) for name in ("first", "second", "third")]
        await _settled()
    visits[0].cancel()          # its turn has come, and it has not run since
    await _settled()
    assert inside == ["second"]
    visits[2].cancel()          # while it waits
    visits[1].cancel()
    await asyncio.gather(*visits, return_exceptions=True)
    assert len(gate) == 0


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.tuples(
    st.sampled_from(["enter", "leave", "cancel"]), st.sampled_from("pq"), st.sampled_from("xyz"), st.integers(0, 9)),
    max_size=60))
@settings(max_examples=150, deadline=None)
def test_bounds_hold_and_nobody_waits_without_a_reason(
    limit: int, each: int, acts: list[tuple[str, str, str, int]]
) -> None:
    """SF6: whatever is done in whatever order, no place and no owner has more than allowed, somebody waits only where
    one of the bounds is reached, and when everybody has left the gate remembers nothing."""
    asyncio.run(_play(limit, each, acts))


async def _play(limit: int, each: int, acts: list[tuple[str, str, str, int]]) -> None:
    gate = FairGate(limit=limit, each=each)
    inside: Counter[tuple[str, str]] = Counter()
    visits: list[tuple[str, str, asyncio.Event, asyncio.Task[None]]] = []

    async def visit(place: str, owner: str, leave: asyncio.Event) -> None:
        async with gate.enter(place, owner):
            inside[place, owner] += 1
            try:
                await leave.wait()
            finally:
                inside[place, owner] -= 1

    for act, place, owner, which in acts:
        if act == "enter":
            leave = asyncio.Event()
            visits.append((place, owner, leave, asyncio.create_task(visit(place, owner, leave))))
        elif visits:
            _, _, leave, task = visits[which % len(visits)]
            if act == "leave":
                leave.set()
            else:
                task.cancel()
        await _settled()
        alive = Counter((at, of) for at, of, _, task in visits if not task.done())
        for at in "pq":
            total = sum(inside[at, of] for of in "xyz")
            assert total <= limit
            for of in "xyz":
                assert inside[at, of] <= each
                assert alive[at, of] == inside[at, of] or inside[at, of] == each or total == limit
    for _, _, leave, _ in visits:
        leave.set()
    await asyncio.gather(*(task for *_, task in visits), return_exceptions=True)
    assert len(gate) == 0
