"""SCTs as bytes (RFC 6962 3.2, 3.3): layout, round trips, what is refused, what is signed."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from ca.pki import der
from ca.pki.sct import (
    Sct,
    SctError,
    decode_sct,
    encode_sct,
    read_digitally_signed,
    read_sct_list,
    require_signature,
    sct_list_value,
    signed_certificate,
    signed_precertificate,
)

scts = st.builds(Sct, log_id=st.binary(min_size=32, max_size=32), timestamp_ms=st.integers(0, 2**63 - 1),
                 extensions=st.binary(max_size=40), signature_algorithm=st.sampled_from([1, 3]),
                 signature=st.binary(max_size=80))
ONE = Sct(log_id=bytes(range(32)), timestamp_ms=0x0123456789AB, extensions=b"", signature_algorithm=3,
          signature=b"s" * 70)


def test_layout() -> None:
    """spec/pki.md 3.1: version, log id, milliseconds, extensions, hash 04, signature 03, signature."""
    assert encode_sct(ONE).hex() == ("00" + bytes(range(32)).hex() + "00000123456789ab" + "0000" + "0403" + "0046"
                                     + "73" * 70)
    assert len(encode_sct(ONE)) == 117


def test_two_scts_make_243_bytes() -> None:
    """spec/pki.md A.3: the extension's value for two SCTs with 70-byte signatures, and cryptography reads it back."""
    value = sct_list_value([encode_sct(ONE), encode_sct(ONE)])
    assert len(value) == 243
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                   .serial_number(1).not_valid_before(moment).not_valid_after(moment)
                   .add_extension(x509.UnrecognizedExtension(oid, value), False).sign(key, hashes.SHA256()))
    read = list(certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value)
    assert [(sct.log_id, sct.signature) for sct in read] == [(ONE.log_id, ONE.signature)] * 2


@given(scts)
def test_round_trip(sct: Sct) -> None:
    """What is written is read back."""
    assert decode_sct(encode_sct(sct)) == sct


@given(scts, st.data())
def test_truncated_and_trailing(sct: Sct, data: st.DataObject) -> None:
    """Every shorter and every longer string is refused."""
    encoded = encode_sct(sct)
    with pytest.raises(SctError):
        decode_sct(encoded[:data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(SctError):
        decode_sct(encoded + data.draw(st.binary(min_size=1, max_size=4)))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    """A log's answer is a stranger's bytes: SctError, nothing else."""
    for read in (decode_sct, read_digitally_signed, read_sct_list):
        try:
            read(data)
        except SctError:
            continue


@given(st.lists(scts.map(encode_sct), min_size=1, max_size=4))
def test_list_round_trip(encoded: list[bytes]) -> None:
    """A list keeps order and bytes."""
    value = sct_list_value(encoded)
    assert read_sct_list(value) == encoded
    with pytest.raises(SctError):
        read_sct_list(value + b"\x00")


def test_empty_lists() -> None:
    """RFC 6962 3.3: at least one SCT, none of them empty."""
    with pytest.raises(ValueError):
        sct_list_value([])
    for body in (b"\x00\x00", b"\x00\x02\x00\x00", b"\x00\x05\x00\x01a\x00\x00"):
        with pytest.raises(SctError):
            read_sct_list(der.tlv(der.OCTET_STRING, body))


@pytest.mark.parametrize(("at", "value"), [(0, 1), (43, 2)])
def test_other_versions_and_hashes(at: int, value: int) -> None:
    """Only version 1 (0) and SHA-256 (4) exist."""
    encoded = bytearray(encode_sct(ONE))
    encoded[at] = value
    with pytest.raises(SctError):
        decode_sct(bytes(encoded))


def test_length_of_what_is_signed() -> None:
    """spec/pki.md A.3: 1+1+8+2+32+3+len(TBS)+2+len(extensions); of a whole certificate without the issuer's hash."""
    sct = Sct(log_id=bytes(32), timestamp_ms=1, extensions=bytes(8), signature_algorithm=3, signature=b"")
    message = signed_precertificate(sct, issuer_key_hash=b"h" * 32, tbs=b"t" * 300)
    assert len(message) == 1 + 1 + 8 + 2 + 32 + 3 + 300 + 2 + 8
    assert message[:12].hex() == "0000" + "0000000000000001" + "0001"
    whole = signed_certificate(sct, certificate=b"c" * 300)
    assert len(whole) == len(message) - 32
    assert whole[10:12] == b"\x00\x00"


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_signatures(kind: str) -> None:
    """The log's own signature holds; another message, another key, the other kind of algorithm do not."""
    message = b"message"
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if kind == "ec":
        key = ec.generate_private_key(ec.SECP256R1())
        signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
    else:
        key = rsa.generate_private_key(65_537, 2048)
        signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    sct = Sct(log_id=bytes(32), timestamp_ms=1, extensions=b"", signature_algorithm=3 if kind == "ec" else 1,
              signature=signature)
    require_signature(sct, message, key.public_key())
    other = Sct(log_id=bytes(32), timestamp_ms=1, extensions=b"", signature_algorithm=1 if kind == "ec" else 3,
                signature=signature)
    for wrong, said, by in ((sct, b"other", key.public_key()), (other, message, key.public_key()),
                            (sct, message, ec.generate_private_key(ec.SECP256R1()).public_key())):
        with pytest.raises(SctError):
            require_signature(wrong, said, by)
