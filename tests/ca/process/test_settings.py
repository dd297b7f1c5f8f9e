"""The configuration file: what is accepted, and the line that says what is wrong."""

from pathlib import Path

import pytest

from ca.admin.demo_config import DemoOptions, config_text, read_options, updated_text
from ca.process.settings import SettingsError, load_settings

_OPTIONS = DemoOptions(port_base=15_000, resolver="127.0.0.1:53", http_01_port=5002, tls_alpn_01_port=5001,
                       policy="internal", module="/usr/lib/softhsm/libsofthsm2.so")


_SAMPLE = Path(__file__).parents[3] / "deploy" / "public.toml"


def _public_or_internal(config: Path, policy: str) -> str:
    """The demo's configuration, or the sample of a public CA, whose list of logs is left to the test."""
    if policy == "internal":
        return config.read_text("utf-8")
    return _SAMPLE.read_text("utf-8").replace('log_list = "log_list.json"', "enabled = false")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A demo's configuration file."""
    path = tmp_path / "chancery.toml"
    path.write_text(config_text(_OPTIONS, tmp_path), "utf-8")
    return path


def test_the_demo_configuration_is_read_back(config: Path) -> None:
    """Everything that the demo writes is understood, and paths count from the file."""
    settings = load_settings(config, {})
    assert read_options(settings) == _OPTIONS
    assert settings.hsm.pin_file == config.parent / "hsm/online/pin"
    assert settings.acme.base_url == "https://localhost:15000"


@pytest.mark.parametrize(("policy", "written", "on"), [
    ("internal", "", False), ("public", 'log_list = "l.json"', True), ("public", "enabled = false", False),
    ("internal", 'enabled = true\nlog_list = "l.json"', True)])
def test_certificate_transparency_follows_the_policy(config: Path, policy: str, written: str, on: bool) -> None:
    """On in public, off in internal, unless the file says otherwise; the list's path counts from the file."""
    config.write_text(_public_or_internal(config, policy).replace("enabled = false", written), "utf-8")
    settings = load_settings(config, {})
    assert settings.ct_enabled is on
    assert settings.ct.log_list == (config.parent / "l.json" if "log_list" in written else None)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("workers = 1", "wrokers = 1", r"acme: there is no key wrokers; is workers meant\?"),
    ("workers = 1", "frobnicate = 1", r"acme: there is no key frobnicate; known are .*workers"),
    ("workers = 1", 'workers = "2"', r"acme\.workers: Expected `int`, got `str`"),
    ("workers = 1", "workers = 0", r"acme\.workers: expected a number of at least 1, got 0"),
    ("workers = 1", "authorization_life_s = 2592001", r"acme\.authorization_life_s: expected 1 to 2592000 seconds"),
    ('policy = "internal"', 'policy = "strict"', r"policy: Invalid enum value 'strict'"),
    ("http_01_port = 5002", "http_01_port = 70000", r"va\.http_01_port: expected a port number"),
    ("[distribution]\n", "[distributions]\n", r"toml: there is no key distributions; is distribution meant\?"),
    ('base_url = "https', 'base_url = "http', r"acme\.base_url: expected an https:// URL"),
    ('ocsp_url = "http:', 'ocsp_url = "https:', r"ca\.ocsp_url: expected an http:// URL"),
    ("enabled = false", "enabled = true", r"ct\.log_list: expected the path of a list of CT logs"),
    ("enabled = false", "patience_s = 0", r"ct\.patience_s: expected a number of at least 1"),
    ("[acme]", "[acme", r"not TOML"),
])
def test_a_mistake_is_named_with_file_key_and_form(config: Path, old: str, new: str, message: str) -> None:
    """An unknown key, a wrong type or an impossible value refuses to start and says where."""
    text = config.read_text("utf-8")
    assert old in text
    config.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(config, {})
    assert str(config) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_environment_overrides_one_key(config: Path) -> None:
    """CHANCERY_SECTION__KEY wins over the file; numbers are numbers, and text stays text."""
    settings = load_settings(config, {"CHANCERY_ACME__WORKERS": "4", "CHANCERY_VA__RESOLVER": "10.0.0.1:53",
                                      "CHANCERY_HOME": "x"})
    assert settings.acme.workers == 4
    assert settings.va.resolver == "10.0.0.1:53"


def test_an_override_with_the_wrong_type_names_its_variable(config: Path) -> None:
    """The message leads to the environment, to each variable that was taken up, not only to the file."""
    with pytest.raises(SettingsError, match="CHANCERY_ACME__WORKERS"):
        load_settings(config, {"CHANCERY_ACME__WORKERS": "many", "CHANCERY_VA__RESOLVER": "10.0.0.1:53"})


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    """No traceback: one line."""
    with pytest.raises(SettingsError, match="no such file"):
        load_settings(tmp_path / "none.toml", {})


def test_changed_options_keep_what_a_person_edited(config: Path) -> None:
    """A new --resolver changes its own line; comments and other settings stay as they are."""
    text = config.read_text("utf-8").replace("workers = 1", "workers = 3  # mine", 1)
    wanted = DemoOptions(port_base=15_000, resolver="127.0.0.1:8053", http_01_port=80, tls_alpn_01_port=5001,
                         policy="internal", module=_OPTIONS.module)
    config.write_text(updated_text(text, wanted), "utf-8")
    assert "workers = 3  # mine" in config.read_text("utf-8")
    assert read_options(load_settings(config, {})) == wanted


@pytest.mark.parametrize(("policy", "section", "orders", "domain"), [
    ("internal", "", 500_000, None), ("public", "", 300, 50),
    ("public", "orders_per_account = { burst = 7, period_s = 60 }", 7, 50),
    ("public", "certificates_per_domain = { burst = 0, period_s = 60 }", 300, None)])
def test_limits_are_of_the_policy_unless_the_file_says(config: Path, policy: str, section: str, orders: int,
                                                       domain: int | None) -> None:
    """Each limit by itself; a burst of 0 switches it off."""
    text = _public_or_internal(config, policy)
    config.write_text(f"{text}\n[limits]\n{section}\n", "utf-8")
    rates = load_settings(config, {}).limit_rates
    assert rates["orders-per-account"].burst == orders
    assert ("certificates-per-domain" in rates) == (domain is not None)
    assert rates["nonces-per-address"].period_s == 20


@pytest.mark.parametrize(("section", "text", "message"), [
    ("limits", "orders_per_account = { burst = -1, period_s = 60 }", "limits.orders_per_account"),
    ("limits", "orders_per_account = { burst = 1 }", "period_s"),
    ("limits", "orders_per_account = 5", "limits.orders_per_account"),
    ("limits", "pause_after_failures = -1", "limits.pause_after_failures"),
    ("limits", 'help_url = "http://x"', "limits.help_url"),
    ("acme", 'client_address = "forwarded"', "acme.trusted_proxies"),
    ("acme", 'trusted_proxies = ["10.0.0.0/8"]', "acme.trusted_proxies"),
    ("acme", 'client_address = "forwarded"\ntrusted_proxies = ["proxy.example"]', "got 'proxy.example'"),
    ("acme", 'client_address = "via"', "acme.client_address"),
    ("acme", "read_timeout_s = 0.0", "acme.read_timeout_s"),
    ("acme", "max_in_flight = 0", "acme.max_in_flight"),
    ("acme", "validation_wait_ms = 60000", "acme.validation_wait_ms"),
    ("ocsp", "live_queue = 21", r"ocsp\.live_queue: expected 1 to 20 places, got 21"),
    ("ocsp", "live_wait_ms = 50", r"ocsp\.live_wait_ms: expected 100 to 5000 milliseconds"),
    ("ocsp", "live_per_s = 0.0", r"ocsp\.live_per_s: expected a number above 0"),
    ("ocsp", "live_client_burst = 0", r"ocsp\.live_client_burst: expected 1 to"),
    ("ocsp", 'live_trusted_proxies = ["proxy"]', r"ocsp\.live_trusted_proxies: expected an address or a network"),
])
def test_limits_and_proxies_that_cannot_be(config: Path, section: str, text: str, message: str) -> None:
    """Each names its key and what was expected."""
    before = config.read_text("utf-8")
    if section != "limits":
        config.write_text(before.replace(f"[{section}]", f"[{section}]\n{text}"), "utf-8")
    else:
        config.write_text(f"{before}\n[limits]\n{text}\n", "utf-8")
    with pytest.raises(SettingsError, match=message):
        load_settings(config, {})
