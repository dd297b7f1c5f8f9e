"""Whether the token answers: a breaker that leaves requests to others while it does not, and closes it by itself.

A token that is away costs seconds at each try. After one failure nothing is asked of it any more but a trial signature
with a key of the session (`hsm.trial`), every few seconds; the first that succeeds lets the work go on.
"""

import asyncio
from typing import Final

from structlog.typing import FilteringBoundLogger

from ca.process.worker import wait_any
from hsm.errors import HsmError, TokenLostError
from hsm.thread import HsmThread
from hsm.trial import try_token

TRIAL_EVERY_S: Final = 30.0
_TRIAL_WHILE_OPEN_S: Final = 3.0


class TokenBreaker:
    """Open: the token is away. `opened` and `closed` are told by whoever asks the token."""

    def __init__(self, thread: HsmThread, log: FilteringBoundLogger) -> None:
        self._thread = thread
        self._log = log
        self._tripped = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether the token is away."""
        return self._tripped.is_set()

    def require_closed(self) -> None:
        """Raises TokenLostError at once while the token is away."""
        if self.is_open:
            raise TokenLostError("the token is away; it is tried every few seconds")

    def trip(self, fault: HsmError) -> None:
        """The token did not answer."""
        if not self.is_open:
            self._log.error("the token is away", fault=str(fault))
        self._tripped.set()

    async def watch(self, stop: asyncio.Event) -> None:
        """Tries the token every half minute, and every few seconds while it is away, until `stop`."""
        while not stop.is_set():
            await self._pause(stop)
            if stop.is_set():
                return
            try:
                await self._thread.run(try_token, self._thread.token)
            except HsmError as fault:
                self.trip(fault)
            else:
                if self.is_open:
                    self._log.info("the token is back")
                self._tripped.clear()

    async def _pause(self, stop: asyncio.Event) -> None:
        """Until the next trial: some seconds after the token went away, half a minute while it answers."""
        if not self.is_open:
            await wait_any(stop, self._tripped, timeout_s=TRIAL_EVERY_S)
        if self._tripped.is_set():
            await wait_any(stop, timeout_s=_TRIAL_WHILE_OPEN_S)
