"""The figures to reach, each against what it is measured with in the same run (design, "Figures to reach")."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on the figure itself or on its ratio to the peer's."""

    of: Literal["value", "ratio"]
    sense: Literal["at least", "at most"]
    bound: float

    def __str__(self) -> str:
        sign = "≥" if self.sense == "at least" else "≤"
        return f"{sign} {self.bound:g}{' ×' if self.of == 'ratio' else ''}"

    def reached(self, value: float | None, ratio: float | None) -> bool | None:
        """None when what it bounds was not measured."""
        measured = value if self.of == "value" else ratio
        if measured is None:
            return None
        return measured >= self.bound if self.sense == "at least" else measured <= self.bound


ORDERS_AT_8_ACCOUNTS = Target(of="ratio", sense="at least", bound=1.0)
FINALIZE_P99_MS = Target(of="value", sense="at most", bound=250.0)
OCSP_GET = Target(of="ratio", sense="at least", bound=0.75)
OCSP_POST = Target(of="ratio", sense="at least", bound=0.5)
FUZZ_MEMORY_MB = Target(of="value", sense="at most", bound=30.0)
CATCH_UP_PER_S = Target(of="value", sense="at least", bound=200_000.0)
FORTY_MILLION_MIN = Target(of="value", sense="at most", bound=25.0)
OCSP_MANY_RESPONSES = Target(of="ratio", sense="at least", bound=0.9)
RESPONDER_MEMORY_MB = Target(of="value", sense="at most", bound=150.0)
OTHERS_BESIDE_HANGING = Target(of="ratio", sense="at most", bound=2.0)
REVOCATION_SEEN_P99_MS = Target(of="value", sense="at most", bound=1000.0)
PRESIGN = Target(of="ratio", sense="at least", bound=0.85)
BYTES_PER_CERTIFICATE = Target(of="value", sense="at most", bound=4096.0)
MILLION_REVOCATIONS_S = Target(of="value", sense="at most", bound=3600.0)
