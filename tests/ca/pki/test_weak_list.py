"""Published lists of weak keys: each form is read strictly, and a key is found by what it would be listed by."""

import hashlib
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki import der
from ca.pki.public_key import RSA_ALGORITHM, require_acceptable
from ca.pki.weak_list import FORMS, WeakListError, digests, parse_list

# 142 primes have 10,011 products.
_PRIME_PAIRS = 71


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_debians_form_is_what_openssl_prints(tmp_path: Path) -> None:
    """`openssl rsa -modulus | sha1sum`, the last 20 digits: the line of Debian's blacklist for this key."""
    key = rsa.generate_private_key(65_537, 2048).public_key()
    file = tmp_path / "key.pem"
    file.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    printed = subprocess.run(["openssl", "rsa", "-pubin", "-in", str(file), "-noout", "-modulus"], check=True,
                             capture_output=True).stdout
    line = hashlib.sha1(printed, usedforsecurity=False).hexdigest()[-20:]
    [listed] = parse_list(f"# RSA-2048\n{line}\n", "openssl-blacklist")
    assert listed in digests(_spki(key))


def test_each_form_finds_its_key() -> None:
    """By the whole key for every kind, by the modulus for RSA; another key is not found."""
    key = rsa.generate_private_key(65_537, 2048).public_key()
    modulus = key.public_numbers().n.to_bytes(256, "big")
    other = digests(_spki(rsa.generate_private_key(65_537, 2048).public_key()))
    for form, digest in (("spki-sha256", hashlib.sha256(_spki(key))), ("modulus-sha256", hashlib.sha256(modulus))):
        [listed] = parse_list(digest.hexdigest().upper() + " comment", form)
        assert listed in digests(_spki(key))
        assert listed not in other
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    [listed] = parse_list(hashlib.sha256(_spki(point)).hexdigest(), "spki-sha256")
    assert digests(_spki(point)) == [listed]


@pytest.mark.parametrize("form", [*FORMS])
def test_lists_are_read_strictly(form: str) -> None:
    """Comments and empty lines pass; anything else but a digest of the form is refused with its line."""
    good = "ab" * FORMS[form][1]
    assert len(list(parse_list(f"\n# a comment\n{good}  # why\n\n{good}\n", form))) == 2
    for bad in (good[:-1], good + "0", "zz" + good[2:], "0x" + good[2:], "ü" * len(good)):
        with pytest.raises(WeakListError, match="line 2"):
            list(parse_list(f"{good}\n{bad}\n", form))


def test_forms_do_not_meet() -> None:
    """The same digest in two forms is two entries."""
    text = "ab" * 32
    assert set(parse_list(text, "spki-sha256")).isdisjoint(parse_list(text, "modulus-sha256"))


def test_ten_thousand_honest_keys_pass() -> None:
    """Every product of two of OpenSSL's primes is accepted, and no digest is anybody else's (spec/pki.md 2)."""
    primes = []
    for _ in range(_PRIME_PAIRS):
        numbers = rsa.generate_private_key(65_537, 2048).private_numbers()
        primes += [numbers.p, numbers.q]
    exponent = der.integer(65_537)
    seen = set()
    count = 0
    for one, other in combinations(primes, 2):
        spki = der.sequence(RSA_ALGORITHM, der.bit_string(der.sequence(der.integer(one * other), exponent)))
        if (one * other).bit_length() != 2048:
            continue
        seen.add(require_acceptable(spki).sha256)
        count += 1
    assert count >= 10_000
    assert len(seen) == count
