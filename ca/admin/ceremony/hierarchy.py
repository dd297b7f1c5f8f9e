"""From a plan and public keys to signed CA certificates and CRLs, in order: roots, cross-signs, intermediates, CRLs.

The same code runs twice: as a rehearsal with throw-away keys before any key is generated, and for real.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from ca.admin.ceremony.lint import LintType
from ca.admin.ceremony.plan import REASONS, CeremonyPlan, CrossSignPlan, IntermediatePlan, RootPlan
from ca.admin.ceremony.result import CaCertificate, CaCrl, Role
from ca.pki.ca_certificate import CaUrls, ca_subject, tbs_cross, tbs_intermediate, tbs_root
from ca.pki.ca_crl import tbs_ca_crl
from ca.pki.crl import CrlEntry, ca_issuers_url, crl_number, slug
from ca.pki.issuer import Issuer, read_issuer
from ca.pki.serial import serial_number
from ca.pki.validity import Validity

# BR 7.1.2.1.1: notBefore is at most one day before the signature. Some hours help clients with slow clocks, and leaves
# whose notBefore is an hour back are not older than their issuer.
_BACKDATE: Final = timedelta(hours=6)


class Sign(Protocol):
    """Signs a TBS with the key of the root `signer` and returns the whole object, DER."""

    def __call__(self, signer: str, tbs: bytes, kind: LintType, what: str) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """Certificates of earlier ceremonies that the plan names, DER."""

    roots: Mapping[str, bytes]                          # by common name
    cross_signs: Mapping[tuple[str, str], bytes]        # by (subject, issuer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """Every certificate and CRL of a plan, signed."""

    roots: tuple[CaCertificate, ...]
    cross_signs: tuple[CaCertificate, ...]
    intermediates: tuple[CaCertificate, ...]
    crls: tuple[CaCrl, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Builds the hierarchy of `plan` as of `held_at`; `spkis` has the public key of everything that is made."""

    plan: CeremonyPlan
    existing: Existing
    spkis: Mapping[str, bytes]
    held_at: datetime
    random_bytes: Callable[[int], bytes]
    sign: Sign

    def build(self) -> Hierarchy:
        """Everything, or an exception of the profile, of the linter or of the token."""
        roots = tuple(self._root(each) for each in self.plan.roots)
        issuers = {root.name: read_issuer(root.certificate) for root in roots}
        return Hierarchy(
            roots=roots,
            cross_signs=tuple(self._cross(each, issuers) for each in self.plan.cross_signs),
            intermediates=tuple(self._intermediate(each, issuers) for each in self.plan.intermediates),
            crls=tuple(self._crl(each, issuers[each.common_name]) for each in self.plan.roots),
        )

    def _root(self, root: RootPlan) -> CaCertificate:
        name = root.common_name
        certificate = self.existing.roots.get(name)
        if certificate is None:
            tbs = tbs_root(subject_der=self._subject(name), spki_der=self.spkis[name], serial=self._serial(),
                           validity=self._validity(root.valid_days))
            certificate = self.sign(name, tbs, LintType.ROOT, f"root {name!r}")
        return _described(certificate, name, slug(name), "root", name)

    def _cross(self, cross: CrossSignPlan, issuers: Mapping[str, Issuer]) -> CaCertificate:
        certificate = self.existing.cross_signs.get((cross.subject, cross.issuer))
        if certificate is None:
            issuer = issuers[cross.issuer]
            tbs = tbs_cross(issuer=issuer, existing=issuers[cross.subject], serial=self._serial(),
                            validity=self._validity(cross.valid_days, issuer), urls=self._urls(cross.issuer))
            certificate = self.sign(cross.issuer, tbs, LintType.CROSS,
                                    f"root {cross.subject!r} as cross-signed by {cross.issuer!r}")
        return _described(certificate, cross.subject, slug(f"{cross.subject} by {cross.issuer}"), "cross",
                          cross.issuer)

    def _intermediate(self, each: IntermediatePlan, issuers: Mapping[str, Issuer]) -> CaCertificate:
        issuer = issuers[each.issuer]
        tbs = tbs_intermediate(
            issuer=issuer, subject_der=self._subject(each.common_name), spki_der=self.spkis[each.common_name],
            serial=self._serial(), validity=self._validity(each.valid_days, issuer), urls=self._urls(each.issuer),
            signs_ocsp=each.signs_ocsp)
        certificate = self.sign(each.issuer, tbs, LintType.INTERMEDIATE, f"intermediate {each.common_name!r}")
        return _described(certificate, each.common_name, slug(each.common_name), "intermediate", each.issuer,
                          each.crl_shards)

    def _crl(self, root: RootPlan, issuer: Issuer) -> CaCrl:
        name = root.common_name
        this_update = self.held_at.replace(microsecond=0)
        tbs = tbs_ca_crl(
            issuer=issuer, number=crl_number(self.held_at), this_update=this_update,
            next_update=this_update + timedelta(days=self.plan.crl_days, seconds=-1),
            entries=[CrlEntry(serial=bytes.fromhex(revoked.serial), reason=REASONS[revoked.reason],
                              revoked_at=revoked.revoked_at.replace(microsecond=0)) for revoked in root.revoked])
        der = self.sign(name, tbs, LintType.ROOT_CRL, f"CRL of root {name!r}, {len(root.revoked)} entries")
        return CaCrl(root=name, slug=slug(name), der=der)

    def _subject(self, common_name: str) -> bytes:
        return ca_subject(country=self.plan.country, organization=self.plan.organization, common_name=common_name)

    def _serial(self) -> bytes:
        return serial_number(self.held_at, self.random_bytes(16))

    def _validity(self, days: int, issuer: Issuer | None = None) -> Validity:
        not_before = (self.held_at - _BACKDATE).replace(microsecond=0)
        if issuer is not None:
            not_before = max(not_before, issuer.validity.not_before)
        return Validity(not_before=not_before, not_after=not_before + timedelta(days=days, seconds=-1))

    def _urls(self, issuer: str) -> CaUrls:
        """AIA and CRL URL of what the root `issuer` signs."""
        return CaUrls(ca_issuers=ca_issuers_url(self.plan.aia_base_url, issuer),
                      crl=f"{self.plan.crl_base_url}/{slug(issuer)}.crl")


def _described(
    certificate: bytes, name: str, file_slug: str, role: Role, issuer: str, crl_shards: int = 0
) -> CaCertificate:
    return CaCertificate(name=name, slug=file_slug, role=role, issuer=issuer, crl_shards=crl_shards,
                         key_type=read_issuer(certificate).key_type, certificate=certificate)
