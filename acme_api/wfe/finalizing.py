"""What a finalize request is read with: its order, and the validations that the CA will look for behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from acme_api.protocol.order import Order
from ca.process.postgres import Record

# Columns of the authorizations `u`, with validations `v`, of an order: for each of its identifiers the name whose CAA
# records count, when it is not the validated one (one above it was), and when CAA was last found to permit.
CONTROLS: Final = """,
    array_agg(v.authorization_id ORDER BY u.position) AS validated_ids,
    array_agg(v.thumbprint ORDER BY u.position) AS thumbprints, array_agg(n.caa_name ORDER BY u.position) AS caa_names,
    array_agg(greatest(CASE WHEN n.caa_name = '' THEN v.caa_checked_at END, (
        SELECT max(k.checked_at) FROM caa_checks k
        WHERE k.authorization_id = v.authorization_id AND k.caa_name = n.caa_name AND k.problem IS NULL
    )) ORDER BY u.position) AS caa_looks
"""
CAA_NAMES: Final = """
CROSS JOIN LATERAL (
    SELECT CASE WHEN o.identifier_values[u.position] = CASE WHEN v.wildcard THEN '*.' ELSE '' END || v.identifier_value
        THEN '' ELSE o.identifier_values[u.position] END AS caa_name) AS n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A validation that stands behind an identifier of an order, and when CAA was last found to permit. `caa_name`: the
    identifier, when the authorization is for a domain above it; "": the authorization's own name."""

    authorization_id: bytes
    caa_name: str
    identifier_type: str
    challenge_type: str
    thumbprint: bytes
    caa_checked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalizing:
    """An order that is asked to be finalized, and the validations behind it as far as there are any."""

    order: Order
    controls: tuple[Control, ...]


def controls_of(row: Record, order: Order) -> tuple[Control, ...]:
    """The validations in a row with CONTROLS."""
    columns: Sequence[Sequence[Any]] = [row[name] for name in (
        "validated_ids", "methods", "thumbprints", "caa_names", "caa_looks")]
    return tuple(
        Control(authorization_id=authorization_id, caa_name=caa_name, identifier_type=identifier.type,
                challenge_type=method, thumbprint=thumbprint, caa_checked_at=caa_checked_at)
        for identifier, authorization_id, method, thumbprint, caa_name, caa_checked_at in zip(
            order.identifiers, *columns, strict=True) if authorization_id is not None)
