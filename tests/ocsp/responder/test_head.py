"""The request head: read strictly, and whatever comes, only BadHead leaves the parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocsp.responder.head import BadHead, read_head

HOST = b"\r\nHost: x"


def test_a_plain_head_is_plain() -> None:
    """What most clients send has no variants."""
    head = read_head(b"GET /MFEw HTTP/1.1" + HOST + b"\r\nUser-Agent: a b\r\nAccept: */*")
    assert (head.method, head.target, head.persistent, head.content_length) == (b"GET", b"/MFEw", True, None)
    assert head.is_plain


@pytest.mark.parametrize(("line", "persistent", "plain"), [
    (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close", False, False),
    (b"GET / HTTP/1.1\r\nHost: x\r\nCONNECTION:Keep-Alive , CLOSE", False, False),
    (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: closed", True, True),
    (b"GET / HTTP/1.0", False, False),
    (b"GET / HTTP/1.0\r\nConnection: keep-alive", True, False),
    (b"GET / HTTP/1.9\r\nHost: x", True, True),
    (b"GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: *", True, False),
    (b"GET / HTTP/1.1\r\nHost: x\r\nIf-Modified-Since: x", True, False),
    (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1", True, False),
])
def test_what_stays_open_and_what_is_plain(line: bytes, persistent: bool, plain: bool) -> None:
    """RFC 9112 9.3; anything that changes the answer is not plain."""
    head = read_head(line)
    assert (head.persistent, head.is_plain) == (persistent, plain)


@pytest.mark.parametrize(("raw", "status"), [
    (b"", b"400"), (b"GET /", b"400"), (b"GET  / HTTP/1.1" + HOST, b"400"), (b"GET / HTTP/1.1 " + HOST, b"400"),
    (b"GET / HTTP/2.0" + HOST, b"505"), (b"GET / HTTP/1.1", b"400"), (b"GET / http/1.1" + HOST, b"400"),
    (b"GET x HTTP/1.1" + HOST, b"400"), (b"OPTIONS * HTTP/1.1" + HOST, b"400"),
    (b"GET / HTTP/1.1" + HOST + HOST, b"400"), (b"GET / HTTP/1.1\r\nHost : x", b"400"),
    (b"GET / HTTP/1.1" + HOST + b"\r\n folded: x", b"400"), (b"GET / HTTP/1.1" + HOST + b"\r\nA: x\r\n b", b"400"),
    (b"GET / HTTP/1.1" + HOST + b"\r\nA: x\ny", b"400"), (b"GET / HTTP/1.1" + HOST + b"\r\nA: \0", b"400"),
    (b"GET / HTTP/1.1" + HOST + b"\r\nA: x\rB: y", b"400"), (b"GET / HTTP/1.1" + HOST + b"\r\n: x", b"400"),
    (b"POST / HTTP/1.1" + HOST + b"\r\nContent-Length: 1\r\nContent-Length: 1", b"400"),
    (b"POST / HTTP/1.1" + HOST + b"\r\nContent-Length: +1", b"400"),
    (b"POST / HTTP/1.1" + HOST + b"\r\nContent-Length: 1, 1", b"400"),
    (b"POST / HTTP/1.1" + HOST + b"\r\nContent-Length: 0x10", b"400"),
    (b"POST / HTTP/1.1" + HOST + b"\r\nTransfer-Encoding: chunked", b"411"),
    (b"POST / HTTP/1.1" + HOST + b"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", b"411"),
    (b"POST / HTTP/1.1" + HOST + b"\r\nExpect: the-unexpected", b"417"),
])
def test_what_could_be_read_in_two_ways_is_refused(raw: bytes, status: bytes) -> None:
    """Smuggling needs two parsers that differ; this one takes no side (RFC 9112 11.2)."""
    with pytest.raises(BadHead) as refused:
        read_head(raw)
    assert refused.value.status[:3] == status


def test_the_absolute_form_is_taken() -> None:
    """RFC 9112 3.2.2: proxies send it."""
    assert read_head(b"GET http://ocsp.example:80/MFEw HTTP/1.1" + HOST).target == b"/MFEw"
    assert read_head(b"GET HTTP://ocsp.example HTTP/1.1" + HOST).target == b"/"


@given(raw=st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(
    lambda noise: b"GET /M HTTP/1.1" + HOST + b"\r\n" + noise)))
def test_any_bytes_give_a_head_or_a_refusal(raw: bytes) -> None:
    """No other exception."""
    try:
        head = read_head(raw)
    except BadHead:
        return
    assert head.target.startswith(b"/")
