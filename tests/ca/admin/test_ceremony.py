"""A ceremony makes a whole hierarchy that other people's programs verify, once, and leaves no doubt after a crash."""

import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from ca.admin.ceremony.act import run_ceremony
from ca.admin.ceremony.discard import discard_unfinished
from ca.admin.ceremony.errors import LintError, OutputError, PlanError, RefusedError
from ca.admin.ceremony.outputs import leftover_of
from ca.admin.ceremony.plan import CrossSignPlan, IntermediatePlan, RevokedPlan, parse_plan
from ca.admin.ceremony.read import check_ceremony, read_ceremony
from ca.admin.ceremony.result import CaCertificate
from ca.pki.issuer import read_issuer
from ca.process.ambient import system_ambient
from hsm.errors import ForeignKeyError, KeyGenerationError, PinRefusedError
from hsm.generate import KeySpec, generate_key
from hsm.key import private_key
from tests.fixtures_hsm import DemoCeremony, make_softhsm, quick_plan


def _openssl(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["openssl", *args], capture_output=True, text=True, check=False)


def _file(ceremony: DemoCeremony, certificate: CaCertificate) -> str:
    return str(ceremony.result.directory / "certificates" / f"{certificate.slug}.pem")


@pytest.mark.parametrize("with_crl", [False, True])
def test_openssl_verifies_every_chain(demo_ceremony: DemoCeremony, tmp_path: Path, with_crl: bool) -> None:
    """R1 under X1; E1 under X2; E1 under X1 alone through the cross-signed X2; with the roots' CRLs, too."""
    result = demo_ceremony.result
    x1, x2 = result.roots
    [cross] = result.cross_signs
    r1, e1 = result.intermediates
    extra: list[str] = []
    if with_crl:
        crls = tmp_path / "crls.pem"
        crls.write_text("".join(
            _openssl("crl", "-inform", "DER", "-in", str(path)).stdout
            for path in sorted((result.directory / "crls").iterdir())))
        extra = ["-crl_check_all", "-CRLfile", str(crls)]
    for trusted, untrusted, target in ((x1, None, r1), (x2, None, e1), (x1, cross, e1), (x1, None, cross)):
        between = ["-untrusted", _file(demo_ceremony, untrusted)] if untrusted else []
        done = _openssl("verify", "-x509_strict", "-no-CAfile", "-no-CApath", "-CAfile",
                        _file(demo_ceremony, trusted), *between, *extra, _file(demo_ceremony, target))
        assert done.returncode == 0, done.stderr
    done = _openssl("verify", "-x509_strict", "-no-CAfile", "-no-CApath", "-CAfile", _file(demo_ceremony, x1),
                    _file(demo_ceremony, e1))
    assert done.returncode != 0     # without the cross-sign X1 does not reach E1


def test_fields_of_the_hierarchy(demo_ceremony: DemoCeremony) -> None:
    """Subjects, lives, key identifiers and URLs are those of the plan; the cross-sign stands beside its root."""
    result = demo_ceremony.result
    x1, x2 = (read_issuer(root.certificate) for root in result.roots)
    cross = read_issuer(result.cross_signs[0].certificate)
    assert (cross.subject_der, cross.spki_der, cross.key_id) == (x2.subject_der, x2.spki_der, x2.key_id)
    assert cross.authority_key_id == x1.key_id
    for each, days in zip(result.certificates, (3650, 3650, 1825, 1095, 1095), strict=True):
        certificate = x509.load_der_x509_certificate(each.certificate)
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc + timedelta(seconds=1)
        assert life == timedelta(days=days)
        assert timedelta(0) < result.held_at - certificate.not_valid_before_utc < timedelta(days=1)
        assert certificate.subject.rfc4514_string() == f"CN={each.name},O=Chancery Demo,C=XX"
    r1 = x509.load_der_x509_certificate(result.intermediates[0].certificate)
    [access] = r1.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert access.access_location.value == "http://localhost:14002/chancery-demo-root-x1.crt"
    [point] = r1.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for name in point.full_name or []] == ["http://localhost:14002/chancery-demo-root-x1.crl"]
    assert [crl.slug for crl in result.crls] == ["chancery-demo-root-x1", "chancery-demo-root-x2"]


def test_chains_to_offer(demo_ceremony: DemoCeremony) -> None:
    """RSA: the intermediate alone. EC: through the cross-sign by default, without it as the alternate."""
    result = demo_ceremony.result
    r1, e1 = result.intermediates
    assert result.chains(r1) == [[r1.certificate]]
    assert result.chains(e1) == [[e1.certificate, result.cross_signs[0].certificate], [e1.certificate]]


def test_root_keys_are_not_in_the_online_token(demo_ceremony: DemoCeremony) -> None:
    """Each token holds its own keys alone, and an online process can refuse a token with a root's."""
    roots = {read_issuer(root.certificate).spki_der for root in demo_ceremony.result.roots}
    issuing = {read_issuer(each.certificate).spki_der for each in demo_ceremony.result.intermediates}
    with demo_ceremony.online.open() as token:
        assert token.public_key_spkis() == issuing
        token.require_without(roots)
        for each in demo_ceremony.result.intermediates:
            private_key(token, each.name, expected_spki=read_issuer(each.certificate).spki_der)
    with demo_ceremony.root.open() as token:
        assert token.public_key_spkis() == roots
        with pytest.raises(ForeignKeyError):
            token.require_without(roots)


def test_outputs_are_read_only_hashed_and_complete(demo_ceremony: DemoCeremony) -> None:
    """Every file is mode 0444 and in the manifest, which sha256sum accepts; the transcript has every output's hash."""
    directory = demo_ceremony.result.directory
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o444}
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=directory, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK\n") == len(files) - 1
    transcript = (directory / "transcript.txt").read_text()
    for line in ("tool chancery ", "operators none: a demonstration", "online token 'chancery-online': module ",
                 "root token 'chancery-root': module ", "rehearsal ok", "attributes read back", "lint ok",
                 "the online token holds no key of a root"):
        assert line in transcript
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ", line) for line in transcript.splitlines())
    assert "PRIVATE" not in transcript
    assert demo_ceremony.online.pin_file.read_text().strip() not in transcript
    assert read_ceremony(directory) == demo_ceremony.result


@pytest.mark.parametrize(("change", "fault"), [
    (lambda d: _replace(d / "roots.pem", b"other"), "roots.pem is not what the ceremony released"),
    (lambda d: (d / "roots.pem").unlink(), "roots.pem is missing"),
    (lambda d: (d / "extra").write_bytes(b""), "extra is not in SHA256SUMS"),
    (lambda d: (d / "roots.pem").chmod(0o644), "roots.pem is writable"),
    (lambda d: (d / "SHA256SUMS").unlink(), "SHA256SUMS cannot be read"),
])
def test_a_change_is_noticed(demo_ceremony: DemoCeremony, tmp_path: Path, change: object, fault: str) -> None:
    """A changed, missing, added or writable file is one line of `verify`, and nothing is read from the directory."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(demo_ceremony.result.directory), str(copy)], check=True)
    assert check_ceremony(copy)[0] == []
    change(copy)  # type: ignore[operator]
    faults, result = check_ceremony(copy)
    assert any(line.startswith(fault) for line in faults), faults
    assert result is None
    with pytest.raises(OutputError, match="is not what a ceremony released"):
        read_ceremony(copy)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o444)


def test_a_certificate_exchanged_together_with_all_hashes_is_noticed(
    demo_ceremony: DemoCeremony, tmp_path: Path
) -> None:
    """Hashes that were made to fit again do not help: what is not signed by its issuer is refused."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(demo_ceremony.result.directory), str(copy)], check=True)
    r1, x1 = (copy / "certificates" / f"chancery-demo-{name}.crt" for name in ("r1", "root-x1"))
    forged = bytearray(r1.read_bytes())
    forged[-1] ^= 1
    old_hash, new_hash = (_openssl("dgst", "-sha256", "-r", str(path)).stdout.split()[0] for path in (
        r1, _written(tmp_path / "forged", bytes(forged))))
    _replace(r1, bytes(forged))
    for name in ("transcript.txt", "SHA256SUMS"):
        _replace(copy / name, (copy / name).read_text().replace(old_hash, new_hash).encode())
    listed = (copy / "SHA256SUMS").read_text()
    was = next(line.split()[0] for line in listed.splitlines() if line.endswith("transcript.txt"))
    now = _openssl("dgst", "-sha256", "-r", str(copy / "transcript.txt")).stdout.split()[0]
    _replace(copy / "SHA256SUMS", listed.replace(was, now).encode())
    faults, _ = check_ceremony(copy)
    assert len(faults) == 1
    assert "CN=Chancery Demo R1" in faults[0]
    assert x1.exists()


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_second_run_is_refused(demo_ceremony: DemoCeremony) -> None:
    """The same directory is never written again, and the same tokens never get a second key of a name."""
    directory = demo_ceremony.result.directory
    before = (directory / "SHA256SUMS").read_bytes()
    with pytest.raises(RefusedError, match="exists already: a ceremony is held once"):
        run_ceremony(quick_plan(), out_dir=directory, root_hsm=demo_ceremony.root.settings,
                     online_hsm=demo_ceremony.hsm, ambient=system_ambient())
    assert (directory / "SHA256SUMS").read_bytes() == before
    other = directory.with_name("again")
    with pytest.raises(KeyGenerationError, match="the online token has a key labelled Chancery Demo E1, "):
        run_ceremony(quick_plan(), out_dir=other, root_hsm=demo_ceremony.root.settings,
                     online_hsm=demo_ceremony.hsm, ambient=system_ambient())
    assert not other.exists()
    leftover = leftover_of(other)
    assert leftover is not None
    assert leftover.keys == ()
    assert "FAILED: KeyGenerationError" in leftover.last_line


def test_a_killed_ceremony_says_what_to_do(tmp_path: Path) -> None:
    """kill -9 in the middle releases nothing; the next run names the keys; after discarding them it goes through."""
    root, online = make_softhsm(tmp_path / "root", "Root"), make_softhsm(tmp_path / "online", "Online")
    out_dir = tmp_path / "ceremony"
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from ca.admin.ceremony.act import run_ceremony
        from ca.process.ambient import system_ambient
        from ca.process.settings import HsmSettings
        from tests.fixtures_hsm import quick_plan

        def progress(text):
            if text.startswith("signing intermediate"):
                os.kill(os.getpid(), signal.SIGKILL)

        module, root, online, out_dir = sys.argv[1], *map(Path, sys.argv[2:])
        hsm = lambda place, label: HsmSettings(module=module, conf=place / "softhsm2.conf", token_label=label,
                                               pin_file=place / "pin")
        run_ceremony(quick_plan(), out_dir=out_dir, root_hsm=hsm(root, "Root"), online_hsm=hsm(online, "Online"),
                     ambient=system_ambient(), progress=progress)
        """)
    killed = subprocess.run([sys.executable, "-c", script, root.module, str(tmp_path / "root"),
                             str(tmp_path / "online"), str(out_dir)], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out_dir.exists()

    def run() -> object:
        return run_ceremony(quick_plan(), out_dir=out_dir, root_hsm=root.settings, online_hsm=online.settings,
                            ambient=system_ambient())

    with pytest.raises(RefusedError) as caught:
        run()
    for text in ("ceremony.unfinished is what an interrupted ceremony left: nothing was released",
                 "'Chancery Demo R1' in the online token", "'Chancery Demo Root X2' in the root token",
                 "signing intermediate", "`chancery ceremony discard`"):
        assert text in str(caught.value)
    done, aside = discard_unfinished(out_dir, {"root": root.settings, "online": online.settings},
                                     system_ambient().now())
    assert len(done) == 4
    assert all(line.endswith(": destroyed") for line in done)
    assert (aside / "transcript.txt").is_file()
    with root.open() as token:
        assert token.list_keys() == []
    assert run() == read_ceremony(out_dir)


def test_a_failure_releases_nothing_and_is_in_the_transcript(tmp_path: Path) -> None:
    """A wrong root PIN after the online keys were made: one clear error, tried once, and a state to discard."""
    root, online = make_softhsm(tmp_path / "root", "Root"), make_softhsm(tmp_path / "online", "Online")
    root.pin_file.write_text("wrong PIN\n")
    with pytest.raises(PinRefusedError):
        run_ceremony(quick_plan(), out_dir=tmp_path / "out", root_hsm=root.settings, online_hsm=online.settings,
                     ambient=system_ambient())
    leftover = leftover_of(tmp_path / "out")
    assert leftover is not None
    assert "FAILED: PinRefusedError" in leftover.last_line
    assert [key.label for key in leftover.keys] == ["Chancery Demo R1", "Chancery Demo E1"]
    assert "wrong PIN" not in (leftover.directory / "transcript.txt").read_text()


def test_a_later_ceremony_goes_on_from_existing_roots(tmp_path: Path, demo_ceremony: DemoCeremony) -> None:
    """With the certificates of its roots named, a plan makes a new intermediate and newer CRLs with the same keys."""
    first = demo_ceremony.result
    place = first.directory / "certificates"
    plan = quick_plan()
    online = make_softhsm(tmp_path / "online", "Second online")
    plan = msgspec.structs.replace(
        plan,
        roots=[msgspec.structs.replace(plan.roots[0], certificate=place / "chancery-demo-root-x1.crt", revoked=[
                   RevokedPlan(serial="0a" * 18, revoked_at=first.held_at, reason="superseded")]),
               msgspec.structs.replace(plan.roots[1], certificate=place / "chancery-demo-root-x2.pem")],
        cross_signs=[CrossSignPlan(subject="Chancery Demo Root X2", issuer="Chancery Demo Root X1",
                                   certificate=place / f"{first.cross_signs[0].slug}.crt")],
        intermediates=[IntermediatePlan(common_name="Chancery Demo E2", key="p-384", crl_shards=4,
                                        issuer="Chancery Demo Root X2")])
    second = run_ceremony(plan, out_dir=tmp_path / "second", root_hsm=demo_ceremony.root.settings,
                          online_hsm=online.settings, ambient=system_ambient())
    assert [root.certificate for root in second.roots] == [root.certificate for root in first.roots]
    assert second.cross_signs[0].certificate == first.cross_signs[0].certificate
    [e2] = second.intermediates
    assert second.chains(e2)[0] == [e2.certificate, first.cross_signs[0].certificate]
    old, new = (x509.load_der_x509_crl(result.crls[0].der) for result in (first, second))
    number = [crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in (old, new)]
    assert number[0] < number[1]
    assert new.get_revoked_certificate_by_serial_number(int("0a" * 18, 16)) is not None
    assert read_ceremony(second.directory) == second


def test_roots_and_online_keys_share_no_token(tmp_path: Path) -> None:
    """The same token twice is refused before anything is made."""
    softhsm = make_softhsm(tmp_path / "both", "Both")
    with pytest.raises(PlanError, match="expected another token than root_hsm"):
        run_ceremony(quick_plan(), out_dir=tmp_path / "out", root_hsm=softhsm.settings, online_hsm=softhsm.settings,
                     ambient=system_ambient())
    assert not (tmp_path / "out.unfinished").exists()


def test_a_bad_plan_fails_in_the_rehearsal(tmp_path: Path) -> None:
    """An intermediate that would outlive its root stops the ceremony before the tokens are even opened."""
    plan = quick_plan()
    plan = msgspec.structs.replace(plan, intermediates=[
        msgspec.structs.replace(plan.intermediates[0], valid_days=4000)])
    root, online = make_softhsm(tmp_path / "root", "Root"), make_softhsm(tmp_path / "online", "Online")
    with pytest.raises(PlanError, match="is not within its issuer's life"):
        run_ceremony(plan, out_dir=tmp_path / "out", root_hsm=root.settings, online_hsm=online.settings,
                     ambient=system_ambient())
    leftover = leftover_of(tmp_path / "out")
    assert leftover is not None
    assert leftover.keys == ()


def test_the_linter_stops_a_ceremony(tmp_path: Path) -> None:
    """A finding that the plan does not accept with a reason is an error of the rehearsal."""
    plan = msgspec.structs.replace(quick_plan(), accepted_findings=[])
    root, online = make_softhsm(tmp_path / "root", "Root"), make_softhsm(tmp_path / "online", "Online")
    with pytest.raises(LintError, match=r"INTERNAL_CROSS_CA: ERROR .*cabf\.internal_domain_name"):
        run_ceremony(plan, out_dir=tmp_path / "out", root_hsm=root.settings, online_hsm=online.settings,
                     ambient=system_ambient())


_PLAN = """
title = "Test"
country = "XX"
organization = "Test"
aia_base_url = "http://aia.example.com"
crl_base_url = "http://crl.example.com"
[[roots]]
common_name = "X1"
[[roots]]
common_name = "X2"
key = "p-384"
[[cross_signs]]
subject = "X2"
issuer = "X1"
[[intermediates]]
common_name = "R1"
key = "rsa-2048"
issuer = "X1"
crl_shards = 128
"""


@pytest.mark.parametrize(("old", "new", "message"), [
    ('title = "Test"', 'titel = "Test"', "plan.toml: there is no key titel; is title meant?"),
    ("crl_shards = 128", "crl_shards = 0", "intermediates: R1: crl_shards: expected a number from 1 to 32767, got 0"),
    ("crl_shards = 128", 'crl_shards = "8"', "intermediates[0].crl_shards: Expected `int`, got `str`"),
    ('key = "p-384"', 'key = "p-256"', "roots: X2: key: expected one of rsa-4096, p-384, got 'p-256'"),
    ('key = "p-384"', 'key = "p-521"', "roots[1].key: Invalid enum value 'p-521'"),
    ('common_name = "X2"', 'common_name = "x1"', "common_name: expected a name that differs from all others"),
    ('subject = "X2"', 'subject = "X3"', "cross_signs: X3 by X1: expected two roots of this plan"),
    ('subject = "X2"', 'subject = "X1"', "cross_signs: X1 by X1: expected two different roots"),
    ('key = "rsa-2048"\nissuer = "X1"', 'key = "rsa-2048"\nissuer = "X9"', "R1: issuer: expected a root of this plan"),
    ('"http://crl.example.com"', '"https://crl.example.com"', "crl_base_url: expected an http:// URL"),
    ('title = "Test"', 'title = "Test"\ncrl_days = 365', "crl_days: expected 1 to 364 days"),
    ('title = "Test"', "title = ", "not TOML: Invalid value"),
    ('title = "Test"', 'title = "Test"\n[[accepted_findings]]\ncode = "x"\nreason = " "\n',
     "accepted_findings: x: reason: expected a reason"),
])
def test_plans_are_checked_as_a_whole(old: str, new: str, message: str) -> None:
    """A wrong plan is one line with file, key and expected form, before any token is touched."""
    parse_plan(_PLAN.encode(), "plan.toml", Path())
    assert old in _PLAN
    text = _PLAN.replace(old, new)
    if "[[accepted" in new:
        text = _PLAN + new.removeprefix(old)
    with pytest.raises(PlanError) as caught:
        parse_plan(text.encode(), "plan.toml", Path())
    assert str(caught.value).startswith("plan.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_plan_of_the_procedure_is_a_plan() -> None:
    """What hsm/CEREMONY.md tells people to write can be run."""
    text = (Path(__file__).parents[3] / "hsm" / "CEREMONY.md").read_text("utf-8")
    [block] = re.findall(r"^```toml\n(title = .*?)^```", text, re.DOTALL | re.MULTILINE)
    plan = parse_plan(block.encode(), "CEREMONY.md", Path())
    assert [root.key for root in plan.roots] == ["rsa-4096", "p-384"]
    assert plan.root_hsm is not None


def test_an_existing_key_of_the_online_token_stays(tmp_path: Path) -> None:
    """Discarding destroys the keys of the journal alone: one that was there before is left."""
    root, online = make_softhsm(tmp_path / "root", "Root"), make_softhsm(tmp_path / "online", "Online")
    with root.open(writable=True) as token:
        generate_key(token, label="Chancery Demo Root X2", key_id=os.urandom(16), spec=KeySpec.P_256)
    with pytest.raises(KeyGenerationError, match="the root token has a key labelled Chancery Demo Root X2"):
        run_ceremony(quick_plan(), out_dir=tmp_path / "out", root_hsm=root.settings, online_hsm=online.settings,
                     ambient=system_ambient())
    done, _ = discard_unfinished(tmp_path / "out", {"root": root.settings, "online": online.settings},
                                 system_ambient().now())
    assert len(done) == 2
    with root.open() as token:
        assert [key.label for key in token.list_keys()] == ["Chancery Demo Root X2"]
    with pytest.raises(OutputError, match="has no interrupted ceremony"):
        discard_unfinished(tmp_path / "out", {}, system_ambient().now())
