"""New SoftHSM tokens, and where the module is."""

import stat
from pathlib import Path

import pytest

from hsm.errors import ModuleUnusableError, TokenFaultError
from hsm.softhsm import default_module, initialise_softhsm_token
from tests.fixtures_hsm import SoftHsm


def test_files_of_a_new_token_are_private(tmp_path: Path) -> None:
    """PINs, configuration and objects are readable by this user alone."""
    made = initialise_softhsm_token(tmp_path / "hsm", "Private", "a PIN with spaces")
    for path in (made.conf, made.pin_file, tmp_path / "hsm" / "so-pin"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in (tmp_path / "hsm", tmp_path / "hsm" / "tokens"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    softhsm = SoftHsm(module=default_module(), conf=made.conf, token_label="Private", pin_file=made.pin_file)
    with softhsm.open() as token:
        assert token.info.token_label == "Private"


def test_a_token_is_never_made_over_another(tmp_path: Path) -> None:
    """A directory that holds a token is refused, and the token stays as it was."""
    made = initialise_softhsm_token(tmp_path / "hsm", "First", "1234")
    with pytest.raises(TokenFaultError, match="holds a token already"):
        initialise_softhsm_token(tmp_path / "hsm", "Second", "5678")
    assert made.pin_file.read_text() == "1234\n"


def test_the_tools_refusal_is_passed_on(tmp_path: Path) -> None:
    """What softhsm2-util says when it cannot is in the error."""
    with pytest.raises(TokenFaultError, match="could not make token"):
        initialise_softhsm_token(tmp_path / "hsm", "Short", "123")


def test_default_module() -> None:
    """The installed SoftHSM is found; an explicit path is taken as it is, and must exist."""
    assert Path(default_module()).is_file()
    assert default_module("p11-kit-proxy.so") == "p11-kit-proxy.so"
    with pytest.raises(ModuleUnusableError, match=r"/nowhere\.so does not exist"):
        default_module("/nowhere.so")
