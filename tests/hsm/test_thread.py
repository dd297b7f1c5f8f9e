"""The HSM thread: opened, used and closed in one thread, for any number of waiting tasks."""

import asyncio
import threading
from pathlib import Path

import pytest

from hsm.errors import TokenMissingError, WrongThreadError
from hsm.key import private_key, sign_many
from hsm.thread import HsmThread
from tests.fixtures_hsm import SoftHsm


async def _open(softhsm: SoftHsm, label: str | None = None) -> HsmThread:
    return await HsmThread.open(module=softhsm.module, conf=softhsm.conf, pin_file=softhsm.pin_file,
                                token_label=label or softhsm.token_label)


async def test_calls_run_in_the_thread_that_opened(softhsm_token: SoftHsm) -> None:
    """Many tasks sign at once; every call runs in the one thread, and none in the event loop's."""
    async with await _open(softhsm_token) as thread:
        key = await thread.run(private_key, thread.token, softhsm_token.ec_label)
        made = await asyncio.gather(*(thread.run(sign_many, key, [b"x"] * 3) for _ in range(20)))
        assert [len(signatures) for signatures in made] == [3] * 20
        idents = {await thread.run(threading.get_ident) for _ in range(3)}
        assert len(idents) == 1
        assert threading.get_ident() not in idents
        with pytest.raises(WrongThreadError):
            thread.token.list_keys()


async def test_a_failed_open_leaves_nothing(softhsm_token: SoftHsm, tmp_path: Path) -> None:
    """The error of the token comes through, and the next open works."""
    with pytest.raises(TokenMissingError):
        await _open(softhsm_token, "Nobody")
    await (await _open(softhsm_token)).close()


async def test_faults_come_back_to_the_caller(softhsm_token: SoftHsm) -> None:
    """What a call raises is raised to the task that waits for it, and the thread goes on."""
    async with await _open(softhsm_token) as thread:
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 // 0)
        assert await thread.run(lambda: 1) == 1
