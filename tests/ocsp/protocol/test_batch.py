"""The batch format: what goes in comes out, and nothing else is taken for a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocsp.protocol.batch import (
    KEY_BYTES,
    VALUE_BYTES,
    VALUE_NOT_AFTER,
    BatchError,
    SignedStatus,
    encode_batch,
    is_whole,
    read_value,
    replaces,
    responder_of_batch,
    split_batch,
    store_key,
    value_at,
)
from ocsp.protocol.response import GOOD, CertStatus, Times

seconds = st.integers(1, 2**32 - 1)
signatures = st.binary(min_size=1, max_size=520)
statuses = st.one_of(st.just(CertStatus()), st.builds(CertStatus, revoked_at_s=seconds, reason=st.integers(0, 9)))
times = st.builds(lambda this_s, after_s, next_s: Times(
    produced_at_s=min(2**32 - 1, this_s + after_s), this_update_s=this_s, next_update_s=next_s),
    seconds, st.integers(0, 255 * 3_600), seconds)
records = st.lists(st.builds(SignedStatus, st.binary(min_size=18, max_size=18), st.integers(0, 255), statuses, seconds,
                             st.tuples(signatures, signatures)), max_size=5)


@given(when=times, items=records, issuer_id=st.integers(0, 32_767), responder_id=st.integers(0, 32_767))
def test_a_batch_gives_back_its_records(when: Times, items: list[SignedStatus], issuer_id: int,
                                        responder_id: int) -> None:
    """Every record becomes a key and a value that holds the same facts, the batch's times and who signed."""
    payload = encode_batch(when, items, responder_id=responder_id)
    assert responder_of_batch(payload) == responder_id
    found = list(split_batch(payload, issuer_id))
    assert [key for key, _ in found] == [store_key(issuer_id, item.serial) for item in items]
    for (_, value), item in zip(found, items, strict=True):
        read = read_value(value)
        assert (read.responder_id, read.times, read.version, read.status, read.not_after_s, read.signatures) == (
            responder_id, when, item.version, item.status, item.not_after_s, item.signatures)
        assert value[VALUE_NOT_AFTER] == item.not_after_s.to_bytes(4, "big")


@given(when=times, items=records, data=st.data())
def test_a_cut_batch_is_refused(when: Times, items: list[SignedStatus], data: st.DataObject) -> None:
    """A truncated payload never yields part of a record; a cut between two records is an earlier end, no fault."""
    payload = encode_batch(when, items)
    cut = payload[:data.draw(st.integers(0, max(0, len(payload) - 1)))]
    try:
        found = list(split_batch(cut, 1))
    except BatchError:
        return
    assert found == list(split_batch(payload, 1))[:len(found)]


def test_another_version_is_refused() -> None:
    """A responder of this version leaves a later format alone."""
    payload = encode_batch(Times(produced_at_s=1, this_update_s=1, next_update_s=2), [])
    for version in (0, 3, 255):
        with pytest.raises(BatchError):
            list(split_batch(bytes([version]) + payload[1:], 1))


@given(when=times, items=records)
def test_batches_of_the_first_version_are_read(when: Times, items: list[SignedStatus]) -> None:
    """Those in the log when the program is upgraded: signed by the issuer itself, everything else in its place."""
    payload = encode_batch(when, items)
    first = b"\x01" + payload[3:]
    assert responder_of_batch(first) == 0
    assert list(split_batch(first, 1)) == list(split_batch(payload, 1))
    with pytest.raises(BatchError):
        list(split_batch(first[:12], 1))


@given(data=st.binary(max_size=200))
def test_any_other_bytes_are_no_value(data: bytes) -> None:
    """Reading a value either gives its facts or raises BatchError."""
    try:
        read = read_value(data)
    except BatchError:
        return
    assert sum(map(len, read.signatures)) == len(data) - VALUE_BYTES


@pytest.mark.parametrize("after_s", [-1, -3_600, 256 * 3_600, 2**31])
def test_a_batch_whose_times_cannot_be_is_refused(after_s: int) -> None:
    """producedAt is not before thisUpdate, and not so long after it that a response could not live to see it."""
    when = Times(produced_at_s=3_600 * 500_000 + after_s, this_update_s=3_600 * 500_000, next_update_s=2**32 - 1)
    with pytest.raises(BatchError):
        list(split_batch(encode_batch(when, [SignedStatus(bytes(18), 0, CertStatus(), 1, (b"a", b"b"))]), 1))


def value(version: int, this_update_s: int, *, first: bytes = b"a" * 71, second: bytes = b"b" * 70,
          after_s: int = 0, status: CertStatus = GOOD) -> bytes:
    """A stored value with a version and a thisUpdate."""
    when = Times(produced_at_s=this_update_s + after_s, this_update_s=this_update_s, next_update_s=99)
    item = SignedStatus(bytes(18), version, status, 1, (first, second))
    (_, made), = split_batch(encode_batch(when, [item]), 1)
    return made


@given(left=st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1)),
       right=st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1)))
def test_a_value_replaces_another_by_version_then_by_this_update(left: tuple[int, int], right: tuple[int, int]) -> None:
    """(version, thisUpdate) must not be smaller; signature lengths and the rest have no say."""
    assert replaces(value(*left), value(*right, first=b"longer" * 20)) is (left >= right)


def test_a_value_begins_with_what_names_its_form() -> None:
    """Who signed, status, hours and both lengths, with the issuer in one piece before them; then what is different in
    every second; then the times. Nothing of the certificate, and not when it was revoked."""
    def parts(made: bytes) -> tuple[bytes, bytes, bytes, bytes]:
        return made[:7], made[7:9], made[9:11], made[11:19]

    def same(other: bytes) -> list[bool]:
        return [left == right for left, right in zip(parts(other), parts(value(0, 7_200)), strict=True)]

    assert store_key(258, bytes(18)) == bytes(18) + b"\x01\x02"
    assert parts(value(0, 7_200)) == (b"\0\0\0\0\0\0\x47", b"\0\x46", b"\0\0", b"\0\0\x1c\x20\0\0\0\x63")
    assert same(value(9, 7_200)) == [True, True, True, True]
    assert same(value(0, 7_200, first=b"a" * 72)) == [False, True, True, True]
    assert same(value(0, 7_200, second=b"a" * 72)) == [True, False, True, True]
    assert same(value(0, 7_260)) == [True, True, False, False]
    for after_s, clock in ((59, b"\0\x3b"), (60, b"\1\0"), (3_599, b"\x3b\x3b")):
        assert same(value(0, 7_200, after_s=after_s)) == [True, True, False, True]
        assert parts(value(0, 7_200, after_s=after_s))[2] == clock
    assert same(value(0, 7_200, after_s=3_600)) == [False, True, True, True]
    revoked = [value(1, 7_200, status=CertStatus(revoked_at_s=at_s, reason=4)) for at_s in (7, 8)]
    assert parts(revoked[0]) == parts(revoked[1])
    assert same(revoked[0]) == [False, True, True, True]


@given(behind=st.binary(max_size=9), lost=st.integers(1, 140))
def test_the_end_of_a_value_is_known(behind: bytes, lost: int) -> None:
    """With something behind it, or cut off: what is read of a record is the value, or nothing."""
    whole = value(1, 5)
    assert is_whole(whole)
    record = bytes(KEY_BYTES) + whole
    assert value_at(record + behind, 0) == whole
    assert value_at(behind + record, len(behind)) == whole
    assert is_whole(whole + behind) is not bool(behind)
    assert not is_whole(whole[:-lost])
    with pytest.raises(BatchError):
        value_at(record[:KEY_BYTES + VALUE_BYTES - 1], 0)
