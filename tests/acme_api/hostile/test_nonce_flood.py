"""Row E9 at its full size: a hundred thousand requests for nonces by one address."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import pytest

from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.hostile.ground import Ground
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe

_REQUEST = b"HEAD /acme/new-nonce HTTP/1.1\r\nHost: ca.example\r\n\r\n"
_AT_ONCE = 100
_CONNECTIONS = 10
_ROOM = 80_000


async def _ask(address: str, times: int) -> Counter[int]:
    """So many requests on one connection, a hundred in each packet; how many answers have each status."""
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    statuses, rest = Counter[int](), b""
    for _ in range(times // _AT_ONCE):
        writer.write(_REQUEST * _AT_ONCE)
        await writer.drain()
        answered = 0
        while answered < _AT_ONCE:
            data = await asyncio.wait_for(reader.read(65_536), 60)
            assert data, "the server closed the connection"
            *heads, rest = (rest + data).split(b"\r\n\r\n")
            answered += len(heads)
            statuses.update(int(head[9:12]) for head in heads)
    writer.close()
    return statuses


async def test_e9_a_hundred_thousand_nonces(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    """Row E9: of a hundred thousand requests as many get a nonce as the limit has room for, the others 429; nothing is
    stored, memory stays flat, others are served meanwhile, and the first nonce of all is still good."""
    wfe = await start(limits=LimitsSettings(nonces_per_address=RateSettings(burst=_ROOM, period_s=10**9)))
    ground = await Ground.make(wfe, others, capsys)
    first = await ground.bystander.nonce()
    spare = [await ground.bystander.nonce() for _ in range(20)]
    async with ground.row("E9"):
        flood = asyncio.gather(*(_ask(wfe.address, 100_000 // _CONNECTIONS) for _ in range(_CONNECTIONS)))
        served = 0
        while not flood.done() and spare:
            (await ground.bystander.post(ground.bystander.kid, nonce=spare.pop())).require(200)
            served += 1
        statuses = sum(await flood, Counter[int]())
        assert served > 0
        assert set(statuses) == {200, 429}
        assert statuses.total() == 100_000
        # The two clients have taken some, and one place more may have come free.
        assert _ROOM - 100 < statuses[200] <= _ROOM + 1
        (await ground.bystander.post(ground.bystander.kid, nonce=first)).require(200)
    await ground.end()
