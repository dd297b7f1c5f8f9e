"""Promises of the HTTP reader for any bytes: how they arrive does not matter, and nothing else is raised."""

import asyncio
import ipaddress
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_api.va.dial import Endpoint
from acme_api.va.failure import ValidationFailure
from acme_api.va.http_get import BodyTooLong, Exchange

ENDPOINT = Endpoint(address=ipaddress.ip_address("127.0.0.1"), port=80)
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX: y\r\n\r\nbody",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\nTrailer: z\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 Not Found\r\n\r\nuntil close",
    b"HTTP/1.1 302 Found\nLocation: /x\n\n",
]


class Script:
    """A connection that delivers these pieces and then ends."""

    endpoint = ENDPOINT

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.sent = b""

    async def send(self, data: bytes) -> None:
        self.sent += data

    async def receive(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def outcome(pieces: Sequence[bytes]) -> object:
    """What the reader makes of the pieces: status and body, or the kind of refusal."""

    async def read() -> object:
        exchange = Exchange(Script(pieces))
        try:
            head = await exchange.get(target="/", host="a.example", user_agent="x")
            return head.status, head.fields, await exchange.body(head, max_bytes=64)
        except BodyTooLong:
            return "too long"
        except ValidationFailure as failure:
            return failure.type

    return asyncio.run(read())


@pytest.mark.parametrize("response", RESPONSES)
def test_every_truncation_is_told_from_the_whole(response: bytes) -> None:
    """A response that breaks off in its head or its framing is a connection failure, never a shorter success."""
    whole = outcome([response])
    assert isinstance(whole, tuple)
    ends_by_close = b"until close" in response
    for length_bytes in range(len(response)):
        cut = outcome([response[:length_bytes]])
        if isinstance(cut, tuple):
            assert cut == whole or (ends_by_close and cut[:2] == whole[:2]), response[:length_bytes]
        else:
            assert cut == "connection"


@pytest.mark.parametrize("response", RESPONSES)
def test_byte_by_byte_is_the_same_as_at_once(response: bytes) -> None:
    """How the network cuts the stream does not change what is read."""
    assert outcome([bytes([octet]) for octet in response]) == outcome([response])


PIECES = st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 X\r\n", b"Content-Length: 3\r\n", b"\r\n", b"\n",
                          b"Transfer-Encoding: chunked\r\n", b"3\r\n", b"abc", b"0\r\n", b"x" * 70, b"\x00", b"\xff",
                          b"\r", b": ", b" "])


@settings(max_examples=400)
@given(pieces=st.lists(st.one_of(PIECES, st.binary(max_size=8)), max_size=14), data=st.data())
def test_any_bytes_end_in_a_response_or_a_refusal(pieces: list[bytes], data: st.DataObject) -> None:
    """No input raises anything but the two refusals, and splitting it elsewhere gives the same result."""
    stream = b"".join(pieces)
    at = data.draw(st.lists(st.integers(0, len(stream)), max_size=4).map(sorted))
    bounds = [0, *at, len(stream)]
    split = [stream[start:end] for start, end in pairwise(bounds)]
    assert outcome(split) == outcome([stream])
