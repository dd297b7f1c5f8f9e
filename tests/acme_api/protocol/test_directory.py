"""URLs: built and taken apart alike (rows T13, J9, E8, E69)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol import directory
from acme_api.protocol.directory import Resource, Target, parse_account_url, parse_path
from ca.pki.object_id import ObjectId, to_text

BASE = "https://ca.example:14000"
_IDS = st.binary(min_size=22, max_size=22).map(ObjectId)
_ID = ObjectId(bytes(range(22)))
_TEXT = to_text(_ID)


@given(_IDS, st.binary(min_size=18, max_size=18), st.integers(0, 99))
def test_every_url_leads_back(object_id: ObjectId, serial: bytes, alternate: int) -> None:
    """parse_path is the inverse of each builder."""
    for url, target in [
        (directory.account_url(BASE, object_id), Target(resource=Resource.ACCOUNT, object_id=object_id)),
        (directory.orders_url(BASE, object_id), Target(resource=Resource.ORDERS, object_id=object_id)),
        (directory.order_url(BASE, object_id), Target(resource=Resource.ORDER, object_id=object_id)),
        (directory.finalize_url(BASE, object_id), Target(resource=Resource.FINALIZE, object_id=object_id)),
        (directory.authorization_url(BASE, object_id), Target(resource=Resource.AUTHORIZATION, object_id=object_id)),
        (directory.challenge_url(BASE, object_id, "dns-01"),
         Target(resource=Resource.CHALLENGE, object_id=object_id, challenge_type="dns-01")),
        (directory.certificate_url(BASE, serial, object_id, alternate=alternate),
         Target(resource=Resource.CERTIFICATE, object_id=object_id, serial=serial, alternate=alternate)),
        (directory.certificate_url(BASE, serial, object_id, alternate=alternate, above=1),
         Target(resource=Resource.CERTIFICATE, object_id=object_id, serial=serial, alternate=alternate, above=1)),
    ]:
        assert parse_path(url.removeprefix(BASE)) == target
    assert parse_account_url(BASE, directory.account_url(BASE, object_id)) == object_id


def test_every_directory_entry_leads_back() -> None:
    """Each URL of the directory object is a path that is known; newAuthz only where it works (rows D1, D2, D3)."""
    found = directory.directory_object(BASE, terms_of_service="", website="https://ca.example/",
                                       caa_identities=["ca.example"], profiles={"classic": "x"},
                                       external_account_required=False, pre_authorization=True)
    assert "newAuthz" not in directory.directory_object(
        BASE, terms_of_service="", website="", caa_identities=[], profiles={}, external_account_required=True,
        pre_authorization=False)
    meta = found.pop("meta")
    assert meta == {"externalAccountRequired": False, "website": "https://ca.example/", "caaIdentities": ["ca.example"],
                    "profiles": {"classic": "x"}}
    assert set(found) == {"newNonce", "newAccount", "newOrder", "newAuthz", "revokeCert", "keyChange", "renewalInfo"}
    assert parse_path(found.pop("renewalInfo").removeprefix(BASE) + "/a.b") == Target(
        resource=Resource.RENEWAL_INFO, certificate="a.b")
    for url in found.values():
        assert parse_path(url.removeprefix(BASE)) is not None


def test_d4_paths_stay() -> None:
    """Row D4: clients keep the directory for as long as they like, so that these URLs work for years."""
    found = directory.directory_object(BASE, terms_of_service="", website="", caa_identities=[], profiles={},
                                       external_account_required=False, pre_authorization=True)
    del found["meta"]
    assert found == {
        "newNonce": f"{BASE}/acme/new-nonce", "newAccount": f"{BASE}/acme/new-account",
        "newOrder": f"{BASE}/acme/new-order", "newAuthz": f"{BASE}/acme/new-authz",
        "revokeCert": f"{BASE}/acme/revoke-cert", "keyChange": f"{BASE}/acme/key-change",
        "renewalInfo": f"{BASE}/acme/renewal-info"}
    assert directory.directory_url(BASE) == f"{BASE}/directory"


@pytest.mark.parametrize("path", [
    "", "/", "/acme", "/acme/", "/directory/", "//directory", "/Directory", "/acme/new-order/", "//acme/new-order",
    "/acme/renewal-info", "/acme/renewal-info/", "/acme/renewal-info/a.b/", "/acme/renewal-info/a/b",
    "/acme/../admin", "/acme/%6eew-order", "/acme/new-order;x", "/acme/new-authz/", f"/acme/account/{_TEXT}/",
    f"/acme/account/{_TEXT}/orders/", f"/acme/account/{_TEXT}/x", f"/acme/order/{_TEXT}/finalize/x",
    f"/acme/account/{_TEXT[:-1]}", f"/acme/account/{_TEXT}A", f"/acme/authz/{_TEXT}/x", f"/acme/challenge/{_TEXT}",
    f"/acme/challenge/{_TEXT}/", f"/acme/challenge/{_TEXT}/dns-01/x", f"/acme/cert/{_TEXT}", f"/acme/cert/00/{_TEXT}",
    f"/acme/cert/{'AB' * 18}/{_TEXT}", f"/acme/cert/{'ab' * 18}/{_TEXT}/0", f"/acme/cert/{'ab' * 18}/{_TEXT}/01",
    f"/acme/cert/{'ab' * 18}/{_TEXT}/up", f"/acme/cert/{'ab' * 18}/{_TEXT}/up/0", f"/acme/cert/{'ab' * 18}/x/up/1",
    f"/acme/cert/{'ab' * 18}/{_TEXT}/1/up", f"/acme/cert/{'ab' * 18}/{_TEXT}/1/up/1/1",
    f"/acme/cert/{'ab' * 18}/{_TEXT}/0/up/1",
    f"/acme/cert/{'ab' * 18}/{_TEXT}/-1", f"/acme/cert/{'ab' * 18}/{_TEXT}/100", f"/acme/cert/{'ab' * 18}/{_TEXT}/1/",
    f"/acme/cert/{'ab' * 18}/{_TEXT}/\u0661", "/acme/order/" + "A" * 10_240, f"x/acme/order/{_TEXT}",
])
def test_other_spellings_lead_nowhere(path: str) -> None:
    """No folding, no decoding, no forgiveness (rows E8, E69)."""
    assert parse_path(path) is None


@pytest.mark.parametrize("kid", [
    "", "x", f"http://ca.example:14000/acme/account/{_TEXT}", f"{BASE}/acme/account/{_TEXT}/",
    f"https://other.example/acme/account/{_TEXT}", f"{BASE}/acme/order/{_TEXT}", f"{BASE.upper()}/acme/account/{_TEXT}",
    f"{BASE}/acme/account/../../x", f"{BASE}/acme/account/' OR 1=1--", "A" * 8192, f"{BASE}/acme/account/{_TEXT}?x",
    f"{BASE}/acme/account/{_TEXT.lower()}x", f"{BASE}/acme/account/",
])
def test_a_kid_is_exactly_an_account_url(kid: str) -> None:
    """Rows J9, E24."""
    assert parse_account_url(BASE, kid) is None
