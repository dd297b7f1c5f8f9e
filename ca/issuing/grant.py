"""The right to one certificate, derived from evidence: made in step 2 of the cycle, used up in step 3."""

from dataclasses import dataclass
from datetime import datetime

from ca.pki.csr import Csr, CsrError, CsrFault, parse_csr
from ca.pki.domain_control import StaleCaa
from ca.pki.identifier import Identifier
from ca.pki.profile import Profile
from ca.pki.public_key import CertificateKey
from ca.pki.refusal import Refusal, RefusalReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What may be signed for a request, and for nobody else. `account_id` None: a certificate of our own service."""

    request_id: bytes
    account_id: bytes | None
    identifiers: tuple[Identifier, ...]
    key: CertificateKey
    profile: Profile
    not_before: datetime | None = None
    not_after: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaaIsStale:
    """Not yet a right: these CAA records have to be looked at again."""

    request_id: bytes
    wanted: tuple[StaleCaa, ...]


def read_csr(csr_der: bytes, *, single_label: bool = False) -> Csr:
    """The CSR of a stored request. Raises Refusal; the front end has judged it before, and may have been wrong."""
    try:
        return parse_csr(csr_der, single_label=single_label)
    except CsrError as fault:
        bad_key = fault.reason is CsrFault.KEY
        raise Refusal(RefusalReason.BAD_PUBLIC_KEY if bad_key else RefusalReason.BAD_CSR, fault.detail) from fault
