"""Another PKCS#11 module: the proxy of p11-kit, with SoftHSM behind it. Everything that a CA needs works through it."""

import hashlib
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from hsm.errors import KeyGenerationError, TokenMissingError
from hsm.generate import KeySpec, generate_key
from hsm.key import private_key, sign_many
from hsm.token import Token
from hsm.trial import try_token
from tests.fixtures_hsm import SoftHsm, make_softhsm

_PLACES = ("/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so", "/usr/lib/aarch64-linux-gnu/p11-kit-proxy.so",
           "/usr/lib64/p11-kit-proxy.so", "/usr/lib/p11-kit-proxy.so", "/opt/homebrew/lib/p11-kit-proxy.dylib")


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    """A SoftHSM token, to be reached through the proxy."""
    module = next((place for place in _PLACES if Path(place).exists()), None)
    assert module is not None, "p11-kit's proxy module is missing: install p11-kit-modules"
    made = make_softhsm(tmp_path_factory.mktemp("p11"), "Behind p11-kit")
    return SoftHsm(module=module, conf=made.conf, token_label=made.token_label, pin_file=made.pin_file)


@pytest.mark.parametrize("spec", [KeySpec.P_256, KeySpec.P_384, KeySpec.RSA_2048])
def test_keys_are_made_found_and_sign(proxied: SoftHsm, spec: KeySpec) -> None:
    """Generated with every attribute read back, found again after a new start of the module; signatures hold."""
    with proxied.open(writable=True) as token:
        made = generate_key(token, label=spec.value, key_id=os.urandom(16), spec=spec)
        with pytest.raises(KeyGenerationError, match="already"):
            generate_key(token, label=spec.value, key_id=os.urandom(16), spec=spec)
    with proxied.open() as token:
        key = private_key(token, spec.value, expected_spki=made.spki)
        messages = [hashlib.sha256(bytes((number,))).digest() for number in range(20)]
        public = key.public_key()
        for message, signature in zip(messages, sign_many(key, messages), strict=True):
            if isinstance(public, rsa.RSAPublicKey):
                public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            else:
                public.verify(signature, message, ec.ECDSA(
                    hashes.SHA384() if spec is KeySpec.P_384 else hashes.SHA256()))
        assert spec.value in {listing.label for listing in token.list_keys() if listing.has_private}


def test_a_lost_session_heals(proxied: SoftHsm) -> None:
    """As with the module itself."""
    with proxied.open() as token:
        try_token(token)
        token._session.close()
        assert try_token(token) > 0
        assert "p11" in token.info.library.lower() or "PKCS#11 Kit" in token.info.library


def test_no_such_token(proxied: SoftHsm) -> None:
    """Named with what is there."""
    with pytest.raises(TokenMissingError, match="Behind p11-kit"):
        Token.open(module=proxied.module, conf=proxied.conf, token_label="other", pin_file=proxied.pin_file)
