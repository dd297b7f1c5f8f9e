"""A real SoftHSM for the tests. PKCS#11 in the test process: one token at a time, opened and closed by the test."""

from dataclasses import dataclass
from pathlib import Path

import pytest

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
