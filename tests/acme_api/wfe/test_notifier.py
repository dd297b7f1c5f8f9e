"""Wake-ups of the VA and the CA, bundled."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from acme_api.wfe.notifier import Notifier

_INTERVAL_S = 0.2


class _Recorder:
    """Notes what is sent, and when; refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, Sequence[str]]] = []
        self.refuses = 0
        self.changed = asyncio.Event()

    async def notify(self, channels: Sequence[str]) -> None:
        """As the database would."""
        self.sent.append((asyncio.get_running_loop().time(), channels))
        self.changed.set()
        if self.refuses:
            self.refuses -= 1
            raise OSError("away")

    async def until(self, count: int) -> None:
        """Returns when so many were sent."""
        async with asyncio.timeout(30):
            while len(self.sent) < count:
                self.changed.clear()
                await self.changed.wait()


async def test_wake_ups_are_sent_at_once_and_bundled_under_load() -> None:
    """The first one does not wait; what comes within the interval goes together at its end, each channel once; one that
    could not be sent stops none of the later ones."""
    recorder = _Recorder()
    notifier = Notifier(recorder, structlog.get_logger(), interval_s=_INTERVAL_S)
    task = asyncio.create_task(notifier.run())
    try:
        notifier.notify("validation")
        await recorder.until(1)
        for channel in ("issuance", "validation", "issuance"):
            notifier.notify(channel)
        assert len(recorder.sent) == 1
        await recorder.until(2)
        assert [channels for _, channels in recorder.sent] == [["validation"], ["issuance", "validation"]]
        assert recorder.sent[1][0] - recorder.sent[0][0] >= _INTERVAL_S * 0.99
        recorder.refuses = 1
        notifier.notify("issuance")
        await recorder.until(3)
        notifier.notify("validation")
        await recorder.until(4)
        assert [channels for _, channels in recorder.sent[2:]] == [["issuance"], ["validation"]]
        await asyncio.sleep(_INTERVAL_S)
        began = asyncio.get_running_loop().time()
        notifier.notify("validation")
        await recorder.until(5)
        assert recorder.sent[4][0] - recorder.sent[3][0] > _INTERVAL_S * 0.99
        assert recorder.sent[4][0] >= began
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
