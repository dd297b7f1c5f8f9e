"""A validation that did not succeed: a type of RFC 8555 6.7, a text for the subscriber, and whether to retry."""

from typing import Literal, TypeAlias

FailureType: TypeAlias = Literal[
    "caa", "connection", "dns", "incorrectResponse", "malformed", "serverInternal", "tls", "unauthorized"]


class ValidationFailure(Exception):
    """One try failed. `transient`: the same question may well be answered differently in some seconds (RFC 8555 8.2).

    `detail` goes to the subscriber: it names addresses, phases, codes and lengths, and never what the other side sent.
    """

    def __init__(self, failure_type: FailureType, detail: str, *, transient: bool = False) -> None:
        super().__init__(f"{failure_type}: {detail}")
        self.type = failure_type
        self.detail = detail
        self.transient = transient
