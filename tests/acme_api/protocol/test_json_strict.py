"""Strict JSON (rows J14, E13 to E16)."""

import json
from typing import Any

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from acme_api.protocol.json_strict import MAX_DEPTH, JsonError, decode_object

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4), max_leaves=12)
_OBJECTS = st.dictionaries(_TEXT, _VALUES, max_size=5)
_DEEPEST = {"x": 1}
for _ in range(MAX_DEPTH - 1):
    _DEEPEST = {"x": _DEEPEST}  # type: ignore[dict-item]

_REFUSED = {
    "empty": b"",
    "null": b"null",
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "cut off": b'{"a":',
    "two objects": b"{}{}",
    "two objects with a space": b"{} {}",
    "trailing comma": b'{"a":1,}',
    "trailing NUL": b"{}\x00",
    "comment": b"{}//",
    "random bytes": bytes(range(128, 256)),
    "deep array": b'{"a":' + b"[" * 30_000,
    "closed deep array": b'{"a":' + b"[" * 17 + b"]" * 17 + b"}",
    "depth 17": b'{"x":' + json.dumps(_DEEPEST).encode() + b"}",
    "5000 digits": b'{"a":' + b"1" * 5_000 + b"}",
    "1e999": b'{"a":1e999}',
    "-1e999": b'{"a":-1e999}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "duplicate": b'{"a":1,"a":2}',
    "equal duplicate": b'{"a":1,"a":1}',
    "duplicate by escape": b'{"a":1,"\\u0061":1}',
    "duplicate inside": b'{"b":[{"a":1,"a":1}]}',
    "duplicate hidden by a colon in a string": b'{"a":"x:y","b":1,"b":2}',
    "duplicate after an escaped quote": b'{"a":"\\":","b":1,"b":2}',
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without BOM": '{"a":1}'.encode("utf-16-le"),
    "invalid UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "lone high surrogate": b'{"a":"\\ud800"}',
    "lone high surrogate before text": b'{"a":"\\ud800 and more text"}',
    "high surrogate before another escape": b'{"a":"\\ud800\\u0041 and more text"}',
    "two high surrogates": b'{"a":"\\ud800\\ud800 and more text"}',
    "low surrogate before high": b'{"a":"\\udc00\\ud800 and more text"}',
    "lone low surrogate": b'{"a":"\\udc00"}',
    "lone surrogate as name": b'{"\\ud800":1}',
    "control character": b'{"a":"\x01"}',
    "vertical tab outside": b"\x0b{}",
    "no-break space outside": b"\xc2\xa0{}",
    "single quotes": b"{'a':1}",
    "leading zero": b'{"a":01}',
}


@pytest.mark.parametrize("text", _REFUSED.values(), ids=_REFUSED.keys())
def test_what_is_not_one_plain_object_is_refused(text: bytes) -> None:
    """Rows J14, E13, E14, E15, E16."""
    with pytest.raises(JsonError):
        decode_object(text)


@pytest.mark.parametrize(("text", "value"), [
    (b" {}\r\n\t", {}),
    (b'{"a":"x:y:z","b:c":"\\":"}', {"a": "x:y:z", "b:c": '":'}),
    (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    (b'{"a":100000000000000000000}', {"a": 10**20}),
    (json.dumps(_DEEPEST).encode(), _DEEPEST),
    (b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}', {"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 2}]}),
])
def test_what_is_one_plain_object_is_read(text: bytes, value: Any) -> None:
    """White space, escapes, colons in strings and equal names in different objects are all fine."""
    assert decode_object(text) == value


@given(_OBJECTS, st.booleans())
def test_reads_what_json_writes(value: dict[str, Any], ascii_only: bool) -> None:
    """Every object of the standard library's writer is read back; deeper ones are refused."""
    try:
        read = decode_object(json.dumps(value, ensure_ascii=ascii_only).encode())
    except JsonError as fault:
        event(str(fault))
        assume("deeper" not in str(fault))
        raise
    assert read == value


@given(_OBJECTS, st.data())
def test_a_duplicate_anywhere_is_refused(value: dict[str, Any], data: st.DataObject) -> None:
    """A member repeated at the end of the object is never lost silently (row J14)."""
    name = data.draw(_TEXT)
    text = json.dumps(value | {name: 1})
    with pytest.raises(JsonError):
        decode_object(f"{text[:-1]}, {json.dumps(name)}: 2}}".encode())


@given(_OBJECTS, st.data())
def test_truncated_and_trailing_input_is_refused(value: dict[str, Any], data: st.DataObject) -> None:
    """Every proper prefix and every continuation that is not white space is refused."""
    text = json.dumps(value).encode()
    with pytest.raises(JsonError):
        decode_object(text[:data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(JsonError):
        decode_object(text + data.draw(st.binary(min_size=1).filter(lambda rest: rest.strip(b" \t\r\n") != b"")))


@given(st.binary(max_size=60))
def test_agrees_with_the_standard_library_on_random_bytes(data: bytes) -> None:
    """What is accepted here means the same to json.loads; nothing but JsonError is raised."""
    try:
        value = decode_object(data)
    except JsonError:
        return
    assert value == json.loads(data.decode("utf-8"))
