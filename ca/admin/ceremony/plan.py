"""The plan of a ceremony: one TOML file that says everything before anything is done (spec/pki.md 8.4).

What exists already (a root of an earlier ceremony, a cross-signed certificate) is named by its file; everything else is
made. A plan is checked as a whole before a key is: names, lengths of life, key types, who signs whom.
"""

import tomllib
from collections.abc import Callable
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from ca.admin.ceremony.errors import PlanError
from ca.pki.crl import slug
from ca.process.decoding import explain
from ca.process.settings import HsmSettings

DEMO_PLAN = "demo_plan.toml"
_KEYS = Literal["rsa-2048", "rsa-3072", "rsa-4096", "p-256", "p-384"]
_ROOT_KEYS = ("rsa-4096", "p-384")
_LONGEST_CRL_DAYS = 365
# RFC 5280 5.3.1 as far as BR 7.2.2 lets them stand for a CA certificate.
REASONS = {"keyCompromise": 1, "cACompromise": 2, "affiliationChanged": 3, "superseded": 4, "cessationOfOperation": 5,
           "privilegeWithdrawn": 9}


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class RevokedPlan(_Part, frozen=True, kw_only=True):
    """A CA certificate that this root revokes: its serial number in hexadecimal, since when, and why."""

    serial: str
    revoked_at: datetime
    reason: Literal["keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
                    "privilegeWithdrawn"]


class AcceptedFinding(_Part, frozen=True, kw_only=True):
    """A finding of the linter that does not stop this ceremony, and why; both are in the transcript."""

    code: str
    reason: str


class RootPlan(_Part, frozen=True, kw_only=True):
    """A root. With `certificate` it exists already, and its key is in the root token under the common name."""

    common_name: str
    key: _KEYS = "rsa-4096"
    valid_days: int = 3650
    certificate: Path | None = None
    revoked: list[RevokedPlan] = []


class CrossSignPlan(_Part, frozen=True, kw_only=True):
    """The root `subject`, signed by the root `issuer` as well. With `certificate` that was done before."""

    subject: str
    issuer: str
    valid_days: int = 1825
    certificate: Path | None = None


class IntermediatePlan(_Part, frozen=True, kw_only=True):
    """An issuing CA. Its key is generated in the online token, labelled with the common name."""

    common_name: str
    key: _KEYS
    issuer: str
    valid_days: int = 1095
    crl_shards: int
    signs_ocsp: bool = True


class CeremonyPlan(_Part, frozen=True, kw_only=True):
    """Everything that one ceremony makes. A `demonstration` may have small root keys and is run without questions."""

    title: str
    demonstration: bool = False
    country: str
    organization: str
    aia_base_url: str
    crl_base_url: str
    crl_days: int = _LONGEST_CRL_DAYS - 1
    roots: list[RootPlan]
    cross_signs: list[CrossSignPlan] = []
    intermediates: list[IntermediatePlan] = []
    accepted_findings: list[AcceptedFinding] = []
    root_hsm: HsmSettings | None = None
    online_hsm: HsmSettings | None = None

    def root(self, common_name: str) -> RootPlan:
        """The root of this name; a checked plan has it."""
        return next(root for root in self.roots if root.common_name == common_name)


def load_plan(path: Path) -> tuple[CeremonyPlan, bytes]:
    """The checked plan of a file, and the file's bytes. Relative paths count from the file. Raises PlanError."""
    try:
        text = path.read_bytes()
    except OSError as fault:
        raise PlanError(f"{path}: cannot be read: {fault.strerror}") from fault
    return parse_plan(text, str(path), path.resolve().parent), text


def load_demo_plan(*, aia_base_url: str, crl_base_url: str) -> CeremonyPlan:
    """The plan of `chancery demo`: two roots, one cross-signed by the other, an RSA and an EC issuing CA."""
    text = resources.files(__package__).joinpath(DEMO_PLAN).read_bytes()
    plan = parse_plan(text, DEMO_PLAN, Path())
    return msgspec.structs.replace(plan, aia_base_url=aia_base_url, crl_base_url=crl_base_url)


def parse_plan(text: bytes, source: str, base: Path) -> CeremonyPlan:
    """The checked plan of TOML text. Raises PlanError."""
    try:
        document = tomllib.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise PlanError(f"{source}: not TOML: {fault}") from fault

    def decode(kind: type, value: Any) -> Any:
        if kind is Path and isinstance(value, str):
            return base / value
        raise TypeError(f"Expected `{kind.__name__}`")

    try:
        plan = msgspec.convert(document, CeremonyPlan, dec_hook=decode, strict=True)
    except msgspec.ValidationError as fault:
        raise PlanError(f"{source}: {explain(fault, CeremonyPlan)}") from fault
    require_sensible(plan, source)
    return plan


def require_sensible(plan: CeremonyPlan, source: str) -> None:
    """Returns when the plan fits together. Raises PlanError for the first thing that does not."""

    def require(holds: bool, key: str, form: str) -> None:
        if not holds:
            raise PlanError(f"{source}: {key}: {form}")

    require(bool(plan.title.strip()), "title", "expected a line that says what this ceremony is for")
    for key, url in (("aia_base_url", plan.aia_base_url), ("crl_base_url", plan.crl_base_url)):
        require(url.startswith("http://") and not url.endswith("/") and url.isascii(), key,
                f"expected an http:// URL without a slash at its end (BR 7.1.2.11.2), got {url!r}")
    for accepted in plan.accepted_findings:
        require(bool(accepted.reason.strip()), f"accepted_findings: {accepted.code}: reason", "expected a reason")
    require(1 <= plan.crl_days <= _LONGEST_CRL_DAYS - 1, "crl_days",
            f"expected 1 to {_LONGEST_CRL_DAYS - 1} days (BR 4.9.7: less than 12 months), got {plan.crl_days}")
    require(bool(plan.roots), "roots", "expected at least one root: what is made, or the certificate of what exists")
    names = [root.common_name for root in plan.roots] + [each.common_name for each in plan.intermediates]
    for name in names:
        require(bool(slug(name)) and names.count(name) == 1 and sum(slug(other) == slug(name) for other in names) == 1,
                "common_name", f"expected a name that differs from all others in letters or digits, got {name!r}")
    if plan.root_hsm is not None and plan.online_hsm is not None:
        require_two_tokens(plan.root_hsm, plan.online_hsm, source)
    _require_roots(plan, require)
    _require_cross_signs(plan, require)
    _require_intermediates(plan, require)


def require_two_tokens(root_hsm: HsmSettings, online_hsm: HsmSettings, source: str) -> None:
    """Raises PlanError when root keys and online keys would be in the same token."""
    if (root_hsm.module, root_hsm.conf, root_hsm.token_label) == (
            online_hsm.module, online_hsm.conf, online_hsm.token_label):
        raise PlanError(f"{source}: online_hsm: expected another token than root_hsm: root keys stay offline")


_Require = Callable[[bool, str, str], None]


def _require_roots(plan: CeremonyPlan, require: _Require) -> None:
    for root in plan.roots:
        require(plan.demonstration or root.key in _ROOT_KEYS, f"roots: {root.common_name}: key",
                f"expected one of {', '.join(_ROOT_KEYS)}, got {root.key!r} (smaller ones in a demonstration alone)")
        for revoked in root.revoked:
            require(_is_serial(revoked.serial), f"roots: {root.common_name}: revoked: serial",
                    f"expected 36 lower-case hexadecimal digits, got {revoked.serial!r}")
            require(revoked.revoked_at.tzinfo is not None, f"roots: {root.common_name}: revoked: revoked_at",
                    "expected a time with its offset, such as 2026-11-24T12:00:00Z")


def _require_cross_signs(plan: CeremonyPlan, require: _Require) -> None:
    roots = {root.common_name for root in plan.roots}
    pairs = [(cross.subject, cross.issuer) for cross in plan.cross_signs]
    for subject, issuer in pairs:
        place = f"cross_signs: {subject} by {issuer}"
        require(subject in roots and issuer in roots, place, "expected two roots of this plan")
        require(subject != issuer and pairs.count((subject, issuer)) == 1, place,
                "expected two different roots, once each way")


def _require_intermediates(plan: CeremonyPlan, require: _Require) -> None:
    for each in plan.intermediates:
        place = f"intermediates: {each.common_name}"
        require(any(root.common_name == each.issuer for root in plan.roots), f"{place}: issuer",
                f"expected a root of this plan, got {each.issuer!r}")
        require(1 <= each.crl_shards <= 32_767, f"{place}: crl_shards",
                f"expected a number from 1 to 32767, got {each.crl_shards}")


def _is_serial(text: str) -> bool:
    return len(text) == 36 and set(text) <= set("0123456789abcdef") and text[:2] != "00"
