"""Strict base64url (rows T3, E25)."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol.base64url import Base64Error, decode, encode


@given(st.binary(max_size=100))
def test_round_trip(data: bytes) -> None:
    """encode and decode are inverse, and the alphabet is that of URLs."""
    text = encode(data)
    assert decode(text) == data
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize("text", ["=", "QQ==", "QQ=", "QUI=", "Q", "QUJDR", "Q+==", "+/8", "QQ ", " QQ", "QQ\n", "QR",
                                  "QUJ", "Q\u00e9Q", "\ud800", "QQ\x00", "Q Q", "QQ-", "Q.Q"])
def test_other_spellings_are_refused(text: str) -> None:
    """Padding, the other alphabet, white space, length 4n+1, trailing bits, anything not ASCII."""
    with pytest.raises(Base64Error):
        decode(text)


@given(st.text("ABCabc019-_+/= \n", max_size=12))
def test_one_spelling_a_value(text: str) -> None:
    """Whatever is accepted is exactly what `encode` writes."""
    try:
        data = decode(text)
    except Base64Error:
        return
    assert base64.urlsafe_b64encode(data).decode().rstrip("=") == text
