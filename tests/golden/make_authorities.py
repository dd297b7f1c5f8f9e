"""Writes the golden objects of the CA side: `python -m tests.golden.make_authorities`. Run it on purpose, review the
diff.

Roots, cross-signed roots, TLS issuing CAs, delegated OCSP responders, CRLs of shards and of roots: one file each, with
provenance, `openssl asn1parse` and hexadecimal DER. Time, serial numbers and keys are fixed; ECDSA signatures are
deterministic (RFC 6979), PKCS#1 v1.5 ones always are.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki.ca_certificate import CaUrls, ca_subject, tbs_cross, tbs_intermediate, tbs_root
from ca.pki.ca_crl import tbs_ca_crl
from ca.pki.crl import LIFE_S, CrlEntry, crl_number, shard_url, slug, tbs_crl
from ca.pki.issuer import Issuer, read_issuer
from ca.pki.ocsp_responder import responder_validity, tbs_responder
from ca.pki.serial import serial_number
from ca.pki.tbs import assemble
from ca.pki.validity import Validity
from tests.ca.pki.authority import NOW, Key
from tests.golden.make_certificates import keys, replace_golden, rsa_key

DIRECTORY = Path(__file__).parent / "authorities"
SHARD = 16
_PROVENANCE = ("Made by tests/golden/make_authorities.py, which also says which keys these are: the scalars 0x0c0ffee, "
               "0x0decaf, 0x0bedded and 0x0facade, and the first good primes after round numbers (RSA).")
# Found by counting up from 3 * 2^2046 and 3 * 2^2046 + 31 * 2^2000 to the next prime p with p - 1 prime to 65537.
_P = (3 << 2046) + 439
_Q = (3 << 2046) + (31 << 2000) + 103
_ROOT_DAYS, _CROSS_DAYS, _ISSUING_DAYS = 3660, 1825, 1095

Kind = Literal["root", "cross", "issuing", "responder", "shard-crl", "root-crl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One object: the stem of its file, its bytes, and the issuer whose key signed it."""

    stem: str
    kind: Kind
    encoded: bytes
    signed_by: Issuer


@cache
def root_keys() -> dict[str, Key]:
    """The keys of the roots: those that we offer, and P-256 of tests."""
    return {"p256": ec.derive_private_key(0x0BEDDED, ec.SECP256R1()),
            "p384": ec.derive_private_key(0x0FACADE, ec.SECP384R1()), "rsa4096": rsa_key(_P, _Q)}


def responder_key() -> ec.EllipticCurvePrivateKey:
    """The key of the delegated responders."""
    return ec.derive_private_key(0x0FACADE, ec.SECP256R1())


def _spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _signed(key: Key, tbs: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return assemble(tbs, key.sign(tbs, padding.PKCS1v15(), hashes.SHA256()))
    algorithm = hashes.SHA256() if key.curve.key_size == 256 else hashes.SHA384()
    return assemble(tbs, key.sign(tbs, ec.ECDSA(algorithm, deterministic_signing=True)))


def _serial(number: int) -> bytes:
    return serial_number(NOW, bytes.fromhex("00112233445566778899aabbccddee") + bytes((number,)))


def _life(days: int) -> Validity:
    return Validity(not_before=NOW, not_after=NOW + timedelta(days=days, seconds=-1))


def _name(common_name: str) -> bytes:
    return ca_subject(country="DE", organization="Chancery Test", common_name=common_name)


def _urls(root: str) -> CaUrls:
    return CaUrls(ca_issuers=f"http://i.chancery.dev/{slug(root)}.crt", crl=f"http://c.chancery.dev/{slug(root)}.crl")


def roots() -> dict[str, bytes]:
    """A root of each key."""
    return {kind: _signed(key, tbs_root(subject_der=_name(f"Root {kind}"), spki_der=_spki(key),
                                        serial=_serial(number), validity=_life(_ROOT_DAYS)))
            for number, (kind, key) in enumerate(root_keys().items())}


def _entries(reasons: Iterable[int]) -> list[CrlEntry]:
    return [CrlEntry(serial=_serial(0x40 + number), revoked_at=NOW - timedelta(hours=number), reason=reason)
            for number, reason in enumerate(reasons)]


def objects() -> Iterator[Golden]:
    """Every object of the CA side."""
    made = roots()
    issuers = {kind: read_issuer(certificate) for kind, certificate in made.items()}
    for kind, certificate in made.items():
        yield Golden(stem=f"root-{kind}", kind="root", encoded=certificate, signed_by=issuers[kind])
    for existing, by in (("p384", "rsa4096"), ("rsa4096", "p384"), ("p256", "p384")):
        tbs = tbs_cross(issuer=issuers[by], existing=issuers[existing], serial=_serial(0x10),
                        validity=_life(_CROSS_DAYS), urls=_urls(f"Root {by}"))
        yield Golden(stem=f"cross-{existing}-by-{by}", kind="cross", encoded=_signed(root_keys()[by], tbs),
                     signed_by=issuers[by])
    for by, root in issuers.items():
        yield from _below(by, root)
        for suffix, reasons in (("empty", ()), ("revoked", (1, 2, 3, 4, 5, 9))):
            tbs = tbs_ca_crl(issuer=root, number=crl_number(NOW), this_update=NOW,
                             next_update=NOW + timedelta(days=364), entries=_entries(reasons))
            yield Golden(stem=f"root-crl-{by}-{suffix}", kind="root-crl", encoded=_signed(root_keys()[by], tbs),
                         signed_by=root)


def _below(by: str, root: Issuer) -> Iterator[Golden]:
    """The issuing CAs of a root, one that signs OCSP and one that delegates for each key; what the first ones sign."""
    for number, (kind, key) in enumerate(keys().items()):
        def issuing(key: Key = key, kind: str = kind, number: int = number, *, signs_ocsp: bool) -> bytes:
            return _signed(root_keys()[by], tbs_intermediate(
                issuer=root, subject_der=_name(f"Issuing {kind}"), spki_der=_spki(key), serial=_serial(0x20 + number),
                validity=_life(_ISSUING_DAYS), urls=_urls(f"Root {by}"), signs_ocsp=signs_ocsp))

        certificate = issuing(signs_ocsp=True)
        yield Golden(stem=f"issuing-{kind}-by-{by}", kind="issuing", encoded=certificate, signed_by=root)
        yield Golden(stem=f"issuing-{kind}-by-{by}-delegating", kind="issuing", encoded=issuing(signs_ocsp=False),
                     signed_by=root)
        if by == "p384":
            yield from _signed_by_issuing(kind, key, read_issuer(certificate))


def _signed_by_issuing(kind: str, key: Key, issuer: Issuer) -> Iterator[Golden]:
    responder = tbs_responder(issuer=issuer, spki_der=_spki(responder_key()), serial=_serial(0x30),
                              validity=responder_validity(NOW, issuer))
    yield Golden(stem=f"responder-by-{kind}", kind="responder", encoded=_signed(key, responder), signed_by=issuer)
    for suffix, reasons in (("empty", ()), ("revoked", (0, 1, 3, 4, 5, 9))):
        tbs = tbs_crl(issuer=issuer, url=shard_crl_url(kind), number=crl_number(NOW), this_update=NOW,
                      next_update=NOW + timedelta(seconds=LIFE_S - 1), entries=_entries(reasons))
        yield Golden(stem=f"shard-crl-by-{kind}-{suffix}", kind="shard-crl", encoded=_signed(key, tbs),
                     signed_by=issuer)


def shard_crl_url(kind: str) -> str:
    """Where the golden CRL of an issuing CA's shard would be published."""
    return shard_url("http://c.chancery.dev", f"Issuing {kind}", SHARD)


def main() -> None:
    """Replaces every golden object of the CA side."""
    replace_golden(DIRECTORY, ((each.stem, each.encoded) for each in objects()), _PROVENANCE)


if __name__ == "__main__":
    main()
