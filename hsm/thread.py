"""The one thread of an asyncio process that may touch the token."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from hsm.token import Token

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class HsmThread:
    """Owns a thread, opens the token inside it, and runs every call that touches the token or a key there, in order.

    `key = await thread.run(private_key, thread.token, "R1")`; `made = await thread.run(sign_many, key, messages)`.
    """

    def __init__(self, executor: ThreadPoolExecutor, token: Token) -> None:
        self._executor = executor
        self._token = token

    @classmethod
    async def open(
        cls, *, module: str, token_label: str, pin_file: Path, conf: Path | None = None, writable: bool = False
    ) -> "HsmThread":
        """Starts the thread and opens the token in it. Raises the HsmError of `Token.open`."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hsm")

        def open_token() -> Token:
            return Token.open(module=module, token_label=token_label, pin_file=pin_file, conf=conf, writable=writable)

        try:
            token = await asyncio.get_running_loop().run_in_executor(executor, open_token)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(executor, token)

    @property
    def token(self) -> Token:
        """The token, to be passed to what runs in the thread; to touch it anywhere else raises WrongThreadError."""
        return self._token

    async def run(
        self, call: Callable[_Parameters, _Result], *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> _Result:
        """`call` in the thread. Cancelling the wait does not stop the call: the signature is made anyway."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **kwargs))

    async def close(self) -> None:
        """Closes the token, after what was given before, and ends the thread."""
        try:
            await self.run(self._token.close)
        finally:
            self._executor.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
