"""What people type: every usual spelling is understood, everything else is refused with the form that is expected."""

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ca.admin.context import CommandError
from ca.admin.output import plain
from ca.admin.reference import parse_id, parse_key, parse_name, parse_serial
from ca.pki.object_id import ObjectId, to_text

_SERIAL = "0ad7e7f6c011776e8db7cd330b54174fd76f"
_ID = to_text(ObjectId(bytes(range(22))))


@pytest.mark.parametrize("text", [
    _SERIAL, _SERIAL.upper(), f"0x{_SERIAL}", f" {_SERIAL}\n", _SERIAL[1:],
    ":".join(_SERIAL[i:i + 2] for i in range(0, 36, 2)), str(int(_SERIAL, 16)),
    f"https://localhost:14000/acme/cert/{_SERIAL}/{_ID}", f"https://x/acme/cert/{_SERIAL}/{_ID}/1"])
def test_serial_number_spellings(text: str) -> None:
    """Hexadecimal as openssl, browsers and we write it, decimal as Python writes it, and the certificate's URL."""
    found = parse_serial(text)
    assert found.first == found.last == bytes.fromhex(_SERIAL)


def test_serial_prefix_is_a_range() -> None:
    """Eight digits or more stand for every serial number that begins so."""
    found = parse_serial("0ad7e7f6c")
    assert found.first == bytes.fromhex("0ad7e7f6c" + "0" * 27)
    assert found.last == bytes.fromhex("0ad7e7f6c" + "f" * 27)


@pytest.mark.parametrize("text", ["", "0ad7e7f", "xyz", "g" * 36, "9" * 60, _SERIAL + "0", "https://x/acme/order/y",
                                  "'; DROP TABLE", "\u0661" * 40])
def test_wrong_serial_numbers(text: str) -> None:
    """A usage error that says what a serial number looks like."""
    with pytest.raises(CommandError, match="expected 36 hexadecimal digits") as caught:
        parse_serial(text)
    assert caught.value.exit_code == 2


@given(st.integers(min_value=1 << 136, max_value=(1 << 143) - 1))
def test_decimal_and_hexadecimal_agree(number: int) -> None:
    """Both forms of any serial number of ours mean the same bytes."""
    decimal, hexadecimal = parse_serial(str(number)), parse_serial(f"{number:036x}")
    assert decimal.first == decimal.last == hexadecimal.first == hexadecimal.last


@pytest.mark.parametrize("text", [_ID, f"https://ca.example/acme/order/{_ID}", f"/acme/order/{_ID}/finalize",
                                  f"https://ca.example/acme/account/{_ID}", f"{_ID}\n"])
def test_ids_and_their_urls(text: str) -> None:
    """The bare id and every URL that has one."""
    assert parse_id(text, of="order") == bytes(range(22))


@pytest.mark.parametrize("text", ["", "x", _ID[:-1], _ID + "A", "https://ca.example/acme/order/", "é" * 30,
                                  f"{_ID}/{_ID}"])
def test_wrong_ids(text: str) -> None:
    """A usage error that says what an id looks like."""
    with pytest.raises(CommandError, match="is not an order id: expected its URL") as caught:
        parse_id(text, of="order")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "name"), [
    ("Example.COM", "example.com"), ("example.com.", "example.com"), ("*.example.com", "*.example.com"),
    ("bücher.example", "xn--bcher-kva.example"), ("[2001:DB8::1]", "2001:db8::1"), ("10.0.0.1", "10.0.0.1"),
    ("com", "com"), ("_x.example", "_x.example")])
def test_names(text: str, name: str) -> None:
    """As they stand in certificates."""
    assert parse_name(text) == name


@pytest.mark.parametrize("text", ["", ".", "a b", "http://example.com", "ex*mple.com", "..", "a..b"])
def test_wrong_names(text: str) -> None:
    """A usage error."""
    with pytest.raises(CommandError, match="is not a name"):
        parse_name(text)


def test_keys(tmp_path: Path) -> None:
    """The digest in three spellings, and every kind of file that holds the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(spki).digest()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    (tmp_path / "csr.pem").write_bytes(csr.public_bytes(Encoding.PEM))
    (tmp_path / "csr.der").write_bytes(csr.public_bytes(Encoding.DER))
    (tmp_path / "key.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "key.der").write_bytes(spki)
    encoded = base64.b64encode(digest).decode()
    for text in (digest.hex(), digest.hex(":"), encoded, encoded.rstrip("="), f"sha256/{encoded}",
                 *(str(path) for path in tmp_path.iterdir())):
        assert parse_key(text) == digest, text
    for text in ("", "ab", "/nowhere", encoded[:-4], str(Path(__file__))):
        with pytest.raises(CommandError):
            parse_key(text)


def test_hostile_text_cannot_steer_a_terminal() -> None:
    """Escape sequences, carriage returns and direction marks are written out."""
    text = plain("a\x1b[2Jb\rc\u202ed\x00e\u200bf\x9bg\nh")
    assert text == "a\\x1b[2Jb\\rc\\u202ed\\x00e\\u200bf\\x9bg\nh"
