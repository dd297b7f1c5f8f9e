"""One ceremony, from a plan to released files: rehearse, generate, sign, verify, release.

The tokens are opened one after the other, the root token once and for as short as can be: a process has one PKCS#11
module session (`hsm.token`), and stopping the module between two configurations was measured to be sound. Only public
keys pass from the online token to the signing by the roots.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.admin.ceremony.checks import require_certificate, require_cross
from ca.admin.ceremony.errors import CheckError, PlanError
from ca.admin.ceremony.hierarchy import Builder, Existing, Hierarchy, Sign
from ca.admin.ceremony.lint import LintType, require_clean
from ca.admin.ceremony.outputs import INDEX, KeyRecord, Outputs
from ca.admin.ceremony.plan import CeremonyPlan, require_sensible, require_two_tokens
from ca.admin.ceremony.read import verify_signatures
from ca.admin.ceremony.result import CaCertificate, CeremonyResult
from ca.admin.ceremony.stand_in import StandIn, kind_of
from ca.pki.ca_certificate import CaCertificateError
from ca.pki.ca_crl import CaCrlError
from ca.pki.issuer import read_issuer
from ca.pki.tbs import assemble
from ca.process.ambient import Ambient
from ca.process.settings import HsmSettings
from hsm.errors import KeyGenerationError
from hsm.generate import KeySpec, generate_key
from hsm.key import HsmPrivateKey, private_key, sign_many
from hsm.token import Token

_KEY_ID_BYTES = 16
Progress = Callable[[str], None]


def run_ceremony(
    plan: CeremonyPlan,
    *,
    out_dir: Path,
    root_hsm: HsmSettings,
    online_hsm: HsmSettings | None,
    ambient: Ambient,
    progress: Progress = lambda _: None,
    operators: Sequence[str] = (),
    inputs: Mapping[str, bytes] | None = None,
) -> CeremonyResult:
    """Holds the ceremony and returns what was released in `out_dir`, which must not exist.

    `operators` are the people who gave the command, `inputs` the files they gave (name -> bytes); both are in the
    transcript. `online_hsm` is None when there are no intermediates to make. Synchronous, and to be called in one
    thread: it uses the tokens. Raises RefusedError for a second run, another CeremonyError or HsmError when something
    is wrong; then nothing is released.
    """
    require_sensible(plan, "plan")
    if online_hsm is not None:
        require_two_tokens(root_hsm, online_hsm, "plan")
    elif plan.intermediates:
        raise PlanError("plan: online_hsm: expected the token that will hold the keys of the intermediates")
    existing, files = _read_existing(plan)
    outputs = Outputs(out_dir, ambient.now)
    act = _Act(plan=plan, existing=existing, root_hsm=root_hsm, online_hsm=online_hsm, ambient=ambient,
               progress=progress, outputs=outputs, stand_ins={}, held_at=ambient.now())
    try:
        act.open_transcript(operators, {**(inputs or {}), **files})
        act.rehearse()
        spkis = act.make_online_keys()
        hierarchy = act.sign_with_roots(spkis)
        act.require_roots_offline(hierarchy)
        act.verify(hierarchy)
        act.write(hierarchy)
        manifest_sha256 = outputs.release()
    except BaseException as fault:
        outputs.log(f"FAILED: {type(fault).__name__}: {fault}")
        raise
    progress(f"released {out_dir}")
    return _result(out_dir, plan, act.held_at, hierarchy, manifest_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Act:
    """The steps, each of which says what it does to the people and to the transcript."""

    plan: CeremonyPlan
    existing: Existing
    root_hsm: HsmSettings
    online_hsm: HsmSettings | None
    ambient: Ambient
    progress: Progress
    outputs: Outputs
    stand_ins: dict[str, StandIn]
    held_at: datetime

    def open_transcript(self, operators: Sequence[str], inputs: Mapping[str, bytes]) -> None:
        """Who, with what, of which version; every input and its hash."""
        log = self.outputs.log
        log(f"ceremony {self.plan.title!r}")
        log(f"tool chancery {metadata.version('chancery')}, python {platform.python_version()}, cryptography "
            f"{metadata.version('cryptography')}, pkilint {metadata.version('pkilint')}")
        log("operators " + (", ".join(operators) or "none: a demonstration"))
        for name, content in inputs.items():
            log(f"input {name} sha256 {hashlib.sha256(content).hexdigest()}")
            self.outputs.write(f"inputs/{name}", content)
        for each in self.plan.accepted_findings:
            log(f"lint finding {each.code} is accepted: {each.reason}")
        self.outputs.write("plan.json", msgspec.json.format(
            msgspec.json.encode(self.plan, enc_hook=str), indent=2) + b"\n")

    def rehearse(self) -> None:
        """The whole hierarchy with throw-away keys: what is wrong with the plan shows before a key is made."""
        self._say("rehearsing the plan with throw-away keys")
        kinds = {root.common_name: root.key for root in self.plan.roots} | {
            each.common_name: each.key for each in self.plan.intermediates}
        for name, certificate in self.existing.roots.items():
            if kinds[name] != (kind := kind_of(read_issuer(certificate).spki_der)):
                raise PlanError(f"plan: roots: {name}: key: the certificate has {kind}, the plan says {kinds[name]}")
        self.stand_ins.update({name: StandIn(kind) for name, kind in kinds.items()})

        def sign(signer: str, tbs: bytes, kind: LintType, what: str) -> bytes:
            return self._linted_with_stand_in(signer, tbs, kind)

        try:
            self._builder({name: key.spki for name, key in self.stand_ins.items()}, sign).build()
        except (CaCertificateError, CaCrlError) as fault:
            raise PlanError(f"plan: {fault}") from fault
        self.outputs.log("rehearsal ok: every certificate and CRL of the plan is lint-clean")

    def make_online_keys(self) -> dict[str, bytes]:
        """Keys of the intermediates, in the online token. Their public halves are all that leaves this step."""
        if not self.plan.intermediates or self.online_hsm is None:
            return {}
        with _open(self.online_hsm) as token:
            self._log_token("online", token)
            self._require_free(token, "online", [each.common_name for each in self.plan.intermediates])
            return {each.common_name: self._generate(token, "online", each.common_name, each.key).spki
                    for each in self.plan.intermediates}

    def sign_with_roots(self, online_spkis: Mapping[str, bytes]) -> Hierarchy:
        """Opens the root token, makes or finds the roots' keys, and signs everything."""
        with _open(self.root_hsm) as token:
            self._log_token("root", token)
            new = [root for root in self.plan.roots if root.common_name not in self.existing.roots]
            self._require_free(token, "root", [root.common_name for root in new])
            keys = {name: private_key(token, name, expected_spki=read_issuer(certificate).spki_der)
                    for name, certificate in self.existing.roots.items()}
            for root in new:
                keys[root.common_name] = self._generate(token, "root", root.common_name, root.key)

            def sign(signer: str, tbs: bytes, kind: LintType, what: str) -> bytes:
                return self._signed(keys[signer], signer, tbs, kind, what)

            return self._builder({**online_spkis, **{name: key.spki for name, key in keys.items()}}, sign).build()

    def require_roots_offline(self, hierarchy: Hierarchy) -> None:
        """The online token shows no root's key."""
        if self.online_hsm is None:
            return
        with _open(self.online_hsm) as token:
            token.require_without([read_issuer(root.certificate).spki_der for root in hierarchy.roots])
        self.outputs.log("the online token holds no key of a root")

    def verify(self, hierarchy: Hierarchy) -> None:
        """Every signature and every pair, from the bytes that will be released."""
        self._say("verifying every signature and chain")
        verify_signatures(hierarchy)
        self.outputs.log("verified: every certificate and CRL under its issuer, every cross-sign beside its root")

    def write(self, hierarchy: Hierarchy) -> None:
        """The files that leave the room."""
        certificates = (*hierarchy.roots, *hierarchy.cross_signs, *hierarchy.intermediates)
        for each in certificates:
            self.outputs.write(f"certificates/{each.slug}.crt", each.certificate)
            self.outputs.write(f"certificates/{each.slug}.pem", each.pem.encode())
        for crl in hierarchy.crls:
            self.outputs.write(f"crls/{crl.slug}.crl", crl.der)
        self.outputs.write("roots.pem", "".join(root.pem for root in hierarchy.roots).encode())
        index = {
            "title": self.plan.title,
            "held_at": self.held_at,
            "certificates": [_indexed(each) for each in certificates],
            "crls": [{"root": crl.root, "slug": crl.slug} for crl in hierarchy.crls],
        }
        self.outputs.write(INDEX, msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n")

    def _builder(self, spkis: Mapping[str, bytes], sign: Sign) -> Builder:
        return Builder(plan=self.plan, existing=self.existing, spkis=spkis, held_at=self.held_at,
                       random_bytes=self.ambient.random_bytes, sign=sign)

    def _generate(self, token: Token, place: str, label: str, kind: str) -> HsmPrivateKey:
        self._say(f"generating {kind} key {label!r} in the {place} token"
                  + (" (this takes some seconds)" if kind == "rsa-4096" else ""))
        key_id = self.ambient.random_bytes(_KEY_ID_BYTES)
        self.outputs.log_key(KeyRecord(token=place, label=label, key_id=key_id.hex()))
        key = generate_key(token, label=label, key_id=key_id, spec=KeySpec(kind))
        self.outputs.log(f"generated {kind} key {label!r} id {key_id.hex()} in the {place} token; attributes read "
                         f"back; public key sha256 {hashlib.sha256(key.spki).hexdigest()}")
        return key

    def _signed(self, key: HsmPrivateKey, signer: str, tbs: bytes, kind: LintType, what: str) -> bytes:
        """Lint under a throw-away signature, the intent on the disk, the signature, lint of the very object."""
        self._linted_with_stand_in(signer, tbs, kind)
        self._say(f"signing {what}")
        self.outputs.log(f"tbs of {what} sha256 {hashlib.sha256(tbs).hexdigest()}, lint ok, signing with {signer!r}")
        der = assemble(tbs, sign_many(key, [tbs])[0])
        remarks = require_clean(der, kind, self._accepted)
        said = ", ".join(f"{'accepted ' if remark.is_objection else ''}{remark.severity} {remark.code}"
                         for remark in remarks) or "no remark"
        self.outputs.log(f"signed {what}, sha256 {hashlib.sha256(der).hexdigest()}, lint ok: {said}")
        return der

    def _linted_with_stand_in(self, signer: str, tbs: bytes, kind: LintType) -> bytes:
        der = assemble(tbs, self.stand_ins[signer].sign(tbs))
        require_clean(der, kind, self._accepted)
        return der

    @property
    def _accepted(self) -> frozenset[str]:
        return frozenset(each.code for each in self.plan.accepted_findings)

    @staticmethod
    def _require_free(token: Token, place: str, labels: Sequence[str]) -> None:
        """Before the first key is made, not between two."""
        taken = {key.label for key in token.list_keys()} & set(labels)
        if taken:
            raise KeyGenerationError(f"the {place} token has a key labelled {', '.join(sorted(taken))} already: use an "
                                     "empty token or other names; destroy keys that no certificate belongs to")

    def _log_token(self, place: str, token: Token) -> None:
        info = token.info
        self.outputs.log(
            f"{place} token {info.token_label!r}: module {info.module}, {info.library} {info.library_version}, model "
            f"{info.manufacturer} {info.model}, serial {info.serial}, firmware {info.firmware_version}")

    def _say(self, text: str) -> None:
        self.outputs.log(text)
        self.progress(text)


def _open(settings: HsmSettings) -> Token:
    return Token.open(module=settings.module, conf=settings.conf, token_label=settings.token_label,
                      pin_file=settings.pin_file, writable=True)


def _result(
    directory: Path, plan: CeremonyPlan, held_at: datetime, hierarchy: Hierarchy, manifest_sha256: str
) -> CeremonyResult:
    return CeremonyResult(
        directory=directory, title=plan.title, held_at=held_at, roots=hierarchy.roots,
        cross_signs=hierarchy.cross_signs, intermediates=hierarchy.intermediates, crls=hierarchy.crls,
        manifest_sha256=manifest_sha256)


def _indexed(certificate: CaCertificate) -> dict[str, object]:
    return {"name": certificate.name, "slug": certificate.slug, "role": certificate.role,
            "issuer": certificate.issuer, "key_type": certificate.key_type, "crl_shards": certificate.crl_shards}


def _read_existing(plan: CeremonyPlan) -> tuple[Existing, dict[str, bytes]]:
    """Certificates that the plan names (DER), and their files as they are. Raises PlanError."""
    files: dict[str, bytes] = {}

    def read(path: Path, subject: str, issuer: str) -> bytes:
        try:
            files[path.name] = content = path.read_bytes()
            certificate = (x509.load_pem_x509_certificate(content) if content.startswith(b"-----")
                           else x509.load_der_x509_certificate(content))
        except (OSError, ValueError) as fault:
            raise PlanError(f"plan: certificate: {path} cannot be read: {fault}") from fault
        if (_common_name(certificate.subject), _common_name(certificate.issuer)) != (subject, issuer):
            raise PlanError(f"plan: certificate: {path} is not that of {subject!r} by {issuer!r}")
        return certificate.public_bytes(Encoding.DER)

    roots = {root.common_name: read(root.certificate, root.common_name, root.common_name)
             for root in plan.roots if root.certificate is not None}
    crosses = {(cross.subject, cross.issuer): read(cross.certificate, cross.subject, cross.issuer)
               for cross in plan.cross_signs if cross.certificate is not None}
    for (subject, issuer), der in crosses.items():
        if subject not in roots or issuer not in roots:
            raise PlanError(f"plan: cross_signs: {subject} by {issuer}: it exists, so both roots must (`certificate`)")
        try:
            require_cross(der, roots[subject])
            require_certificate(der, roots[issuer])
        except CheckError as fault:
            raise PlanError(f"plan: cross_signs: {subject} by {issuer}: {fault}") from fault
    return Existing(roots=roots, cross_signs=crosses), files


def _common_name(name: x509.Name) -> str:
    values = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(values[0].value) if len(values) == 1 else ""
