"""The load generator's HTTP client reads what servers send, however it is cut, and only goes to loopback."""

import asyncio

import pytest

from loadtest.http_connection import (
    HttpConnection,
    HttpFault,
    HttpResponse,
    NotLoopbackError,
    loopback_origin,
    take_response,
)

_PLAIN = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nReplay-Nonce: n1\r\nLocation: https://h/1\r\n\r\nhello"
_CHUNKED = (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n")
_EMPTY = b"HTTP/1.1 204 No Content\r\nReplay-Nonce: n2\r\n\r\n"


@pytest.mark.parametrize(("wire", "status", "body"), [
    pytest.param(_PLAIN, 201, b"hello", id="length"),
    pytest.param(_CHUNKED, 200, b"hello", id="chunked"),
    pytest.param(_EMPTY, 204, b"", id="no content"),
])
def test_one_response_is_taken(wire: bytes, status: int, body: bytes) -> None:
    """Whole, byte by byte, and with the next response behind it, the same response is found."""
    buffer = bytearray(wire + b"HTTP/1.1 2")
    found = take_response(buffer)
    assert found is not None
    assert (found.status, found.body) == (status, body)
    assert buffer == b"HTTP/1.1 2"
    for end in range(len(wire)):
        partial = bytearray(wire[:end])
        assert take_response(partial) is None
        assert partial == wire[:end], "an incomplete response stays where it is"


def test_headers_are_found_by_lower_case_name() -> None:
    """What an ACME client needs from a response: nonce and location."""
    found = take_response(bytearray(_PLAIN))
    assert found is not None
    assert found.headers["replay-nonce"] == "n1"
    assert found.headers["location"] == "https://h/1"


@pytest.mark.parametrize("wire", [
    pytest.param(b"SSH-2.0-x\r\n\r\n", id="another protocol"),
    pytest.param(b"HTTP/1.1 abc\r\n\r\n", id="status"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="no length"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", id="chunk size"),
    pytest.param(b"x" * 70_000, id="endless head"),
])
def test_what_is_not_http_is_refused(wire: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(HttpFault):
        take_response(bytearray(wire))


@pytest.mark.parametrize("url", ["https://192.0.2.1/directory", "https://10.0.0.1:14000/x", "ftp://localhost/",
                                 "http://[2001:db8::1]/"])
def test_load_stays_on_this_machine(url: str) -> None:
    """A host that is not loopback is refused before anything is sent."""
    with pytest.raises(NotLoopbackError):
        loopback_origin(url)


def test_localhost_is_loopback() -> None:
    """Host, port and address of a server here."""
    origin = loopback_origin("https://localhost:14000/directory")
    assert (origin.scheme, origin.authority, origin.address) == ("https", "localhost:14000", "127.0.0.1")


async def test_a_closed_connection_is_opened_again() -> None:
    """Keep-alive is used while it lasts; a server's close ends one request at most."""
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    connection = HttpConnection(loopback_origin(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"), None)

    async def get() -> HttpResponse:
        return await connection.request("GET", "/", None, content_type="", timeout_s=5.0)

    assert [(await get()).body for _ in range(2)] == [b"ok", b"ok"]
    with pytest.raises(HttpFault):
        await get()
    assert (await get()).status == 200
    assert opened == 2
    connection.close()
    server.close()
