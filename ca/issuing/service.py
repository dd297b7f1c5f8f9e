"""Certificates of our own services, such as the front end's TLS certificate.

No account asks for them and nobody validates them: the CA signs them for names that its own configuration lists, so a
captured front end can get one for itself and for nothing else. Only here a name may have a single label. A publicly
trusted CA has none of them: there every name is validated, our own too (BR 3.2.2.4).
"""

from ca.issuing.grant import Grant, read_csr
from ca.issuing.policy import IssuancePolicy
from ca.pki.profile import TLSSERVER
from ca.pki.refusal import Refusal, RefusalReason


def judge_service(request_id: bytes, csr_der: bytes, policy: IssuancePolicy) -> Grant:
    """The right to a service certificate. Raises Refusal unless every name is one of `ca.service_names`, and always
    under the public policy."""
    if policy.names.public:
        raise Refusal(RefusalReason.REJECTED_IDENTIFIER,
                      "the public policy certifies no name without validation, not even one of this CA's own")
    csr = read_csr(csr_der, single_label=True)
    foreign = csr.names - policy.service_names
    if foreign:
        raise Refusal(RefusalReason.REJECTED_IDENTIFIER,
                      f"not among ca.service_names: {', '.join(sorted(name.value for name in foreign))}")
    return Grant(request_id=request_id, account_id=None, identifiers=tuple(sorted(csr.names)), key=csr.key,
                 profile=TLSSERVER)
