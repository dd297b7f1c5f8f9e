"""Writes the golden certificates: `python -m tests.golden.make_certificates`. Run it on purpose, and review the diff.

One file for each profile, issuer key and leaf key: a provenance line, then the certificate as `openssl asn1parse` and
as hexadecimal DER. Time, serial number and keys are fixed; ECDSA signatures are deterministic (RFC 6979).
"""

import subprocess
import textwrap
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki.crl import ca_issuers_url, shard_url
from ca.pki.identifier import Identifier
from ca.pki.precertificate import with_poison
from ca.pki.profile import PROFILES
from ca.pki.public_key import require_acceptable
from ca.pki.serial import serial_number, shard
from ca.pki.tbs import StatusUrls, assemble, tbs_certificate
from ca.pki.validity import validity
from tests.ca.pki.authority import NOW, Authority, Key, authority

DIRECTORY = Path(__file__).parent / "certificates"
SHARDS = 128
PRECERTIFICATE = "-precertificate"
IDENTIFIERS = (Identifier(type="dns", value="www.example.com"), Identifier(type="dns", value="*.example.com"),
               Identifier(type="dns", value="xn--bcher-kva.example.com"), Identifier(type="ip", value="1.1.1.1"),
               Identifier(type="ip", value="2606:4700::1111"))
SERIAL = serial_number(NOW, bytes.fromhex("00112233445566778899aabbccddeeff"))
_PROVENANCE = ("Made by tests/golden/make_certificates.py, which also says which keys these are: the scalars 0x0c0ffee "
               "(P-256) and 0x0decaf (P-384), and the first good primes after two round numbers (RSA).")
# Found by counting up from 3 * 2^1022 and 3 * 2^1022 + 31 * 2^1000 to the next prime p with p - 1 prime to 65537.
_P = (3 << 1022) + 1037
_Q = (3 << 1022) + (31 << 1000) + 13


def rsa_key(p: int, q: int) -> rsa.RSAPrivateKey:
    """The key of two primes."""
    e, totient = 65_537, (p - 1) * (q - 1)
    d = pow(e, -1, totient)
    return rsa.RSAPrivateNumbers(p=p, q=q, d=d, dmp1=d % (p - 1), dmq1=d % (q - 1), iqmp=pow(q, -1, p),
                                 public_numbers=rsa.RSAPublicNumbers(e, p * q)).private_key()


def keys() -> dict[str, Key]:
    """The three keys, each an issuer's and a subscriber's."""
    return {"p256": ec.derive_private_key(0x0C0FFEE, ec.SECP256R1()),
            "p384": ec.derive_private_key(0x0DECAF, ec.SECP384R1()), "rsa2048": rsa_key(_P, _Q)}


def golden_authority(kind: str, now: datetime = NOW) -> Authority:
    """The issuing CA with this key."""
    return authority(keys()[kind], now=now, deterministic=True)


def cases(now: datetime = NOW) -> Iterator[tuple[str, bytes, Authority]]:
    """(file stem, certificate DER, who issued it) for each profile x issuer key x leaf key, and its precertificate."""
    for profile in PROFILES.values():
        for issuer_kind in keys():
            issued_by = golden_authority(issuer_kind, now)
            for leaf_kind, leaf in keys().items():
                spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                issuer_name = f"Issuing {issuer_kind}"
                tbs = tbs_certificate(
                    profile=profile, issuer=issued_by.issuer, serial=SERIAL, identifiers=IDENTIFIERS,
                    validity=validity(now, length_s=profile.length_s, issuer=issued_by.issuer.validity),
                    key=require_acceptable(spki),
                    urls=StatusUrls(ocsp="http://o.chancery.dev",
                                    ca_issuers=ca_issuers_url("http://i.chancery.dev", issuer_name),
                                    crl=shard_url("http://c.chancery.dev", issuer_name, shard(SERIAL, SHARDS))))
                for suffix, made in (("", tbs), (PRECERTIFICATE, with_poison(tbs))):
                    certificate = assemble(made, issued_by.sign(made, deterministic=True))
                    yield f"{profile.name}-{leaf_kind}-by-{issuer_kind}{suffix}", certificate, issued_by


def golden_text(encoded: bytes, provenance: str) -> str:
    """A golden file: where the DER object comes from, its structure, its bytes."""
    shown = subprocess.run(["openssl", "asn1parse", "-inform", "DER", "-i"], input=encoded, capture_output=True,
                           check=True).stdout.decode()
    lines = "\n".join(line.rstrip() for line in shown.splitlines())
    return f"# {provenance}\n\n{lines}\n\n{textwrap.fill(encoded.hex(), 100)}\n"


def der_of(text: str) -> bytes:
    """The object in a golden file: what follows the last empty line."""
    return bytes.fromhex(text.rstrip().rpartition("\n\n")[2])


def replace_golden(directory: Path, objects: Iterable[tuple[str, bytes]], provenance: str) -> None:
    """Replaces every golden file of a directory by those of (file stem, DER)."""
    directory.mkdir(exist_ok=True)
    for old in directory.glob("*.txt"):
        old.unlink()
    for stem, encoded in objects:
        (directory / f"{stem}.txt").write_text(golden_text(encoded, provenance), "utf-8")


def main() -> None:
    """Replaces every golden certificate."""
    replace_golden(DIRECTORY, ((stem, certificate) for stem, certificate, _ in cases()), _PROVENANCE)


if __name__ == "__main__":
    main()
