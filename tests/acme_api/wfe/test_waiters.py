"""Wake-ups by the channel `changed`."""

import pytest

from acme_api.wfe.waiters import Waiters

_IDS = [bytes((number,)) * 22 for number in range(3)]


@pytest.mark.parametrize(("payload", "woken"), [
    (_IDS[1].hex(), {1}),
    (f"{_IDS[2].hex()},{'ab' * 22},{_IDS[0].hex()}", {0, 2}),
    ("ab" * 22, set()),
    ("", {0, 1, 2}),
], ids=["one", "many", "nobody's", "some may have been missed"])
def test_a_notification_wakes_those_that_it_names(payload: str, woken: set[int]) -> None:
    """One id, or many at once, with commas between them; the empty one wakes all."""
    waiters = Waiters()
    with waiters.waiting_for(_IDS[0]) as first, waiters.waiting_for(_IDS[1]) as second, (
            waiters.waiting_for(_IDS[2])) as third:
        waiters.wake(payload)
        assert {place for place, event in enumerate((first, second, third)) if event.is_set()} == woken
