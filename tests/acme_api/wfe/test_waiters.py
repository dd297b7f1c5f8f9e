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


def test_what_is_expected_is_bounded() -> None:
    """An object is expected until it has changed or something was missed; of very many the oldest are forgotten."""
    waiters = Waiters()
    for number in range(12_000):
        waiters.expect(number.to_bytes(4, "big"))
    assert not waiters.is_expected((1_999).to_bytes(4, "big"))
    assert waiters.is_expected((2_000).to_bytes(4, "big"))
    waiters.wake((2_000).to_bytes(4, "big").hex())
    assert not waiters.is_expected((2_000).to_bytes(4, "big"))
    waiters.expect_no_more((2_001).to_bytes(4, "big"))
    assert not waiters.is_expected((2_001).to_bytes(4, "big"))
    assert waiters.is_expected((11_999).to_bytes(4, "big"))
    waiters.wake("")
    assert not waiters.is_expected((11_999).to_bytes(4, "big"))
