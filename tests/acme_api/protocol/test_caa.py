"""Promises of the CAA decision; the last test holds it against a model that was written from the RFC text alone."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_api.protocol.caa import (
    CaaForbids,
    CaaPermission,
    CaaRecord,
    CaaRequest,
    names_to_climb,
    require_permission,
)

ACCOUNT = "https://ca.example/acme/account/AZ0"


def record(tag: str, value: str | bytes, flags: int = 0) -> CaaRecord:
    return CaaRecord(flags=flags, tag=tag, value=value if isinstance(value, bytes) else value.encode())


def request(*, wildcard: bool = False, method: str = "http-01") -> CaaRequest:
    return CaaRequest(wildcard=wildcard, method=method, account_url=ACCOUNT, identities=frozenset({"ca.example"}))


def test_ca1_climb_goes_to_the_top_level_domain_but_not_to_the_root() -> None:
    """CA1: the wildcard label is stripped, each parent is asked, the root is not."""
    assert names_to_climb("*.a.b.example") == ("a.b.example", "b.example", "example")
    assert names_to_climb("localhost") == ("localhost",)


def test_ca11_name_deeper_than_ten_labels_is_refused() -> None:
    """CA11: no parent is left unasked; what cannot be climbed fully is refused."""
    assert len(names_to_climb(".".join("abcdefghij"))) == 10
    with pytest.raises(CaaForbids, match="more than 10 labels"):
        names_to_climb(".".join("abcdefghijk"))


PERMITTED = {
    "no records at all": [],
    "our name": [record("issue", "ca.example")],
    "CA4 our name in upper case (E95)": [record("ISSUE", "CA.Example")],
    "CA4 white space around": [record("issue", " \tca.example\t ")],
    "CA4 trailing semicolon without parameters": [record("issue", "ca.example ; ")],
    "CA4 unknown parameter": [record("issue", "ca.example; policy=ev ; x=")],
    "CA3 only iodef (E95)": [record("iodef", "mailto:a@b.example")],
    "CA3 issuewild does not restrict a plain name (E95)": [record("issuewild", ";")],
    "CA3 any one of several": [record("issue", "other.example"), record("issue", "ca.example")],
    "CA4 a broken property beside a good one": [record("issue", "%%"), record("issue", "ca.example")],
    "CA5 unknown tag without the critical flag (E95)": [record("future", "x"), record("issue", "ca.example")],
    "CA5 known tags may be critical": [record("iodef", "x", 128), record("issuemail", ";", 128),
                                       record("issuevmc", ";", 128), record("contactemail", "x", 1),
                                       record("contactphone", "x", 128), record("issue", "ca.example", 128)],
    "CA6 our account": [record("issue", f"ca.example; accounturi={ACCOUNT}")],
    "CA7 our method among others": [record("issue", "ca.example; validationmethods=dns-01,http-01")],
    "CA6 CA7 both": [record("issue", f"ca.example;validationmethods=http-01;accounturi={ACCOUNT}")],
}


@pytest.mark.parametrize("records", PERMITTED.values(), ids=PERMITTED.keys())
def test_permitted(records: list[CaaRecord]) -> None:
    """Each of these record sets lets us issue for a plain name by http-01."""
    assert isinstance(require_permission(records, request()), CaaPermission)


FORBIDDEN = {
    "E94 unknown critical property": ([record("foo", "x", 128)], "not understood"),
    "CA5 bit 1 counts as critical": ([record("foo", "x", 1), record("issue", "ca.example")], "not understood"),
    "CA4 E94 nobody": ([record("issue", ";")], "names no issuer"),
    "CA4 E94 empty": ([record("issue", "")], "names no issuer"),
    "CA4 E94 unparsable": ([record("issue", "%%")], "does not parse"),
    "E94 other issuer": ([record("issue", "other.example")], "names other.example"),
    "CA4 a name above ours": ([record("issue", "example")], "names example"),
    "CA4 a name below ours": ([record("issue", "x.ca.example")], "names x.ca.example"),
    "CA4 trailing dot is not a name": ([record("issue", "ca.example.")], "does not parse"),
    "CA4 not ASCII": ([record("issue", b"ca.example\xff")], "does not parse"),
    "CA4 NUL": ([record("issue", b"ca.example\x00")], "does not parse"),
    "CA4 line feed at the end": ([record("issue", b"ca.example\n")], "does not parse"),
    "CA4 parameter without value sign (E94)": ([record("issue", "ca.example; accounturi")], "does not parse"),
    "CA4 dangling semicolon after a parameter": ([record("issue", "ca.example; a=b;")], "does not parse"),
    "CA4 space inside a parameter value": ([record("issue", "ca.example; a=b c")], "does not parse"),
    "CA4 parameters without an issuer": ([record("issue", f"; accounturi={ACCOUNT}")], "names no issuer"),
    "CA6 E94 two accounturi": (
        [record("issue", f"ca.example; accounturi={ACCOUNT}; accounturi={ACCOUNT}")], "more than one accounturi"),
    "CA6 E94 foreign accounturi": ([record("issue", f"ca.example; accounturi={ACCOUNT}x")], "another account"),
    "CA6 accounturi in another case": (
        [record("issue", f"ca.example; accounturi={ACCOUNT.upper()}")], "another account"),
    "CA6 tag in another case still binds": ([record("issue", "ca.example; AccountURI=x:y")], "another account"),
    "CA6 accounturi that is not a URI": ([record("issue", "ca.example; accounturi=123")], "not a URI"),
    "CA6 empty accounturi": ([record("issue", "ca.example; accounturi=")], "not a URI"),
    "CA7 E94 other method": ([record("issue", "ca.example; validationmethods=dns-01")], "does not list http-01"),
    "CA7 E94 bad syntax": ([record("issue", "ca.example; validationmethods=http_01")], "does not parse"),
    "CA7 empty list": ([record("issue", "ca.example; validationmethods=")], "does not parse"),
    "CA7 empty member": ([record("issue", "ca.example; validationmethods=http-01,")], "does not parse"),
    "CA7 two lists": (
        [record("issue", "ca.example; validationmethods=http-01; validationmethods=http-01")], "more than one"),
    "CA7 method in another case": ([record("issue", "ca.example; validationmethods=HTTP-01")], "does not list"),
}


@pytest.mark.parametrize(("records", "why"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_forbidden(records: list[CaaRecord], why: str) -> None:
    """Each of these record sets forbids a plain name by http-01, and the refusal says why."""
    with pytest.raises(CaaForbids, match=why):
        require_permission(records, request())


def test_ca3_wildcard_uses_issuewild_where_it_is_present() -> None:
    """CA3: issuewild alone decides for a wildcard; without it issue does; E94 `issuewild ";"` refuses."""
    ours, nobody = record("issue", "ca.example"), record("issuewild", ";")
    assert require_permission([ours], request(wildcard=True)).matched == ours
    with pytest.raises(CaaForbids):
        require_permission([ours, nobody], request(wildcard=True))
    wild = record("issuewild", "ca.example")
    assert require_permission([record("issue", ";"), wild], request(wildcard=True)).matched == wild
    with pytest.raises(CaaForbids):
        require_permission([record("issue", ";"), wild], request())


def test_refusal_shows_hostile_records_harmlessly() -> None:
    """A refusal and a printed record hold printable ASCII only, whatever the zone says, and stay short."""
    hostile = [record("is\x1bsue\u2028", b"\x00\r\n\"x", 128)]
    with pytest.raises(CaaForbids) as caught:
        require_permission(hostile, request())
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    assert str(record("issue", b'\x00"\xff')) == '0 issue "\\000\\034\\255"'
    many = [record("issue", f"ca{number}.example") for number in range(100)]
    with pytest.raises(CaaForbids) as caught:
        require_permission(many, request())
    assert len(caught.value.detail) <= 500


# The model: characters and splits instead of one regular expression, written from RFC 8659 4.2 and RFC 8657.

ALPHANUMERIC = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def model_is_label(text: str) -> bool:
    return (text != "" and text[0] in ALPHANUMERIC and text[-1] in ALPHANUMERIC
            and all(character in ALPHANUMERIC or character == "-" for character in text))


def model_names_us(value: bytes, wanted: CaaRequest) -> bool:
    if any(octet > 0x7E or (octet < 0x20 and octet != 0x09) for octet in value):
        return False
    issuer, *rest = [part.strip(" \t") for part in value.decode().split(";")]
    if not all(model_is_label(label) for label in issuer.split(".")):
        return False
    if rest == [""]:
        rest = []
    found: dict[str, list[str]] = {"accounturi": [], "validationmethods": []}
    for parameter in rest:
        if "=" not in parameter:
            return False
        tag, content = parameter.split("=", 1)
        tag, content = tag.strip(" \t"), content.strip(" \t")
        if not model_is_label(tag) or " " in content or "\t" in content:
            return False
        found.setdefault(tag.lower(), []).append(content)
    for accounts in [found["accounturi"]]:
        if accounts and accounts != [wanted.account_url]:
            return False
    for methods in [found["validationmethods"]]:
        if methods and (len(methods) > 1 or wanted.method not in methods[0].split(",")):
            return False
        if methods and not all(label and set(label) <= ALPHANUMERIC | {"-"} for label in methods[0].split(",")):
            return False
    return issuer.lower() in wanted.identities


def model_permits(records: list[CaaRecord], wanted: CaaRequest) -> bool:
    by_tag: dict[str, list[bytes]] = {}
    for each in records:
        known = ("issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone")
        if each.tag.lower() not in known and (each.flags >= 128 or each.flags % 2 == 1):
            return False
        by_tag.setdefault(each.tag.lower(), []).append(each.value)
    values = by_tag.get("issue")
    if wanted.wildcard and "issuewild" in by_tag:
        values = by_tag["issuewild"]
    return values is None or any(model_names_us(value, wanted) for value in values)


VALUE_PARTS = st.sampled_from(["ca.example", "CA.EXAMPLE", "other.example", "", ";", "; ", " ", "\t", "=", "accounturi",
                               "accounturi=", ACCOUNT, f"accounturi={ACCOUNT}", "validationmethods=http-01", ",dns-01",
                               "validationmethods=", "http-01", "a=b", "%", "-", ".", "\x7f", "x"])
VALUES = st.one_of(
    st.lists(VALUE_PARTS, max_size=7).map(lambda parts: "".join(parts).encode()),
    st.lists(VALUE_PARTS, max_size=4).map(lambda parts: ("ca.example;" + ";".join(parts)).encode()),
    st.binary(max_size=12),
)
RECORDS = st.builds(CaaRecord, flags=st.sampled_from([0, 0, 0, 1, 2, 64, 128, 255]), value=VALUES,
                    tag=st.sampled_from(["issue", "Issue", "issuewild", "iodef", "issuemail", "future", ""]))
REQUESTS = st.builds(request, wildcard=st.booleans(), method=st.sampled_from(["http-01", "dns-01"]))


@settings(max_examples=1500)
@given(records=st.lists(RECORDS, max_size=4), wanted=REQUESTS)
def test_decision_agrees_with_the_model(records: list[CaaRecord], wanted: CaaRequest) -> None:
    """For any record set the decision is the one of the independent model, and nothing but CaaForbids is raised."""
    try:
        require_permission(records, wanted)
        permitted = True
    except CaaForbids:
        permitted = False
    assert permitted == model_permits(records, wanted)


@pytest.mark.parametrize("value", [
    b" " * 65_000 + b"%", b"ca.example;" + b"\t" * 65_000 + b"%", b"-" * 65_000, b"a" + b"-" * 65_000, b"a." * 32_000,
    b"ca.example;" + b"a=b;" * 16_000, b"ca.example;" + b"a = b ; " * 8_000, b"a;" + b"b" * 65_000, b";" * 65_000,
], ids=lambda value: str(value[:14]))
def test_hostile_values_cost_no_more_than_their_length(value: bytes) -> None:
    """A value as long as a DNS record can carry is judged in far less than a second, whatever it repeats."""
    began_s = time.process_time()
    with pytest.raises(CaaForbids):
        require_permission([record("issue", value)], request())
    assert time.process_time() - began_s < 0.5
