"""What the public policy demands of a configuration: each relaxation of an internal CA is refused by its key."""

from pathlib import Path

import pytest

from ca.issuing.policy import issuance_policy
from ca.process.lifecycle import StartupError
from ca.process.settings import SettingsError, load_perspective_settings, load_settings

_SAMPLE = Path(__file__).parents[3] / "deploy" / "public.toml"
_HOST = """policy = "public"
[perspective]
name = "fra1"
listen = ["0.0.0.0:8550"]
certificate = "certificate.pem"
key = "key.pem"
va_certificates = "va.pem"
[va]
caa_identities = ["ca.example.com"]
"""


def test_the_sample_is_a_public_configuration(tmp_path: Path) -> None:
    """deploy/public.toml: CT is on, the limits are those of the preset, nothing of an internal CA is in it."""
    config = tmp_path / "chancery.toml"
    config.write_bytes(_SAMPLE.read_bytes())
    settings = load_settings(config, {})
    assert settings.policy == "public"
    assert settings.ct_enabled
    assert settings.limit_rates["certificates-per-domain"].burst == 50
    assert settings.data_dir == tmp_path


@pytest.mark.parametrize(("section", "line", "message"), [
    ("va", "allow_loopback = true", r'va\.allow_loopback: expected false under policy = "public"'),
    ("va", "localhost_names = true", r"va\.localhost_names: expected false"),
    ("va", 'allowed_prefixes = ["10.0.0.0/8"]', r"va\.allowed_prefixes: expected none .*, got 10\.0\.0\.0/8"),
    ("va", 'caa_exempt_suffixes = ["corp"]', r"va\.caa_exempt_suffixes: expected none .*, got corp"),
    ("va", "http_01_port = 5002", r"va\.http_01_port: expected 80 .*, got 5002"),
    ("va", "https_port = 5003", r"va\.https_port: expected 443 .*, got 5003"),
    ("va", "tls_alpn_01_port = 5001", r"va\.tls_alpn_01_port: expected 443 .*, got 5001"),
    ("ca", 'internal_suffixes = ["*"]', r"ca\.internal_suffixes: expected none"),
    ("ca", 'service_names = ["localhost"]', r"ca\.service_names: expected none .* acme\.tls_certificate"),
    ("acme", 'service_names = ["acme.example.com"]', r"acme\.service_names: expected none .*\(acme\.tls = false\)"),
])
def test_relaxations_are_refused(tmp_path: Path, section: str, line: str, message: str) -> None:
    """BR 3.2.2.4, 3.2.2.8: one line with file, key and form, never a warning that nobody reads."""
    config = tmp_path / "chancery.toml"
    config.write_text(_SAMPLE.read_text("utf-8").replace(f"\n[{section}]\n", f"\n[{section}]\n{line}\n"), "utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(config, {})
    assert str(config) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "url"), [
    ("acme.base_url", "https://localhost:14000"), ("ca.ocsp_url", "http://ocsp"),
    ("ca.aia_base_url", "http://192.0.2.1"), ("ca.crl_base_url", "http://[2001:db8::1]:80")])
def test_urls_are_on_names_of_the_internet(tmp_path: Path, key: str, url: str) -> None:
    """BR 7.1.2.7: a host without a dot, or an address, is refused before a certificate with it can be."""
    config = tmp_path / "chancery.toml"
    section, name = key.split(".")
    text = _SAMPLE.read_text("utf-8")
    old = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
    config.write_text(text.replace(old, f'{name} = "{url}"'), "utf-8")
    with pytest.raises(SettingsError, match=rf"{section}\.{name}: expected a URL on a name of the Internet"):
        load_settings(config, {})


def test_the_ca_does_not_start_with_special_use_urls(tmp_path: Path) -> None:
    """NM8: a host that has a dot and is no name of the Internet would make lint refuse every certificate."""
    config = tmp_path / "chancery.toml"
    config.write_text(_SAMPLE.read_text("utf-8"), "utf-8")
    assert issuance_policy(load_settings(config, {})).names.public
    config.write_text(_SAMPLE.read_text("utf-8").replace("//crl.example.com", "//crl.corp.internal"), "utf-8")
    with pytest.raises(StartupError, match=r"ca\.crl_base_url: crl\.corp\.internal is a special-use name"):
        issuance_policy(load_settings(config, {}))


def test_a_perspective_is_as_strict(tmp_path: Path) -> None:
    """A remote host of a public CA does not start with a relaxation either."""
    config = tmp_path / "perspective.toml"
    config.write_text(_HOST, "utf-8")
    assert load_perspective_settings(config, {}).policy == "public"
    config.write_text(f"{_HOST}allow_loopback = true\n", "utf-8")
    with pytest.raises(SettingsError, match=r"va\.allow_loopback: expected false"):
        load_perspective_settings(config, {})
