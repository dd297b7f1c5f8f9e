"""Python's cycle collector, at moments that nobody notices.

A full collection looks at every object and stops everything meanwhile: with thousands of slow requests in hand that is
half a second, again and again. Here it runs when the process has little to do, or when very much has piled up.
"""

import asyncio
import gc
from collections.abc import Callable
from typing import Final

_LOOK_EVERY_S: Final = 1.0
_WORTH_A_LOOK: Final = 50_000
"""Container objects that came and did not go since the last collection, some of which are in use."""
_TOO_MANY: Final = 2_000_000
"""Some hundred megabytes, were all of them garbage."""


async def collect_when_idle(is_idle: Callable[[], bool]) -> None:
    """Collects cycles until it is cancelled; objects that exist at its start are not looked at again."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            count = gc.get_count()[0]
            if count > _TOO_MANY or (count > _WORTH_A_LOOK and is_idle()):
                gc.collect()
    finally:
        gc.unfreeze()
        gc.enable()
