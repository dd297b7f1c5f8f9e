"""What is published where: the newest CRL of every shard, never an older one, and every CA certificate."""

import hashlib
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ca.distribution.snapshot import CeremonyFile, Crl, CrlKey, Issuer, Snapshot, next_snapshot
from ca.pki.crl import slug

_NOW = datetime(2026, 11, 24, 3, 0, 0, 123456, tzinfo=UTC)
_ISSUER = Issuer(id=1, name="Test Issuer EC 1", certificate=b"certificate", created_at=_NOW)


def _crl(number: int, *, shard: int = 0, issuer_id: int = 1) -> Crl:
    return Crl(key=CrlKey(issuer_id=issuer_id, shard=shard, number=number), this_update=_NOW,
               next_update=_NOW + timedelta(days=9), der=b"crl %d" % number)


def _next(held: Snapshot, *crls: Crl, base: str = "http://c.example", files: tuple[CeremonyFile, ...] = ()) -> Snapshot:
    return next_snapshot(held, issuers=[_ISSUER], ceremony_files=files, crls=crls, aia_base_url=base, crl_base_url=base)


def test_paths_are_those_of_certificates() -> None:
    """AIA: /<slug>.crt; CRL: /<slug>/<shard + 1>.crl; ceremony files as the ceremony named them."""
    root = CeremonyFile(path="/test-root.crl", content_type="application/pkix-crl", body=b"root crl", created_at=_NOW)
    files = _next(Snapshot(), _crl(1), _crl(2, shard=5), files=(root,)).files
    name = slug("Test Issuer EC 1")
    assert set(files) == {f"/{name}.crt", f"/{name}/1.crl", f"/{name}/6.crl", "/test-root.crl"}
    assert files[f"/{name}.crt"].content_type == "application/pkix-cert"
    assert files[f"/{name}/6.crl"].content_type == "application/pkix-crl"
    assert files["/test-root.crl"].body == b"root crl"


def test_a_base_url_with_a_path_serves_both_spellings() -> None:
    """A proxy may pass the whole path or cut its own part."""
    name = slug("Test Issuer EC 1")
    files = _next(Snapshot(), _crl(1), base="http://pki.example/ca").files
    assert files[f"/ca/{name}/1.crl"] is files[f"/{name}/1.crl"]


def test_validators() -> None:
    """A strong ETag of the bytes and a Last-Modified of whole seconds that ends in GMT (RFC 9110 5.6.7)."""
    file = _next(Snapshot(), _crl(1)).files[f"/{slug(_ISSUER.name)}/1.crl"]
    assert file.etag == f'"{hashlib.sha256(b"crl 1").hexdigest()}"'
    assert file.last_modified_text == "Tue, 24 Nov 2026 03:00:00 GMT"
    assert file.last_modified == _NOW.replace(microsecond=0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), max_size=40))
def test_a_crl_never_goes_back(history: list[tuple[int, int]]) -> None:
    """Whatever the database shows in whatever order, each shard shows the greatest number it has ever shown."""
    held = Snapshot()
    greatest: dict[int, int] = {}
    for shard, number in history:
        wanted = held.newer([CrlKey(issuer_id=1, shard=shard, number=number)])
        held = _next(held, *[_crl(key.number, shard=key.shard) for key in wanted])
        greatest[shard] = max(greatest.get(shard, -1), number)
        for seen, expected in greatest.items():
            assert held.files[f"/{slug(_ISSUER.name)}/{seen + 1}.crl"].body == b"crl %d" % expected


def test_crls_of_an_unknown_issuer_are_not_published() -> None:
    """Without an issuer there is no path; when it appears the CRL does too."""
    held = _next(Snapshot(), _crl(1, issuer_id=2))
    assert not any(path.endswith(".crl") for path in held.files)
    second = Issuer(id=2, name="Second", certificate=b"2", created_at=_NOW)
    later = next_snapshot(held, issuers=[second], ceremony_files=[], crls=[], aia_base_url="http://c", crl_base_url="")
    assert "/second/1.crl" in later.files
