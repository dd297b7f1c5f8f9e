"""What a ceremony made, as values: read by the database import, by the demo, and by `ceremony show`."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

Role = Literal["root", "cross", "intermediate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaCertificate:
    """A CA certificate: the common name of its subject, and the name of its file and of its URL without extension."""

    name: str
    slug: str
    role: Role
    issuer: str                         # common name
    key_type: Literal["rsa", "ec"]
    crl_shards: int                     # 0 but for intermediates
    certificate: bytes                  # DER

    @property
    def pem(self) -> str:
        """PEM of the certificate."""
        return pem_of(self.certificate)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaCrl:
    """The CRL of a root."""

    root: str
    slug: str
    der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CeremonyResult:
    """A released ceremony. What existed before and was named in the plan is in it, too."""

    directory: Path
    title: str
    held_at: datetime
    roots: tuple[CaCertificate, ...]
    cross_signs: tuple[CaCertificate, ...]
    intermediates: tuple[CaCertificate, ...]
    crls: tuple[CaCrl, ...]
    manifest_sha256: str

    @property
    def certificates(self) -> tuple[CaCertificate, ...]:
        """All of them: roots, cross-signed certificates, intermediates."""
        return self.roots + self.cross_signs + self.intermediates

    @property
    def roots_pem(self) -> str:
        """What a client trusts: every root."""
        return "".join(root.pem for root in self.roots)

    def chains(self, intermediate: CaCertificate) -> list[list[bytes]]:
        """Chains to offer above a leaf, the root left out: through each cross-sign of its root first, then without.

        The first is the default, which more clients trust; the others are alternates (RFC 8555 7.4.2).
        """
        crossed = [cross.certificate for cross in self.cross_signs if cross.name == intermediate.issuer]
        return [[intermediate.certificate, cross] for cross in crossed] + [[intermediate.certificate]]


def pem_of(certificate_der: bytes) -> str:
    """PEM of a certificate."""
    return x509.load_der_x509_certificate(certificate_der).public_bytes(Encoding.PEM).decode("ascii")
