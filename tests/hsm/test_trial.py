"""Trial signatures with keys of the session: they leave nothing behind, heal like everything else, and measure."""

import os
import shutil
from pathlib import Path

import pkcs11
import pytest

from hsm import trial
from hsm.errors import TokenLostError
from hsm.generate import KeySpec
from hsm.trial import signing_rate, try_token
from tests.fixtures_hsm import SoftHsm, make_softhsm


def test_a_trial_leaves_nothing_behind(softhsm_token: SoftHsm) -> None:
    """In a session that may not write: signed, verified, gone."""
    with softhsm_token.open() as token:
        before = token.list_keys()
        for _ in range(3):
            assert 0 < try_token(token) < 30
        assert token.list_keys() == before


@pytest.mark.parametrize("spec", [KeySpec.P_256, KeySpec.P_384, KeySpec.RSA_2048])
def test_rates(softhsm_token: SoftHsm, spec: KeySpec) -> None:
    """At least one signature, for about so long."""
    with softhsm_token.open() as token:
        rate = signing_rate(token, spec, seconds_s=0.05)
        assert rate is not None
        assert rate.signatures >= 1
        assert rate.per_s > 0
        assert {key.label for key in token.list_keys()} == {softhsm_token.rsa_label, softhsm_token.ec_label}


def test_a_module_without_curves(softhsm_token: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """As opencryptoki's soft token: it is tried with an RSA key, and has no rate for the others."""
    make = trial._key_pair

    def rsa_alone(session: object, spec: KeySpec) -> tuple[object, object]:
        if not spec.is_rsa:
            raise pkcs11.MechanismInvalid
        return make(session, spec)

    monkeypatch.setattr(trial, "_key_pair", rsa_alone)
    with softhsm_token.open() as token:
        assert 0 < try_token(token) < 30
        assert signing_rate(token, KeySpec.P_256, seconds_s=0.05) is None
        assert signing_rate(token, KeySpec.RSA_2048, seconds_s=0.05) is not None
        assert {key.label for key in token.list_keys()} == {softhsm_token.rsa_label, softhsm_token.ec_label}


def test_a_token_that_is_away(tmp_path: Path) -> None:
    """An error when it stays away; a signature when it is back."""
    softhsm = make_softhsm(tmp_path / "t", "Trial")
    tokens = Path(next(line.split("=")[1].strip() for line in softhsm.conf.read_text().splitlines()
                       if "tokendir" in line))
    pauses: list[float] = []
    with softhsm.open() as token:
        token._pause = pauses.append
        try_token(token)
        shutil.move(tokens, tmp_path / "away")
        token._session.close()
        with pytest.raises(TokenLostError):
            try_token(token)
        shutil.move(tmp_path / "away", tokens)
        assert try_token(token) > 0
    assert len(pauses) >= 3
    assert os.path.isdir(tokens)
