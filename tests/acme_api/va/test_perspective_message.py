"""What goes between the VA and a remote perspective, as messages."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acme_api.va.evidence import Evidence
from acme_api.va.methods import Question
from acme_api.va.perspective_message import (
    MessageError,
    decode_finding,
    decode_question,
    encode,
    message_of,
    question_of,
)
from ca.pki.identifier import Identifier
from tests.acme_api.va.test_perspectives import BODY, QUESTION


@given(value=st.text(min_size=1, max_size=253), wildcard=st.booleans(), token=st.none() | st.text(max_size=128),
       thumbprint=st.binary(max_size=64), kind=st.sampled_from(["challenge", "caa"]),
       type_=st.sampled_from(["dns", "ip"]))
def test_a_question_survives_the_way(
    value: str, wildcard: bool, token: str | None, thumbprint: bytes, kind: Any, type_: str
) -> None:
    """What is asked there is what was asked here."""
    question = Question(identifier=Identifier(type=type_, value=value), wildcard=wildcard, method="dns-01", token=token,
                        thumbprint=thumbprint, account_url="https://ca.example/1", persist=wildcard, now=QUESTION.now,
                        subdomains=token is None)
    sent = encode(message_of(kind, question))
    message = decode_question(sent)
    # A host of an older version knows no such member, and answers what it does know.
    assert ("subdomains" in json.loads(sent)) == question.subdomains
    assert (message.kind, question_of(message, QUESTION.now)) == (kind, question)


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
                     | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


@given(evidence=st.dictionaries(st.text(max_size=20), _JSON, max_size=20), detail=st.text())
@example(evidence={}, detail="broken\n")
def test_what_a_remote_host_says_can_always_be_stored(evidence: dict[str, Any], detail: str) -> None:
    """Whoever the other end has become: evidence is stored printable and bounded, a detail is refused or printable."""
    kept = Evidence(lambda: QUESTION.now)
    kept.set_perspectives([{"began_at": evidence, "facts": [evidence, evidence]}])
    stored = msgspec.json.encode(kept.to_json())
    assert b"\\u0000" not in stored
    assert len(stored) < 100_000
    failure = {"type": "dns", "detail": detail, "transient": False}
    body = msgspec.json.encode({"version": 1, "perspective": "p", "failure": failure, "evidence": {}})
    try:
        finding = decode_finding(body)
    except MessageError:
        return
    assert finding.failure is not None
    assert detail.isascii()
    assert detail.isprintable()


@given(body=st.binary(max_size=200) | st.builds(lambda cut: BODY[:cut], st.integers(0, len(BODY) - 1)))
def test_garbage_is_no_message(body: bytes) -> None:
    """Truncated or random bytes are a MessageError for both sides, nothing else."""
    decoders: tuple[Callable[[bytes], object], ...] = (decode_question, decode_finding)
    for decode in decoders:
        with pytest.raises(MessageError):
            decode(body)
