"""Lint with a memory finds exactly what plain pkilint finds, whatever differs from certificate to certificate."""

import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from pkilint import loader
from pkilint.cabf import serverauth
from pkilint.cabf.serverauth.serverauth_constants import CertificateType
from pkilint.pkix import certificate
from pkilint.validation import ValidationFinding, ValidationFindingEncountered, ValidationFindingSeverity, Validator
from pyasn1.codec.der.encoder import encode
from pyasn1_alt_modules import rfc5280

from ca.pki import der, lint_shape
from ca.pki.lint_shape import ShapedLinter
from ca.pki.precertificate import with_poison, with_sct_list
from ca.pki.profile import CLASSIC, PROFILES, TLSSERVER, Profile
from ca.pki.sct import Sct, encode_sct, sct_list_value
from ca.pki.serial import serial_number
from ca.pki.tbs import StatusUrls, assemble, tbs_certificate
from ca.pki.validity import validity
from tests.ca.pki.authority import NOW, Authority
from tests.ca.pki.csr_maker import extension
from tests.ca.pki.test_tbs import AUTHORITIES, EC_AUTHORITY, names
from tests.ca.pki.test_tbs import _key as certificate_key

_KEYS: dict[str, list[ec.EllipticCurvePrivateKey] | list[rsa.RSAPrivateKey]] = {
    "p256": [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)],
    "p384": [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)],
    "rsa": [rsa.generate_private_key(65_537, 2048) for _ in range(2)]}
_NAMES = {"one": "www.example.{}", "internal": "a.{}.corp", "address": "10.0.0.{}", "wildcard": "*.{}.example.com",
          "reverse zone": "a.{}.10.in-addr.arpa"}
_KINDS = {"final": CertificateType.DV_FINAL_CERTIFICATE, "precertificate": CertificateType.DV_PRE_CERTIFICATE}
Outcome = list[tuple[str, str, list[Any]]] | str


def _issue(profile: Profile, *values: str, number: int, by: Authority = EC_AUTHORITY, key: str = "p256",
           kind: str = "plain", turn: int | None = None) -> bytes:
    """A certificate of ours: serial number, key and names go by its number; times and shard, too, or by the turn."""
    turn = number if turn is None else turn
    now = NOW + timedelta(minutes=turn)
    leaf = _KEYS[key][number % 2]
    tbs = tbs_certificate(
        profile=profile, issuer=by.issuer, serial=serial_number(now, number.to_bytes(16, "big")),
        validity=validity(now, length_s=profile.length_s, issuer=by.issuer.validity), identifiers=names(*values),
        key=certificate_key(leaf), urls=StatusUrls(ocsp="http://o.chancery.dev",
                                                   ca_issuers="http://i.chancery.dev/e1.crt",
                                                   crl=f"http://c.chancery.dev/e1/{turn}.crl"))
    if kind == "precertificate":
        tbs = with_poison(tbs)
    if kind == "logged":
        tbs = with_sct_list(tbs, sct_list_value([encode_sct(Sct(
            log_id=bytes([each]) * 32, timestamp_ms=1_800_000_000_000 + number, extensions=b"", signature_algorithm=3,
            signature=b"s" * 71)) for each in (1, 2)]))
    return assemble(tbs, by.sign(tbs))


@functools.cache
def _plain_linter(kind: CertificateType) -> Validator:
    return certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(kind))


def _outcome(found: Any) -> Outcome:
    return [(result.validator.name, result.node.path,
             list(result.finding_descriptions)) for result in found if result.finding_descriptions]


def _plain(certificate_der: bytes, kind: CertificateType = CertificateType.DV_FINAL_CERTIFICATE) -> Outcome:
    """What pkilint itself says: which validator, about which node, in which words; or how it fails."""
    try:
        document = loader.RFC5280CertificateDocumentLoader().load_der_document(certificate_der, "certificate")
        return _outcome(_plain_linter(kind).validate(document.root))
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"


def _shaped(linter: ShapedLinter, certificate_der: bytes) -> Outcome:
    try:
        return _outcome(linter.results(certificate_der))
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"


@pytest.fixture(scope="module")
def linters() -> dict[CertificateType, ShapedLinter]:
    """One memory for all tests of this file, so that certificates of every kind pass through it in turns."""
    return {kind: ShapedLinter(_plain_linter(kind)) for kind in _KINDS.values()}


def _ours() -> Iterator[tuple[str, bytes]]:
    for number, (profile, by, key, kind) in enumerate(itertools.product(
            PROFILES.values(), sorted(AUTHORITIES), sorted(_KEYS), ("plain", "precertificate", "logged"))):
        for turn in range(2):
            pattern = list(_NAMES.values())[(number + turn) % len(_NAMES)]
            yield kind, _issue(profile, pattern.format(number + turn), number=2 * number + turn, by=AUTHORITIES[by],
                               key=key, kind=kind)
    for number in range(3):
        hundred = [f"n{each}-{number}.example.com" for each in range(100)]
        yield "plain", _issue(TLSSERVER, *hundred, number=number)
        yield "plain", _issue(CLASSIC, *hundred[:number + 1], *hundred[50:], number=number, key="rsa")


def test_of_our_own(linters: dict[CertificateType, ShapedLinter]) -> None:
    """Every profile, issuer's and subscriber's kind of key, plain, precertificate and with SCTs, one name and a
    hundred: the same results for the certificate that makes a shape known and for those that follow, in any order."""
    ours = [(_KINDS["precertificate" if kind == "precertificate" else "final"], each) for kind, each in _ours()]
    expected = [_plain(each, kind) for kind, each in ours]
    assert all(isinstance(outcome, list) for outcome in expected)
    for order in (range(len(ours)), reversed(range(len(ours)))):
        for number in order:
            kind, each = ours[number]
            assert _shaped(linters[kind], each) == expected[number]
    shapes = sum(len(linter._shapes) for linter in linters.values())
    assert 50 < shapes < len(ours) / 1.5, "the second certificate of a shape is not one of its own"


def _rebuilt(whole: bytes, parts: dict[str, bytes], values: dict[bytes, bytes]) -> bytes:
    """A certificate with other fields, and other values of extensions (by OID), put together again as DER."""
    outer = der.children(whole, der.read_only(whole, der.SEQUENCE))
    fields = der.children(whole, outer[0])
    key = der.children(whole, fields[6])
    extensions = []
    for each in der.children(whole, der.children(whole, fields[7])[0]):
        oid, *flag, value = der.children(whole, each)
        content = values.get(der.whole(whole, oid), der.contents(whole, value))
        extensions.append(der.sequence(der.whole(whole, oid), *(der.whole(whole, part) for part in flag),
                                       der.tlv(der.OCTET_STRING, content)))
    tbs = der.sequence(
        der.whole(whole, fields[0]), parts.get("serial", der.whole(whole, fields[1])),
        *(der.whole(whole, field) for field in fields[2:4]), parts.get("validity", der.whole(whole, fields[4])),
        parts.get("subject", der.whole(whole, fields[5])),
        der.sequence(der.whole(whole, key[0]), parts.get("key", der.whole(whole, key[1]))),
        der.tlv(0xA3, der.sequence(*extensions)))
    return der.sequence(tbs, der.whole(whole, outer[1]), parts.get("signature", der.whole(whole, outer[2])))


_TEXTS = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters=".-_*: @/\x00"), max_size=70)
_NAME_TEXTS = st.one_of(_TEXTS, st.sampled_from([
    "", ".", "*", "www.example.com", "WWW.Example.COM", "*.com", "a..b", "xn--a.com", "xn--mnchen-3ya.de", "ab--c.com",
    "a.onion", "-a.com", "a_b.com", "1.0.0.10.in-addr.arpa", "a.8.b.d.0.1.0.0.2.ip6.arpa", "a" * 64 + ".com"]))
_GENERAL_NAMES = st.one_of(
    st.builds(lambda text: der.tlv(0x82, text.encode()), _NAME_TEXTS),
    st.builds(lambda text: der.tlv(0x81, text.encode()), _NAME_TEXTS),
    st.builds(lambda text: der.tlv(0x86, text.encode()), _NAME_TEXTS | st.sampled_from(
        ["http://localhost/1.crl", "ldap://a.com/x", "https://a.com", "http://a.example.com:80/?x#y"])),
    st.builds(lambda octets: der.tlv(0x87, octets), st.binary(max_size=17)),
    st.builds(lambda octets: der.tlv(0x88, octets), st.binary(min_size=1, max_size=4)))
_TIMES = st.one_of(
    st.datetimes().map(lambda when: der.tlv(der.UTC_TIME, when.strftime("%y%m%d%H%M%SZ").encode())),
    st.datetimes().map(lambda when: der.tlv(der.GENERALIZED_TIME, when.strftime("%Y%m%d%H%M%SZ").encode())),
    st.builds(lambda tag, text: der.tlv(tag, text.encode()),
              st.sampled_from([der.UTC_TIME, der.GENERALIZED_TIME, der.UTF8_STRING]), _TEXTS))
_SUBJECTS = st.lists(st.builds(
    lambda oid, tag, text: der.tlv(der.SET, der.sequence(der.object_identifier(oid), der.tlv(tag, text.encode()))),
    st.sampled_from(["2.5.4.3", "2.5.4.6", "2.5.4.10", "0.9.2342.19200300.100.1.25", "1.2.840.113549.1.9.1"]),
    st.sampled_from([der.UTF8_STRING, der.PRINTABLE_STRING, 0x16, der.INTEGER]), _NAME_TEXTS,
), max_size=3).map(lambda attributes: der.sequence(*attributes))
_PARTS = {
    "serial": st.integers(-2**170, 2**170).map(der.integer) | st.just(b"\x02\x02\x00\x01"),
    "validity": st.builds(der.sequence, _TIMES, _TIMES) | st.builds(der.sequence, _TIMES),
    "subject": _SUBJECTS,
    "key": st.binary(max_size=80).map(der.bit_string) | st.just(b"\x03\x02\x07\x80") | st.just(b"\x04\x01\x04"),
    "signature": st.binary(max_size=80).map(der.bit_string) | st.just(b"\x04\x01\x04")}
_VALUES = {
    der.object_identifier("2.5.29.17"):
        st.lists(_GENERAL_NAMES, max_size=4).map(lambda found: der.sequence(*found)) | st.binary(max_size=20),
    der.object_identifier("2.5.29.14"):
        st.binary(max_size=40).map(lambda octets: der.tlv(der.OCTET_STRING, octets)) | st.binary(max_size=20),
    der.object_identifier("2.5.29.31"): st.one_of(
        st.lists(_GENERAL_NAMES, max_size=2).map(
            lambda found: der.sequence(der.sequence(der.tlv(0xA0, der.tlv(0xA0, *found))))),
        st.binary(max_size=20), st.just(der.sequence())),
    der.object_identifier("1.3.6.1.4.1.11129.2.4.2"):
        st.binary(max_size=60).map(lambda octets: der.tlv(der.OCTET_STRING, octets)) | st.binary(max_size=20)}
_BASES = [_issue(TLSSERVER, "www.example.com", number=1), _issue(CLASSIC, "www.example.com", number=1, key="rsa"),
          _issue(CLASSIC, "www.example.com", "a.example.com", number=1, kind="logged")]


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(_BASES), st.fixed_dictionaries({}, optional=_PARTS), st.fixed_dictionaries({}, optional=_VALUES))
def test_of_what_differs(base: bytes, parts: dict[str, bytes], values: dict[bytes, bytes]) -> None:
    """Whatever stands in the places that differ: the same words as pkilint's own, after a good certificate and before
    one, and a good certificate that follows has nothing of it."""
    linter = _SHARED
    other = _rebuilt(base, parts, values)
    _shaped(linter, base)
    assert _shaped(linter, other) == _plain(other)
    assert _shaped(linter, base) == _plain(base)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_BASES), st.data())
def test_of_mutated_bytes(base: bytes, data: st.DataObject) -> None:
    """Bytes changed, cut out or put in, mostly no certificate any more: pkilint's findings, or its very fault."""
    at = data.draw(st.integers(0, len(base) - 1))
    cut = data.draw(st.integers(0, 3))
    other = base[:at] + data.draw(st.binary(max_size=3)) + base[at + cut:]
    for each in (other, base):
        assert _shaped(_SHARED, each) == _plain(each)


def test_of_tags_and_lengths() -> None:
    """Each tag and each length of a certificate made zero: what is not in the shape has to be looked at."""
    base = _BASES[2]

    def elements(start: int, end: int) -> Iterator[der.Element]:
        while start < end:
            element = der.read(base, start, end=end)
            yield element
            if element.tag & 0x20:
                yield from elements(element.content, element.end)
            start = element.end

    for element in elements(0, len(base)):
        for at in (element.start, element.start + 1):
            other = base[:at] + b"\0" + base[at + 1:]
            _shaped(_SHARED, base)
            assert _shaped(_SHARED, other) == _plain(other), f"octet {at}"


_SHARED = ShapedLinter(_plain_linter(CertificateType.DV_FINAL_CERTIFICATE))


@pytest.mark.parametrize("constant", [
    extension("2.5.29.19", der.sequence(b"\x01\x01\xff"), critical=True), extension("2.5.29.15", b"\x03\x02\x01\x06"),
    extension("2.5.29.30", der.sequence(der.tlv(0xA0, der.sequence(der.tlv(0x82, b"a")))), critical=True),
    extension("2.5.29.32", b"\x30\x00"), extension("1.2.3.4", b"\x05\x00", critical=True),
    extension("2.5.29.17", der.sequence(der.tlv(0x82, b"b.example.com")))],
    ids=["ca", "key usage", "name constraints", "policies", "unknown", "a second subjectAltName"])
def test_other_constants_are_other_shapes(constant: bytes) -> None:
    """An extension that our certificates do not have changes what validators say elsewhere: nothing kept is used."""
    for base in _BASES:
        _shaped(_SHARED, base)
        outer = der.children(base, der.read_only(base, der.SEQUENCE))
        fields = der.children(base, outer[0])
        inner = der.contents(base, der.children(base, fields[7])[0])
        tbs = der.sequence(*(der.whole(base, field) for field in fields[:7]),
                           der.tlv(0xA3, der.sequence(inner, constant)))
        other = der.sequence(tbs, *(der.whole(base, part) for part in outer[1:]))
        assert _shaped(_SHARED, other) == _plain(other) != _plain(base)
        assert _shaped(_SHARED, other) == _plain(other)
        assert _shaped(_SHARED, base) == _plain(base)


_LOOKS: dict[str, Callable[[Any], object]] = {
    "the bytes": lambda node: hashlib.sha256(node.document.substrate).hexdigest(),
    "cryptography's reading": lambda node: node.document.cryptography_object.serial_number,
    "cryptography's reading, a second time": lambda node: node.document.cryptography_object.signature.hex(),
    "the key": lambda node: node.document.public_key_object.public_numbers(),
    "the key, a second time": lambda node: node.document.public_key_object.public_numbers(),
    "the validity": lambda node: node.document.not_before,
    "the value above": lambda node: hashlib.sha256(encode(node.document.root.children["tbsCertificate"].pdu)).digest(),
    "the whole value": lambda node: hashlib.sha256(encode(node.document.root.pdu)).digest(),
    "the root, upwards": lambda node: hashlib.sha256(encode([node, *node.parents][-1].pdu)).digest(),
    "a value by its path": lambda node: node.navigate(":certificate.tbsCertificate.serialNumber").pdu,
    "which names there are": lambda node: list(
        node.document.get_extension_by_oid(rfc5280.id_ce_subjectAltName)[0].navigate("extnValue").child[1].children),
    "names by their type": lambda node: [
        str(each.pdu) for each in node.document.get_san_general_names_by_type("dNSName")],
    "the extensions' value": lambda node: node.navigate(
        ":certificate.tbsCertificate.extensions").pdu[-2].prettyPrint(),
    "nothing that differs": lambda node: sorted(node.document.extended_key_usages),
}


def _looking(look: Callable[[Any], object], **where: Any) -> Validator:
    finding = ValidationFinding(ValidationFindingSeverity.ERROR, "test.seen")

    class Looking(Validator):  # type: ignore[misc] # pkilint has no type information
        def validate(self, node: Any) -> None:
            raise ValidationFindingEncountered(finding, str(look(node)))

    return Looking(validations=[finding], **where)


@pytest.mark.parametrize("looks", [[look] for look in _LOOKS] + [list(_LOOKS), list(reversed(_LOOKS))],
                         ids=lambda looks: looks[0] if len(looks) == 1 else "all")
def test_whatever_a_validator_looks_at(looks: list[str]) -> None:
    """Validators that tell what they see, by each way there is from a node to bytes that differ: each tells what is in
    the certificate at hand, also when another one has made the document remember it before, and when its validity and
    CRL are another's."""
    container = certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(),
        [_looking(_LOOKS[look], **where) for look in looks
         for where in ({"path": "certificate.tbsCertificate.version"}, {"pdu_class": rfc5280.KeyUsage},
                       {"path": "certificate"}, {"predicate": lambda node: node.document.not_after.year > 2000})])
    linter = ShapedLinter(container)
    for number in range(8):
        each = _issue(TLSSERVER, *(f"n{count}.example.com" for count in range(number + 1)), number=number,
                      turn=number % 4 // 2)
        document = loader.load_certificate(each, "certificate")
        assert _shaped(linter, each) == _outcome(container.validate(document.root))
    assert len(linter._shapes) == 1


def test_what_the_kept_may_depend_on() -> None:
    """Whether an extension is critical is part of the shape, also where its value differs."""
    base = _BASES[0]
    other = base.replace(bytes.fromhex("0603551d110101ff"), bytes.fromhex("0603551d11010100"))
    assert other != base
    for each in (base, other, base):
        assert _shaped(_SHARED, each) == _plain(each)
    assert _plain(other) != _plain(base)


def _mixed() -> list[bytes]:
    """Good and bad times, CRLs and names in every combination, so that each value comes again beside others."""
    base = _BASES[0]
    times = [der.tlv(der.UTC_TIME, text) for text in (b"261201000000Z", b"270101000000Z", b"2701010000Z")]
    points = [_VALUE_OF_CRL, _VALUE_OF_CRL.replace(b"http:", b"ldap:"), b"\x30\x01"]
    san = der.object_identifier("2.5.29.17")
    return [_rebuilt(base, {"serial": der.integer(number + 1), "validity": der.sequence(*validities)},
                     {_CRL_OID: point, san: der.sequence(der.tlv(0x82, name))})
            for number, (validities, point, name) in enumerate(itertools.product(
                itertools.permutations(times, 2), points, (b"a.example.com", b"b.corp")))]


_CRL_OID = der.object_identifier("2.5.29.31")
_VALUE_OF_CRL = der.sequence(der.sequence(der.tlv(0xA0, der.tlv(0xA0, der.tlv(0x86, b"http://c.chancery.dev/1.crl")))))


@pytest.mark.parametrize(("values", "answers"), [(2, 4096), (16, 7), (16, 4096)])
def test_values_that_come_again(monkeypatch: pytest.MonkeyPatch, values: int, answers: int) -> None:
    """What is known by a validity or a CRL is said of every certificate that has it and of no other, in any order, and
    also when the memory for such values is full again and again."""
    for name, most in (("_MAX_VALIDITIES", values), ("_MAX_CRLS", values), ("_MAX_ANSWERS", answers)):
        monkeypatch.setattr(lint_shape, name, most)
    linter = ShapedLinter(_plain_linter(CertificateType.DV_FINAL_CERTIFICATE))
    expected = {each: _plain(each) for each in _mixed()}
    assert len({repr(outcome) for outcome in expected.values()}) > 20
    for order in (list(expected), list(reversed(expected)), [*list(expected)[::5], *list(expected)[::3]]):
        for each in order:
            assert _shaped(linter, each) == expected[each]
    assert len(linter._shapes) == 1


def test_who_is_asked_again() -> None:
    """A validator that looks at validity and CRL alone is asked once about each pair of them, and one that looks at the
    serial number besides, about each certificate."""
    asked: list[str] = []

    def seen(what: str, *reads: Callable[[Any], object]) -> Validator:
        def look(node: Any) -> None:
            asked.append(what)
            for read in reads:
                read(node)
        return _looking(look, path="certificate.tbsCertificate.version")

    def times(node: Any) -> object:
        return node.navigate(":certificate.tbsCertificate.validity.notBefore").pdu

    def crl(node: Any) -> object:
        return node.navigate(":certificate.tbsCertificate.extensions.7.extnValue").pdu

    container = certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(),
        [seen("times and CRL", times, crl), seen("all three", times, crl, _LOOKS["a value by its path"])])
    linter = ShapedLinter(container)
    for number in range(12):
        _shaped(linter, _issue(TLSSERVER, "www.example.com", number=number, turn=number % 3))
    # The first certificate makes the shape known; what was read for it is not yet an answer.
    assert (asked.count("times and CRL"), asked.count("all three")) == (1 + 3, 12)


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that nobody has used for long are forgotten, and known anew when they come back."""
    monkeypatch.setattr(lint_shape, "_MAX_SHAPES", 2)
    linter = ShapedLinter(_plain_linter(CertificateType.DV_FINAL_CERTIFICATE))
    for base in (*_BASES, *_BASES):
        assert _shaped(linter, base) == _plain(base)
        assert len(linter._shapes) <= 2


def test_threads_take_turns() -> None:
    """Two threads with certificates of one shape: neither sees the other's findings."""
    good = _issue(TLSSERVER, "www.example.com", number=1)
    bad = _issue(TLSSERVER, "www.corp", number=2)
    expected = {good: _plain(good), bad: _plain(bad)}
    assert expected[good] != expected[bad]
    wrong: list[Outcome] = []

    def lint(each: bytes) -> None:
        wrong.extend(found for found in (_shaped(_SHARED, each) for _ in range(100)) if found != expected[each])

    threads = [threading.Thread(target=lint, args=(each,)) for each in (good, bad)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
