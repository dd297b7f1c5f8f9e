"""A real SoftHSM for the tests. PKCS#11 in the test process: one token at a time, opened and closed by the test."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from ca.admin.ceremony.act import run_ceremony
from ca.admin.ceremony.plan import CeremonyPlan, load_demo_plan
from ca.admin.ceremony.result import CeremonyResult
from ca.process.ambient import system_ambient
from ca.process.settings import HsmSettings
from hsm.generate import KeySpec, generate_key
from hsm.softhsm import default_module, initialise_softhsm_token
from hsm.token import Token

RSA_LABEL = "Test R1"
EC_LABEL = "Test E1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftHsm:
    """Where the token is, as `Token.open` and a process's settings want to know it, and what keys are in it."""

    module: str
    conf: Path
    token_label: str
    pin_file: Path
    rsa_label: str = RSA_LABEL      # RSA-2048
    ec_label: str = EC_LABEL        # P-256

    @property
    def settings(self) -> HsmSettings:
        """The [hsm] section."""
        return HsmSettings(module=self.module, conf=self.conf, token_label=self.token_label, pin_file=self.pin_file)

    def open(self, *, writable: bool = False) -> Token:
        """The token, opened in this process and thread: `with softhsm_token.open() as token:`."""
        return Token.open(module=self.module, conf=self.conf, token_label=self.token_label, pin_file=self.pin_file,
                          writable=writable)


def make_softhsm(directory: Path, label: str) -> SoftHsm:
    """An empty token in a directory of its own."""
    made = initialise_softhsm_token(directory, label, system_ambient().random_bytes(8).hex())
    return SoftHsm(module=default_module(), conf=made.conf, token_label=made.label, pin_file=made.pin_file)


@pytest.fixture(scope="session")
def softhsm_token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    """A token with one RSA-2048 and one P-256 key, shared by all tests: read it, do not change it."""
    softhsm = make_softhsm(tmp_path_factory.mktemp("hsm"), "Chancery Tests")
    random_bytes = system_ambient().random_bytes
    with softhsm.open(writable=True) as token:
        generate_key(token, label=RSA_LABEL, key_id=random_bytes(16), spec=KeySpec.RSA_2048)
        generate_key(token, label=EC_LABEL, key_id=random_bytes(16), spec=KeySpec.P_256)
    return softhsm


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCeremony:
    """A held ceremony of the demo's plan, with the [hsm] section of the processes that use its issuing keys."""

    result: CeremonyResult
    hsm: HsmSettings            # the online token: keys "Chancery Demo R1" (RSA-2048) and "Chancery Demo E1" (P-256)
    online: SoftHsm
    root: SoftHsm


def quick_plan() -> CeremonyPlan:
    """The demo's plan with smaller root keys: RSA-2048 and P-256."""
    plan = load_demo_plan(aia_base_url="http://localhost:14002", crl_base_url="http://localhost:14002")
    quick = {"rsa-4096": "rsa-2048", "p-384": "p-256"}
    return msgspec.structs.replace(
        plan, roots=[msgspec.structs.replace(root, key=quick[root.key]) for root in plan.roots])


@pytest.fixture(scope="session")
def demo_ceremony(tmp_path_factory: pytest.TempPathFactory) -> DemoCeremony:
    """The hierarchy of the demo, made once a session with quick root keys. Record it with `record_ceremony`."""
    directory = tmp_path_factory.mktemp("ceremony")
    root = make_softhsm(directory / "hsm" / "root", "chancery-root")
    online = make_softhsm(directory / "hsm" / "online", "chancery-online")
    result = run_ceremony(quick_plan(), out_dir=directory / "ceremony", root_hsm=root.settings,
                          online_hsm=online.settings, ambient=system_ambient())
    return DemoCeremony(result=result, hsm=online.settings, online=online, root=root)
