"""base64url without padding, one spelling for each value (RFC 8555 6.1, RFC 7515 2, row T3)."""

import base64
import binascii


class Base64Error(ValueError):
    """Not canonical unpadded base64url."""


def encode(data: bytes) -> str:
    """The one spelling of `data`."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The bytes that `encode` writes as `text`. Raises Base64Error for every other text.

    Padding, the other alphabet, white space, a length of 4n+1 and non-zero trailing bits all fail the one test that
    matters: the value does not spell itself so.
    """
    try:
        data = base64.urlsafe_b64decode(text + "===")
        if base64.urlsafe_b64encode(data).rstrip(b"=") == text.encode("ascii"):
            return data
    except (binascii.Error, ValueError):
        pass
    raise Base64Error("not unpadded base64url")
