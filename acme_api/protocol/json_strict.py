"""JSON as RFC 8259 and row J14 want it: one object, UTF-8, every name once, every number finite, nothing around it.

msgspec refuses what Python's own parser lets pass (NaN, Infinity, 1e999, a byte order mark, UTF-16, lone surrogates,
integers of thousands of digits, trailing data), and is fast. Two rules it does not know are added here:

- Names are unique (RFC 8259 4 leaves the meaning of a duplicate open, so two readers may differ). In a text that has
  just been parsed, a colon outside of strings stands between a name and its value and nowhere else; a duplicate is
  dropped on the way into a dict; so names are unique exactly when there are as many such colons as dict entries.
- Depth is bounded, counted in the value.
"""

import re
from typing import Any, Final, TypeAlias

import msgspec

MAX_DEPTH: Final = 16

JsonObject: TypeAlias = dict[str, Any]

_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_decoder: Final = msgspec.json.Decoder()


class JsonError(Exception):
    """Not JSON in the strict sense; the message says what is wrong and is fit for the client."""


def decode_object(data: bytes) -> JsonObject:
    """The object that `data` is. Raises JsonError for every other text."""
    try:
        value = _decoder.decode(data)
    except RecursionError:
        raise JsonError(f"JSON is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise JsonError("JSON is not UTF-8") from None
    except msgspec.DecodeError as fault:
        raise JsonError(str(fault)) from None
    if type(value) is not dict:
        raise JsonError("JSON is not an object")
    names = _names_in(value, 1)
    # Most texts have no colon in their strings, and then the first count decides.
    if data.count(b":") != names and _STRINGS.sub(b"", data).count(b":") != names:
        raise JsonError("JSON has a member name twice")
    return value


def _names_in(value: Any, depth: int) -> int:
    """How many members all objects in `value` have together. Raises JsonError when `value` is too deep."""
    if depth > MAX_DEPTH:
        raise JsonError(f"JSON is nested deeper than {MAX_DEPTH} levels")
    names = 0
    if type(value) is dict:
        names = len(value)
        value = value.values()
    for part in value:
        if type(part) is dict or type(part) is list:
            names += _names_in(part, depth + 1)
    return names
