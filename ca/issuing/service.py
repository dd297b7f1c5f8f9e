"""Certificates of our own services: without a challenge, but only for the names in the CA's own configuration."""

from collections.abc import Collection

from ca.issuing.evidence import ProvenOrder
from ca.pki.csr import CsrError, parse_csr
from ca.pki.identifier import general_names
from ca.pki.refusal import Refusal, RefusalReason

SERVICE_PROFILE = "tlsserver"


def require_service(csr_der: bytes, names: Collection[str]) -> ProvenOrder:
    """The request of one of our services. Raises Refusal for a name that the configuration does not list."""
    try:
        csr = parse_csr(csr_der, single_label=True)
    except CsrError as fault:
        raise Refusal(RefusalReason.BAD_CSR, fault.detail) from fault
    foreign = sorted(name.value for name in csr.names if name.type != "dns" or name.value not in names)
    if foreign:
        raise Refusal(RefusalReason.REJECTED_IDENTIFIER,
                      f"[ca] service_names does not list {', '.join(foreign)}")
    return ProvenOrder(identifiers=general_names(csr.names), csr=csr)
