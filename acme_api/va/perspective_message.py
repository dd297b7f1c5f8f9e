"""The JSON between the primary perspective and a remote one: a question, a finding.

Both are bounded and strict: an unknown member, a wrong type or a text that is too long is refused as a whole. A remote
perspective answers one question with one finding and keeps nothing of either.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from acme_api.va.failure import FailureType
from acme_api.va.look import Kind
from acme_api.va.methods import Question
from ca.pki.identifier import Identifier

MAX_QUESTION_BYTES: Final = 4_096
MAX_FINDING_BYTES: Final = 32_768
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=1_024)]
# It is told to the subscriber and stored: printable, whoever the other end has become.
_Printable: TypeAlias = Annotated[str, msgspec.Meta(max_length=1_024, pattern=r"^[ -~]*\Z")]


_MessageT = TypeVar("_MessageT", bound="_Message")


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class QuestionMessage(_Message, frozen=True, kw_only=True):
    """A question on its way. `kind`: "challenge" asks for the challenge and CAA, "caa" for CAA alone."""

    version: Literal[1] = 1
    kind: Kind
    identifier_type: Literal["dns", "ip"]
    identifier_value: _Name
    wildcard: bool
    method: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    token: Annotated[str, msgspec.Meta(max_length=128)] | None
    thumbprint: Annotated[bytes, msgspec.Meta(max_length=64)]
    account_url: _Text
    persist: bool
    # Left out when false, so that a perspective of an older version answers everything else.
    subdomains: bool | msgspec.UnsetType = msgspec.UNSET


def message_of(kind: Kind, question: Question) -> QuestionMessage:
    """The question as it is sent."""
    return QuestionMessage(
        kind=kind, identifier_type="ip" if question.identifier.type == "ip" else "dns",
        identifier_value=question.identifier.value,
        wildcard=question.wildcard, method=question.method, token=question.token, thumbprint=question.thumbprint,
        account_url=question.account_url, persist=question.persist,
        subdomains=question.subdomains or msgspec.UNSET)


def question_of(message: QuestionMessage, now: datetime) -> Question:
    """The question that was sent, asked now: the time is that of who looks."""
    return Question(
        identifier=Identifier(type=message.identifier_type, value=message.identifier_value), wildcard=message.wildcard,
        method=message.method, token=message.token, thumbprint=message.thumbprint, account_url=message.account_url,
        persist=message.persist, subdomains=message.subdomains is True, now=now)


class Failure(_Message, frozen=True, kw_only=True):
    """Why a perspective does not confirm; as ValidationFailure."""

    type: FailureType
    detail: _Printable
    transient: bool


class Finding(_Message, frozen=True, kw_only=True):
    """What the perspective of that name found: no failure means that it confirms. `evidence` is how it knows."""

    version: Literal[1] = 1
    perspective: _Name
    failure: Failure | None
    evidence: dict[str, Any]


class Health(_Message, frozen=True, kw_only=True):
    """The answer to a probe."""

    perspective: _Name


_QUESTION: Final = msgspec.json.Decoder(QuestionMessage)
_FINDING: Final = msgspec.json.Decoder(Finding)
_HEALTH: Final = msgspec.json.Decoder(Health)
encode = msgspec.json.encode


class MessageError(Exception):
    """The other side sent something else than the protocol says; the text says what, without repeating it."""


def decode_question(body: bytes) -> QuestionMessage:
    """The question of a request's body. Raises MessageError."""
    return _decode(_QUESTION, body)


def decode_finding(body: bytes) -> Finding:
    """The finding of a response's body. Raises MessageError."""
    return _decode(_FINDING, body)


def decode_health(body: bytes) -> Health:
    """The answer to a probe. Raises MessageError."""
    return _decode(_HEALTH, body)


def _decode(decoder: "msgspec.json.Decoder[_MessageT]", body: bytes) -> _MessageT:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as fault:
        raise MessageError(str(fault)[:200]) from fault
