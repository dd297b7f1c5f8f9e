"""Proof that a private key is lost: a certification request, signed by the key, whose common name says so.

Whoever can sign such a sentence holds the key, and nobody signs it by mistake (BR 4.9.12 has a CA list what it takes).
The request holds no secret, so the proof can be stored and looked at again.
"""

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

SENTENCES: Final = ("This key is compromised", "The key that signed this CSR has been publicly disclosed")


class NoRequestError(Exception):
    """These bytes are no certification request."""


class NoProofError(Exception):
    """The request proves nothing; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenLoss:
    """A key (DER of its SubjectPublicKeyInfo) that is lost by its own word."""

    spki: bytes
    sentence: str


def proven_loss(data: bytes) -> ProvenLoss:
    """What a certification request, DER or PEM, proves. Raises NoRequestError or NoProofError."""
    try:
        load = x509.load_pem_x509_csr if data.lstrip().startswith(b"-----") else x509.load_der_x509_csr
        request = load(data)
        names = [str(name.value) for name in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise NoRequestError("this is no certification request") from fault
    if not signed:
        raise NoProofError("its signature is not the key's: it proves nothing")
    for name in names:
        if name in SENTENCES:
            return ProvenLoss(spki=spki, sentence=name)
    raise NoProofError("its common name is not one of the sentences that prove the loss of a key: "
                       + ", ".join(repr(sentence) for sentence in SENTENCES))
