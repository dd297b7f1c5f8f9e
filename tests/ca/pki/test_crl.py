"""CRLs: the same bytes as cryptography's builder, what openssl thinks of them, and what must never go back."""

import os
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.crl import (
    LIFE_S,
    CrlEntry,
    CrlError,
    ca_issuers_url,
    crl_number,
    crl_serials,
    require_next,
    require_nothing_lost,
    revocation_times_s,
    shard_url,
    slug,
    tbs_crl,
)
from ca.pki.serial import serial_int, serial_number
from ca.pki.tbs import assemble
from tests.ca.pki.authority import NOW, authority

AUTHORITY = authority(ec.generate_private_key(ec.SECP256R1()))
URL = shard_url("http://c.example", "Issuing E1", 4)
_UTC_SECONDS = st.integers(min_value=0, max_value=86_400 * 365 * 30).map(lambda s: NOW + timedelta(seconds=s))
_ENTRIES = st.lists(
    st.builds(CrlEntry, serial=st.binary(min_size=16, max_size=16).map(lambda random16: serial_number(NOW, random16)),
              revoked_at=_UTC_SECONDS, reason=st.sampled_from([0, 1, 3, 4, 5, 9])),
    max_size=6, unique_by=lambda entry: entry.serial)


def _tbs(entries: list[CrlEntry], *, this_update: datetime = NOW, number: int = 7) -> bytes:
    return tbs_crl(issuer=AUTHORITY.issuer, url=URL, number=number, this_update=this_update,
                   next_update=this_update + timedelta(seconds=LIFE_S - 1), entries=entries)


@given(_ENTRIES)
def test_times_of_entries(entries: list[CrlEntry]) -> None:
    """They are read back in their order, whatever the entries."""
    tbs = _tbs(entries)
    assert revocation_times_s(assemble(tbs, b"")) == sorted(int(entry.revoked_at.timestamp()) for entry in entries)


@given(_ENTRIES, _UTC_SECONDS, st.integers(min_value=0, max_value=2**158))
def test_same_bytes_as_the_library(entries: list[CrlEntry], this_update: datetime, number: int) -> None:
    """Any entries, dates and number: byte for byte what cryptography's builder encodes."""
    builder = (
        x509.CertificateRevocationListBuilder().issuer_name(AUTHORITY.certificate.subject).last_update(this_update)
        .next_update(this_update + timedelta(seconds=LIFE_S - 1))
        .add_extension(x509.AuthorityKeyIdentifier(AUTHORITY.issuer.key_id, None, None), False)
        .add_extension(x509.CRLNumber(number), False)
        .add_extension(x509.IssuingDistributionPoint([x509.UniformResourceIdentifier(URL)], None, True, False, None,
                                                     False, False), True))
    flags = list(x509.ReasonFlags)
    codes = {0: None, 1: flags[1], 3: flags[3], 4: flags[4], 5: flags[5], 9: flags[7]}
    for entry in sorted(entries, key=lambda entry: entry.serial):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial_int(entry.serial)).revocation_date(
            entry.revoked_at)
        code = codes[entry.reason]
        builder = builder.add_revoked_certificate(
            (revoked if code is None else revoked.add_extension(x509.CRLReason(code), False)).build())
    assert _tbs(entries, this_update=this_update, number=number) == builder.sign(
        AUTHORITY.key, hashes.SHA256()).tbs_certlist_bytes


@pytest.mark.parametrize("count", [0, 1, 300])
def test_openssl_verifies(tmp_path: Path, count: int) -> None:
    """The signature holds, the entries are read back, and an empty list has no revokedCertificates."""
    entries = [CrlEntry(serial=serial_number(NOW, os.urandom(16)), revoked_at=NOW, reason=number % 2 * 4)
               for number in range(count)]
    tbs = _tbs(entries)
    crl = assemble(tbs, AUTHORITY.sign(tbs))
    (tmp_path / "crl.der").write_bytes(crl)
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.certificate.public_bytes(Encoding.PEM))
    shown = subprocess.run(["openssl", "crl", "-inform", "DER", "-in", str(tmp_path / "crl.der"), "-text", "-noout",
                            "-CAfile", str(tmp_path / "ca.pem")], capture_output=True, text=True, check=True)
    assert "verify OK" in shown.stderr
    assert ("No Revoked Certificates." in shown.stdout) is (count == 0)
    assert f"URI:{URL}" in shown.stdout
    assert "X509v3 Issuing Distribution Point: critical" in shown.stdout
    assert crl_serials(crl) == {entry.serial for entry in entries}
    assert revocation_times_s(crl) == [int(NOW.timestamp())] * count
    loaded = x509.load_der_x509_crl(crl)
    assert loaded.is_signature_valid(AUTHORITY.certificate.public_key())  # type: ignore[arg-type]
    assert [revoked.serial_number for revoked in loaded] == sorted(serial_int(entry.serial) for entry in entries)


def test_twenty_thousand_entries_take_less_than_a_second() -> None:
    """A full shard is built fast enough to be rebuilt within seconds of a revocation."""
    entries = [CrlEntry(serial=serial_number(NOW, os.urandom(16)), revoked_at=NOW, reason=4) for _ in range(20_000)]
    started = time.process_time()
    tbs = _tbs(entries)
    assert time.process_time() - started < 1
    assert len(tbs) < 1_100_000


def test_numbers_grow() -> None:
    """Microseconds since the epoch; a clock that is set back publishes nothing."""
    number = crl_number(NOW + timedelta(microseconds=1))
    assert number == crl_number(NOW) + 1
    require_next(number, None)
    require_next(number, number - 1)
    for last in (number, number + 1):
        with pytest.raises(CrlError, match="clock"):
            require_next(number, last)


def test_no_entry_vanishes_before_its_time() -> None:
    """Every serial of the last CRL is in the next one, or has expired."""
    entry = CrlEntry(serial=b"\x02" * 18, revoked_at=NOW, reason=0)
    require_nothing_lost([entry.serial], [entry], [])
    require_nothing_lost([entry.serial], [], [entry.serial])
    with pytest.raises(CrlError, match="0202"):
        require_nothing_lost([entry.serial], [], [])


def test_urls() -> None:
    """Names become path segments in one way; shards count from 1."""
    assert slug("Issuing E1") == "issuing-e1"
    assert slug("  Ünder/Score__X. ") == "nder-score-x"
    assert URL == "http://c.example/issuing-e1/5.crl"
    assert ca_issuers_url("http://i.example", "Issuing E1") == "http://i.example/issuing-e1.crt"
