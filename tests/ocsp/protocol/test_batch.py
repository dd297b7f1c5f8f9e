"""The batch format: what goes in comes out, and nothing else is taken for a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocsp.protocol.batch import (
    KEY_BYTES,
    VALUE_BYTES,
    VALUE_FLAGS,
    VALUE_FORM,
    VALUE_MINUTE,
    VALUE_NOT_AFTER,
    VALUE_PRODUCED,
    VALUE_SECOND_LENGTH,
    BatchError,
    SignedStatus,
    encode_batch,
    in_record,
    is_whole,
    read_value,
    replaces,
    responder_of_batch,
    split_batch,
    store_key,
    value_of,
)
from ocsp.protocol.response import CertStatus, Times

seconds = st.integers(1, 2**32 - 1)
signatures = st.binary(min_size=1, max_size=520)
statuses = st.one_of(st.just(CertStatus()), st.builds(CertStatus, revoked_at_s=seconds, reason=st.integers(0, 9)))
times = st.builds(Times, produced_at_s=seconds, this_update_s=seconds, next_update_s=seconds)
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
        assert bool(value[VALUE_FLAGS]) is (item.status.revoked_at_s is not None)


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


def value(version: int, this_update_s: int, *, first: bytes = b"a" * 71, second: bytes = b"b" * 70,
          produced_at_s: int = 9) -> bytes:
    """A stored value with a version and a thisUpdate."""
    when = Times(produced_at_s=produced_at_s, this_update_s=this_update_s, next_update_s=99)
    item = SignedStatus(bytes(18), version, CertStatus(), 1, (first, second))
    (_, made), = split_batch(encode_batch(when, [item]), 1)
    return made


@given(left=st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1)),
       right=st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1)))
def test_a_value_replaces_another_by_version_then_by_this_update(left: tuple[int, int], right: tuple[int, int]) -> None:
    """(version, thisUpdate) must not be smaller; signature lengths and the rest have no say."""
    assert replaces(value(*left), value(*right, first=b"longer" * 20)) is (left >= right)


def test_the_form_of_a_value_is_the_same_for_responses_of_the_same_shape() -> None:
    """Times and the lengths of the signatures up to that hash's, and nothing of the certificate, choose a template. Of
    producedAt only by which 256 seconds it is after thisUpdate: the rest is an octet of its own."""
    def form(made: bytes) -> tuple[bytes, bytes, bytes]:
        return made[VALUE_FORM], made[VALUE_MINUTE], made[VALUE_SECOND_LENGTH]

    one = form(value(0, 5))
    assert form(value(1, 5)) == one
    assert [left == right for left, right in zip(form(value(0, 5, first=b"a" * 72)), one, strict=True)] == [
        False, True, True]
    assert [left == right for left, right in zip(form(value(0, 5, second=b"a" * 72)), one, strict=True)] == [
        True, True, False]
    assert [left == right for left, right in zip(form(value(0, 6)), form(value(0, 5)), strict=True)][1:] == [
        False, True]
    for after_s, is_same in ((0, True), (59, True), (255, True), (256, False)):
        other = value(0, 5, produced_at_s=5 + after_s)
        assert other[VALUE_PRODUCED] == after_s % 256
        assert (form(other) == one) is is_same


@given(behind=st.binary(max_size=9), lost=st.integers(1, 140))
def test_the_end_of_a_value_is_known(behind: bytes, lost: int) -> None:
    """With something behind it, or cut off: what is read of a record is the value, or nothing."""
    whole = value(1, 5)
    assert is_whole(whole)
    assert value_of(bytes(KEY_BYTES) + whole + behind) == whole
    assert is_whole(whole + behind) is not bool(behind)
    assert not is_whole(whole[:-lost])
    assert in_record(slice(2, 5)) == slice(KEY_BYTES + 2, KEY_BYTES + 5)
    with pytest.raises(BatchError):
        value_of(bytes(KEY_BYTES) + whole[:20])
