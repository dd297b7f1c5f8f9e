"""Linting: good certificates have exactly the findings that are allowed, and each fault is found."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkilint import loader
from pkilint.cabf import serverauth
from pkilint.cabf.serverauth.serverauth_constants import CertificateType
from pkilint.pkix import certificate

from ca.pki import der, lint, lint_rules
from ca.pki.crl import LIFE_S, CrlEntry, crl_number, tbs_crl
from ca.pki.lint import (
    Finding,
    Severity,
    allowances,
    crl_allowances,
    lint_certificate,
    lint_crl,
    require_clean,
)
from ca.pki.lint_dispatch import dispatching
from ca.pki.profile import CLASSIC, PROFILES, SHORTLIVED, TLSSERVER, Profile
from ca.pki.public_key import require_acceptable
from ca.pki.refusal import Refusal, RefusalReason
from ca.pki.serial import serial_number
from ca.pki.tbs import StatusUrls, assemble, tbs_certificate
from ca.pki.validity import Validity, validity
from tests.ca.pki.authority import NOW, Authority, authority
from tests.ca.pki.test_tbs import AUTHORITIES, EC_AUTHORITY, EC_LEAF, RSA_LEAF, names

PUBLIC_URLS = StatusUrls(ocsp="http://o.chancery.dev", ca_issuers="http://i.chancery.dev/e1.crt",
                         crl="http://c.chancery.dev/e1/17.crl")
LOCAL_URLS = StatusUrls(ocsp="http://localhost:14001", ca_issuers="http://localhost:14002/e1.crt",
                        crl="http://localhost:14002/e1/17.crl")
_CLASSIC_CODES = {"cabf.serverauth.dv.common_name_attribute_present",
                  "cabf.serverauth.subscriber.subject_key_identifier_extension_present"}
_KEY_ENCIPHERMENT = "cabf.serverauth.subscriber_rsa_digitalsignature_and_keyencipherment_present"


def _signed(profile: Profile, *values: str, by: Authority = EC_AUTHORITY, urls: StatusUrls = PUBLIC_URLS,
            leaf: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = EC_LEAF, period: Validity | None = None,
            serial: bytes | None = None) -> bytes:
    key = require_acceptable(leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    tbs = tbs_certificate(profile=profile, issuer=by.issuer, serial=serial or serial_number(NOW, bytes(range(16))),
                          validity=period or validity(NOW, length_s=profile.length_s, issuer=by.issuer.validity),
                          identifiers=names(*values), key=key, urls=urls)
    return assemble(tbs, by.sign(tbs))


def _codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


@pytest.mark.parametrize("by", sorted(AUTHORITIES))
@pytest.mark.parametrize("leaf", [EC_LEAF, RSA_LEAF], ids=["ec", "rsa"])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: str(profile.name))
@pytest.mark.parametrize("values", [("www.example.com",), ("*.example.com", "1.1.1.1"),
                                    tuple(f"n{number}.example.com" for number in range(25))], ids=len)
def test_public_certificates_are_clean(profile: Profile, leaf: Any, by: str, values: tuple[str, ...]) -> None:
    """Under the public policy, exactly the findings that the profile is known for, and each of them is allowed."""
    issued_by = AUTHORITIES[by]
    findings = lint_certificate(_signed(profile, *values, by=issued_by, leaf=leaf), issued_by.issuer)
    expected = (_CLASSIC_CODES | ({_KEY_ENCIPHERMENT} if leaf is RSA_LEAF else set())) if profile is CLASSIC else set()
    assert _codes(findings) == expected
    require_clean(findings, allowances(profile, public=True), "it")


@pytest.mark.parametrize("values", [("www.localhost",), ("localhost", "127.0.0.1", "::1"), ("a.internal", "10.0.0.1"),
                                    ("a.10.in-addr.arpa",), ("*.a.corp",)], ids=str)
def test_internal_certificates_are_clean_in_internal_mode_alone(values: tuple[str, ...]) -> None:
    """Private names, addresses and service URLs pass a private CA's lint and never a public one's."""
    for profile in PROFILES.values():
        findings = lint_certificate(_signed(profile, *values, urls=LOCAL_URLS), EC_AUTHORITY.issuer)
        require_clean(findings, allowances(profile, public=False), "it")
        with pytest.raises(Refusal, match="internal") as refused:
            require_clean(findings, allowances(profile, public=True), "the certificate")
        assert refused.value.reason is RefusalReason.LINT


def test_every_allowance_has_a_reason_and_a_use() -> None:
    """The allow-list is no drawer: each code says why."""
    for allowed in (*(allowances(profile, public=public) for profile in PROFILES.values() for public in (True, False)),
                    crl_allowances(public=False)):
        assert all(len(reason) > 20 for reason in allowed.values())
    assert allowances(TLSSERVER, public=True) == crl_allowances(public=True) == {}


_CHANGES: dict[str, Callable[[], bytes]] = {
    "serial_form": lambda: _signed(TLSSERVER, "a.example.com", serial=b"\x01" * 17),
    "validity_too_long": lambda: _signed(TLSSERVER, "a.example.com", period=Validity(
        not_before=NOW, not_after=NOW + timedelta(days=200))),
    "outlives_issuer": lambda: _signed(TLSSERVER, "a.example.com", period=Validity(
        not_before=NOW - timedelta(days=2), not_after=NOW)),
    "issuer_name": lambda: _signed(TLSSERVER, "a.example.com", by=AUTHORITIES["rsa"]),
    "signature_algorithm": lambda: _signed(TLSSERVER, "a.example.com", by=AUTHORITIES["rsa"]),
    "authority_key_identifier": lambda: _signed(TLSSERVER, "a.example.com", by=AUTHORITIES["p384"]),
    "ocsp_url": lambda: _signed(TLSSERVER, "a.example.com", urls=StatusUrls(
        ocsp="http://o.chancery.dev/", ca_issuers=PUBLIC_URLS.ca_issuers, crl=PUBLIC_URLS.crl)),
    "authority_information_access": lambda: _signed(TLSSERVER, "a.example.com", urls=StatusUrls(
        ocsp=PUBLIC_URLS.ocsp, ca_issuers="https://i.chancery.dev/x", crl=PUBLIC_URLS.crl)),
    "ocsp_missing": lambda: _signed(
        SHORTLIVED, "a.example.com", period=Validity(not_before=NOW, not_after=NOW + timedelta(days=7))),
    "names": lambda: _signed(TLSSERVER, "a.example.com").replace(b"a.example.com", b"a_example.com"),
    "names_order": lambda: _signed(TLSSERVER, "aa.example.com", "bb.example.com").replace(
        b"aa.example", b"cc.example"),
    "common_name": lambda: _signed(CLASSIC, "a.example.com").replace(b"a.example.com", b"b.example.com", 1),
    "extended_key_usage": lambda: _signed(TLSSERVER, "a.example.com").replace(
        bytes.fromhex("2b06010505070301"), bytes.fromhex("2b06010505070302")),
    "names_criticality": lambda: _signed(TLSSERVER, "a.example.com").replace(
        bytes.fromhex("0603551d110101ff"), bytes.fromhex("0603551d11010100")),
    "signature_algorithms_differ": lambda: _replaced_last(
        _signed(TLSSERVER, "a.example.com"), bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040303")),
    "public_key": lambda: _signed(TLSSERVER, "a.example.com").replace(
        bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030101")),
}


def _replaced_last(data: bytes, old: bytes, new: bytes) -> bytes:
    head, _, tail = data.rpartition(old)
    return head + new + tail


@pytest.mark.parametrize("code", sorted(_CHANGES))
def test_each_fault_of_a_certificate_is_found(code: str) -> None:
    """One certificate a rule of our own; no allowance covers it."""
    findings = lint_certificate(_CHANGES[code](), EC_AUTHORITY.issuer)
    assert _codes(findings) & {f"chancery.{code}", "chancery.linter_crashed"}
    for public in (True, False):
        with pytest.raises(Refusal):
            require_clean(findings, allowances(CLASSIC, public=public), "it")


def test_pkilint_is_asked_too() -> None:
    """A rule that only pkilint has: 200 days are legal, and one second more than recommended."""
    period = Validity(not_before=NOW, not_after=NOW + timedelta(seconds=199 * 86_400))
    findings = lint_certificate(_signed(TLSSERVER, "a.example.com", period=period), EC_AUTHORITY.issuer)
    assert [(finding.severity, finding.code.split(".")[0]) for finding in findings] == [(Severity.WARNING, "cabf")]


def test_a_crash_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linter that raises gives a fatal finding; so does what is no certificate at all."""
    def crash(*_: object) -> None:
        raise RuntimeError("broken linter")
    monkeypatch.setattr(lint_rules, "certificate_faults", crash)
    findings = lint_certificate(_signed(TLSSERVER, "a.example.com"), EC_AUTHORITY.issuer)
    assert [str(finding) for finding in findings] == ["FATAL chancery.linter_crashed: RuntimeError: broken linter"]
    monkeypatch.undo()
    for wrong in (b"", b"\x30\x00", b"no certificate"):
        assert {finding.severity for finding in lint_certificate(wrong, EC_AUTHORITY.issuer)} == {Severity.FATAL}
        assert {finding.severity for finding in lint_crl(wrong, EC_AUTHORITY.issuer, "")} == {Severity.FATAL}


def _crl(*entries: CrlEntry, url: str = PUBLIC_URLS.crl, life_s: int = LIFE_S - 1,
         by: Authority = EC_AUTHORITY) -> bytes:
    tbs = tbs_crl(issuer=by.issuer, url=url, number=crl_number(NOW), this_update=NOW,
                  next_update=NOW + timedelta(seconds=life_s), entries=entries)
    return assemble(tbs, by.sign(tbs))


def _entry(number: int, reason: int = 0) -> CrlEntry:
    return CrlEntry(serial=serial_number(NOW, number.to_bytes(16, "big")), revoked_at=NOW, reason=reason)


@pytest.mark.parametrize("by", sorted(AUTHORITIES))
def test_crls_are_clean(by: str) -> None:
    """Empty, short and long ones, every reason; local URLs in internal mode alone."""
    issued_by = AUTHORITIES[by]
    for entries in ([], [_entry(1)], [_entry(number, (0, 1, 3, 4, 5, 9)[number % 6]) for number in range(300)]):
        assert lint_crl(_crl(*entries, by=issued_by), issued_by.issuer, PUBLIC_URLS.crl) == []
    local = lint_crl(_crl(url=LOCAL_URLS.crl, by=issued_by), issued_by.issuer, LOCAL_URLS.crl)
    require_clean(local, crl_allowances(public=False), "it")
    with pytest.raises(Refusal):
        require_clean(local, crl_allowances(public=True), "it")


@pytest.mark.parametrize(("crl", "code"), [
    (lambda: _crl(url="http://c.chancery.dev/e1/18.crl"), "chancery.crl_distribution_point"),
    (lambda: _crl(life_s=LIFE_S + 1), "chancery.crl_life"),
    (lambda: _crl(life_s=10 * 86_400 + 1), "cabf.crl_invalid_validity_period"),
    (lambda: _crl(_entry(1, 6)), "chancery.crl_reason"),
    (lambda: _crl(*(_entry(number, 4) for number in range(100)), _entry(100, 2)), "chancery.crl_reason"),
    (lambda: _crl(_entry(1), _entry(1)), "chancery.crl_order"),
    (lambda: _crl(by=AUTHORITIES["rsa"]), "chancery.issuer_name"),
    (lambda: _crl(by=AUTHORITIES["p384"]), "chancery.authority_key_identifier"),
    (lambda: _replaced_last(_crl(), bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040303")),
     "chancery.signature_algorithms_differ"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_each_fault_of_a_crl_is_found(crl: Callable[[], bytes], code: str) -> None:
    """The IDP that certificates point at, the life, reasons beyond the first fifty entries, the order, the issuer."""
    assert code in _codes(lint_crl(crl(), EC_AUTHORITY.issuer, PUBLIC_URLS.crl))


def test_shortened_crls_keep_everything_else() -> None:
    """pkilint sees the same CRL with fewer entries."""
    whole = _crl(*(_entry(number) for number in range(60)))
    assert lint_rules.shortened_crl(whole, 60) == whole
    fields = der.children(whole, der.children(whole, der.read_only(whole, der.SEQUENCE))[0])
    short = lint_rules.shortened_crl(whole, 50)
    kept = der.children(short, der.children(short, der.read_only(short, der.SEQUENCE))[0])
    assert [der.whole(whole, field) for field in fields[:5]] == [der.whole(short, field) for field in kept[:5]]
    assert len(der.children(short, kept[5])) == 50
    assert len(der.children(whole, fields[5])) == 60


def _results(linter: Any, certificate_der: bytes) -> list[tuple[str, str, list[Any]]]:
    document = loader.load_certificate(certificate_der, "certificate")
    return [(result.validator.name, result.node.path,
             result.finding_descriptions) for result in linter.validate(document.root) if result.finding_descriptions]


def test_dispatching_asks_the_same_validators() -> None:
    """On good and bad certificates: the same validators find the same on the nodes, in the same words and order."""
    kind = CertificateType.DV_FINAL_CERTIFICATE
    plain = certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(kind))
    fast = dispatching(plain)
    others = [issued_by.issuer.certificate_der for issued_by in AUTHORITIES.values()]
    for profile in PROFILES.values():
        others.append(_signed(profile, "a.example.com", "*.b.internal", "10.0.0.1", leaf=RSA_LEAF, urls=LOCAL_URLS))
        others.append(_signed(profile, *(f"n{number}.example.com" for number in range(100))))
    young = authority(ec.generate_private_key(ec.SECP256R1()), days=3).issuer.certificate_der
    readable = [change() for code, change in _CHANGES.items() if code not in ("public_key", "names_criticality")]
    for certificate_der in (*others, young, *readable):
        for _ in range(2):
            assert _results(fast, certificate_der) == _results(plain, certificate_der)


def test_warm_up_builds_the_linters() -> None:
    """The first certificate of a process does not wait for the linter to be built."""
    lint.warm_up()
    built = lint._certificate_linter.cache_info().misses
    lint_certificate(_signed(TLSSERVER, "a.example.com"), EC_AUTHORITY.issuer)
    assert lint._certificate_linter.cache_info().misses == built
