"""What CAs are and sign besides certificates, byte for byte: a change shows as a readable diff; linters and openssl."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.admin.ceremony import lint as ceremony_lint
from ca.admin.ceremony.lint import LintType
from ca.pki import lint
from tests.ca.pki.authority import NOW
from tests.golden.make_authorities import DIRECTORY, Golden, objects, shard_crl_url
from tests.golden.make_certificates import der_of

_OBJECTS = {each.stem: each for each in objects()}
_CERTIFICATES = sorted(stem for stem, each in _OBJECTS.items() if not each.kind.endswith("crl"))
_CRLS = sorted(stem for stem, each in _OBJECTS.items() if each.kind.endswith("crl"))
_CEREMONY_LINT = {"root": LintType.ROOT, "cross": LintType.CROSS, "issuing": LintType.INTERMEDIATE,
                  "root-crl": LintType.ROOT_CRL}


@pytest.mark.parametrize("stem", sorted(_OBJECTS))
def test_same_bytes_as_ever(stem: str) -> None:
    """Regenerate with `python -m tests.golden.make_authorities` only when a profile changes on purpose."""
    assert _OBJECTS[stem].encoded.hex() == der_of((DIRECTORY / f"{stem}.txt").read_text("utf-8")).hex()


def test_no_golden_file_without_an_object() -> None:
    """Nothing in the directory that no code makes; each kind of object is there for each key that signs it."""
    assert {path.stem for path in DIRECTORY.glob("*.txt")} == set(_OBJECTS)
    counted: dict[str, int] = {}
    for each in _OBJECTS.values():
        counted[each.kind] = counted.get(each.kind, 0) + 1
    assert counted == {"root": 3, "cross": 3, "issuing": 18, "responder": 3, "shard-crl": 6, "root-crl": 6}


@pytest.mark.parametrize("stem", sorted(_OBJECTS))
def test_the_linters_have_no_objection(stem: str) -> None:
    """BR 4.3.1.2: pkilint as ROOT_CA, INTERNAL_CROSS_CA, INTERNAL_UNCONSTRAINED_TLS_CA, OCSP_RESPONDER, CRL or ARL,
    under the public policy and with nothing accepted: none of these has a place on an allow-list."""
    golden = _OBJECTS[stem]
    if golden.kind == "responder":
        assert lint.lint_responder(golden.encoded) == []
    elif golden.kind == "shard-crl":
        url = shard_crl_url(stem.split("-")[3])
        assert lint.lint_crl(golden.encoded, golden.signed_by, url) == []
    else:
        findings = ceremony_lint.require_clean(golden.encoded, _CEREMONY_LINT[golden.kind])
        assert not [finding for finding in findings if finding.is_objection]


def _pem(path: Path, certificate: bytes) -> str:
    path.write_bytes(x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM))
    return str(path)


def _chain(golden: Golden) -> tuple[bytes, ...]:
    """The issuer's certificate and those above it, the root last."""
    signer = golden.signed_by
    if signer.authority_key_id in (None, signer.key_id):
        return (signer.certificate_der,)
    above = next(each for each in _OBJECTS.values() if each.encoded == signer.certificate_der)
    return (signer.certificate_der, *_chain(above))


@pytest.mark.parametrize("stem", _CERTIFICATES)
def test_openssl_verifies_the_certificates(stem: str, tmp_path: Path) -> None:
    """`openssl verify -x509_strict` accepts each up to its root; a responder for signing OCSP responses."""
    golden = _OBJECTS[stem]
    *between, root = _chain(golden)
    command = ["openssl", "verify", "-x509_strict", "-no-CApath", "-attime", str(int(NOW.timestamp()) + 60)]
    if golden.kind == "responder":
        command += ["-purpose", "ocsphelper"]
    for number, certificate in enumerate(between):
        command += ["-untrusted", _pem(tmp_path / f"{number}.pem", certificate)]
    done = subprocess.run([*command, "-CAfile", _pem(tmp_path / "root.pem", root),
                           _pem(tmp_path / "it.pem", golden.encoded)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("stem", [stem for stem in _CERTIFICATES if stem.startswith("cross-")])
def test_one_issuing_ca_verifies_through_a_cross_sign(stem: str, tmp_path: Path) -> None:
    """spec 1.2: subject, key and key identifier are those of the root that it stands beside, so what the root signed
    verifies under the other root, too."""
    cross = _OBJECTS[stem]
    existing = stem.split("-")[1]
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-no-CApath", "-attime", str(int(NOW.timestamp()) + 60),
         "-CAfile", _pem(tmp_path / "root.pem", cross.signed_by.certificate_der),
         "-untrusted", _pem(tmp_path / "cross.pem", cross.encoded),
         _pem(tmp_path / "issuing.pem", _OBJECTS[f"issuing-p256-by-{existing}"].encoded)],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("stem", _CRLS)
def test_openssl_verifies_the_crls(stem: str, tmp_path: Path) -> None:
    """The signature holds with the issuer's certificate, and each entry is read back with its reason."""
    golden = _OBJECTS[stem]
    (tmp_path / "it.crl").write_bytes(golden.encoded)
    done = subprocess.run(
        ["openssl", "crl", "-inform", "DER", "-in", str(tmp_path / "it.crl"), "-text", "-noout", "-CAfile",
         _pem(tmp_path / "issuer.pem", golden.signed_by.certificate_der)], capture_output=True, text=True, check=False)
    assert "verify OK" in done.stderr, done.stderr
    assert ("No Revoked Certificates." in done.stdout) is stem.endswith("-empty")
    assert done.stdout.count("Serial Number:") == (0 if stem.endswith("-empty") else 6)
