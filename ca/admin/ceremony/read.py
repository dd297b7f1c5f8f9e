"""A released ceremony, read back and verified: hashes, modes, signatures, chains."""

from datetime import datetime
from pathlib import Path

import msgspec

from ca.admin.ceremony.checks import require_certificate, require_crl, require_cross
from ca.admin.ceremony.errors import CheckError, OutputError
from ca.admin.ceremony.hierarchy import Hierarchy
from ca.admin.ceremony.outputs import INDEX, manifest_sha256, verify_files
from ca.admin.ceremony.result import CaCertificate, CaCrl, CeremonyResult, Role


class _Certificate(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    slug: str
    role: Role
    issuer: str
    key_type: str
    crl_shards: int


class _Crl(msgspec.Struct, frozen=True, kw_only=True):
    root: str
    slug: str


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    held_at: datetime
    certificates: list[_Certificate]
    crls: list[_Crl]


def read_ceremony(directory: Path) -> CeremonyResult:
    """What was released in this directory. Raises OutputError with every fault when it is not that any more."""
    faults, result = check_ceremony(directory)
    if result is None:
        raise OutputError(f"{directory} is not what a ceremony released: {'; '.join(faults)}")
    return result


def check_ceremony(directory: Path) -> tuple[list[str], CeremonyResult | None]:
    """Every fault as one line, and the result when there is none."""
    faults = list(verify_files(directory))
    if faults:
        return faults, None
    try:
        result = _read(directory)
        verify_signatures(result)
    except (OSError, ValueError, KeyError, msgspec.MsgspecError, CheckError) as fault:
        return [f"{type(fault).__name__}: {fault}"], None
    return [], result


def verify_signatures(result: CeremonyResult | Hierarchy) -> None:
    """Returns when everything verifies under its issuer, each cross-sign beside its root. Raises CheckError."""
    roots = {root.name: root.certificate for root in result.roots}
    for each in (*result.roots, *result.cross_signs, *result.intermediates):
        require_certificate(each.certificate, roots[each.issuer])
    for cross in result.cross_signs:
        require_cross(cross.certificate, roots[cross.name])
        for each in result.intermediates:
            if each.issuer == cross.name:
                require_certificate(each.certificate, cross.certificate)
    for crl in result.crls:
        require_crl(crl.der, roots[crl.root])


def _read(directory: Path) -> CeremonyResult:
    index = msgspec.json.decode((directory / INDEX).read_bytes(), type=_Index)
    certificates = [
        CaCertificate(name=each.name, slug=each.slug, role=each.role, issuer=each.issuer,
                      key_type="rsa" if each.key_type == "rsa" else "ec", crl_shards=each.crl_shards,
                      certificate=(directory / "certificates" / f"{each.slug}.crt").read_bytes())
        for each in index.certificates]
    return CeremonyResult(
        directory=directory, title=index.title, held_at=index.held_at,
        roots=tuple(each for each in certificates if each.role == "root"),
        cross_signs=tuple(each for each in certificates if each.role == "cross"),
        intermediates=tuple(each for each in certificates if each.role == "intermediate"),
        crls=tuple(CaCrl(root=crl.root, slug=crl.slug, der=(directory / "crls" / f"{crl.slug}.crl").read_bytes())
                   for crl in index.crls),
        manifest_sha256=manifest_sha256(directory))
