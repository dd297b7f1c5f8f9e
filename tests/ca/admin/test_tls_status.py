"""The ACME server's own certificate, where an operator renews it: what is told before clients notice."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.admin.tls_status import tls_notices
from ca.process.settings import Settings, load_settings

_SAMPLE = Path(__file__).parents[3] / "deploy" / "public.toml"
_BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def _settings(directory: Path, *names: x509.GeneralName, days: int = 90) -> Settings:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(5)
               .public_key(key.public_key()).not_valid_before(_BEGIN).not_valid_after(_BEGIN + timedelta(days=days)))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    (directory / "tls").mkdir()
    (directory / "tls" / "certificate.pem").write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (directory / "chancery.toml").write_bytes(_SAMPLE.read_bytes())
    return load_settings(directory / "chancery.toml", {})


def _texts(settings: Settings, after: timedelta) -> list[str]:
    found = list(tls_notices(settings, _BEGIN + after))
    assert {each.code for each in found} <= {"tls_certificate"}
    return [each.text for each in found]


@pytest.mark.parametrize(("days", "quiet", "loud"), [(90, 75, 77), (6, 3, 5)])
def test_it_ends_soon(tmp_path: Path, days: int, quiet: int, loud: int) -> None:
    """Two weeks before its end, or in the last third of a short life; and when it has ended."""
    settings = _settings(tmp_path, x509.DNSName("ACME.example.com"), days=days)
    assert _texts(settings, timedelta(days=quiet)) == []
    [text] = _texts(settings, timedelta(days=loud))
    assert " ends at " in text
    assert text.endswith(f"renew it, its file is {tmp_path}/tls/certificate.pem")
    assert " ended at " in _texts(settings, timedelta(days=days))[0]


@pytest.mark.parametrize(("names", "said"), [
    ((x509.DNSName("*.example.com"),), ""),
    ((x509.DNSName("example.com"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))), "example.com, 192.0.2.1"),
    ((), "no name")])
def test_it_is_for_other_names(tmp_path: Path, names: tuple[x509.GeneralName, ...], said: str) -> None:
    """The host of acme.base_url has to be among its names, or under a wildcard."""
    expected = [f"the ACME server's certificate is not for acme.example.com, but for {said}"] if said else []
    assert _texts(_settings(tmp_path, *names), timedelta()) == expected


def test_it_is_somebody_elses_business(tmp_path: Path) -> None:
    """A server that renews its own, a proxy, a file that is not here or is no certificate: nothing is said."""
    settings = _settings(tmp_path, x509.DNSName("x.example.com"))
    assert _texts(settings, timedelta(days=100)) != []
    for change in ({"service_names": ["x"]}, {"tls": False}, {"tls_certificate": tmp_path / "none.pem"},
                   {"tls_certificate": tmp_path / "chancery.toml"}):
        other = msgspec.structs.replace(settings, acme=msgspec.structs.replace(settings.acme, **change))
        assert _texts(other, timedelta(days=100)) == []
