"""When a log may be asked again."""

from ca.publisher.breaker import Breaker


def test_retry_after_counts_at_once() -> None:
    """One answer with Retry-After is enough, and its time is kept to the second."""
    breaker = Breaker()
    breaker.sent()
    breaker.failed(100.0, retry_after_s=30.0)
    assert [breaker.admits(now) for now in (100.0, 129.9, 130.0)] == [False, False, True]


def test_an_absurd_pause_is_cut_to_an_hour() -> None:
    """A log cannot close itself for ever by one answer."""
    breaker = Breaker()
    breaker.failed(0.0, retry_after_s=10.0**9)
    assert not breaker.admits(3_599.0)
    assert breaker.admits(3_600.0)


def test_three_failures_open_it() -> None:
    """Two failures are a bad moment; from the third on pauses begin, and double up to five minutes."""
    breaker = Breaker()
    now = 0.0
    for _ in range(2):
        breaker.failed(now)
        assert breaker.admits(now)
    pauses = []
    for _ in range(10):
        breaker.failed(now)
        pause = next(pause for pause in range(1, 1_000) if breaker.admits(now + pause))
        pauses.append(pause)
        now += pause
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_one_request_tries_a_suspected_log() -> None:
    """After a pause a single request is let through; its success lets all through again, and when it is abandoned
    another may try."""
    breaker = Breaker()
    for _ in range(3):
        breaker.failed(0.0)
    assert breaker.admits(2.0)
    breaker.sent()
    assert not breaker.admits(2.0)
    breaker.abandoned()
    assert breaker.admits(2.0)
    breaker.sent()
    breaker.succeeded()
    breaker.sent()
    assert breaker.admits(2.0)
