"""What openssl says of a certificate: the independent judge of chains, OCSP answers and CRLs."""

import re
import subprocess
import time
import urllib.request
from pathlib import Path

from cryptography import x509

from tests.acceptance.demo_process import Demo

_PATIENCE_S = 60.0


def openssl(*arguments: str, input_bytes: bytes | None = None) -> str:
    """Runs openssl and returns both outputs; it must succeed."""
    done = subprocess.run(["openssl", *arguments], input=input_bytes, capture_output=True, timeout=60, check=False)
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, text
    return text


def names_of(certificate: x509.Certificate) -> list[str]:
    """Its DNS names."""
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName)


def verify(leaf: Path, *, trusted: Path, untrusted: Path) -> None:
    """The chain from the leaf to a trusted root, by the strict rules of X.509."""
    openssl("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(trusted), "-untrusted", str(untrusted),
            str(leaf))


def ocsp_status(demo: Demo, *, leaf: Path, issuer: Path, arguments: tuple[str, ...] = ()) -> str:
    """'good', 'revoked', ... of the verified answer of the responder that the certificate names."""
    certificate = x509.load_pem_x509_certificate(leaf.read_bytes())
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    url = next(str(item.access_location.value) for item in access
               if item.access_method == x509.oid.AuthorityInformationAccessOID.OCSP)
    assert url == demo.ocsp_url
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        done = subprocess.run(
            ["openssl", "ocsp", "-CAfile", str(demo.roots), "-issuer", str(issuer), *arguments, "-cert", str(leaf),
             "-url", url], capture_output=True, text=True, timeout=60, check=False)
        text = done.stdout + done.stderr
        # A new certificate's response is published before the order is valid; responders follow a moment later.
        if "unauthorized (6)" not in text or time.monotonic() > give_up_at:
            break
        time.sleep(0.05)
    assert done.returncode == 0, text
    assert "Response verify OK" in text, text
    found = re.search(rf"{re.escape(str(leaf))}: (\w+)", text)
    assert found, text
    return found.group(1)


def wait_until_revoked(demo: Demo, *, leaf: Path, issuer: Path, arguments: tuple[str, ...] = ()) -> None:
    """Returns when the responder answers `revoked`; the promise is a second, the patience that of a loaded machine."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while ocsp_status(demo, leaf=leaf, issuer=issuer, arguments=arguments) != "revoked":
        assert time.monotonic() < give_up_at, "the responder does not answer revoked"
        time.sleep(0.1)


def crl_of(leaf: Path) -> x509.CertificateRevocationList:
    """The CRL at the distribution point that the certificate names."""
    certificate = x509.load_pem_x509_certificate(leaf.read_bytes())
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    names = points[0].full_name
    assert names is not None
    with urllib.request.urlopen(str(names[0].value), timeout=10) as response:
        assert response.headers["Content-Type"] == "application/pkix-crl"
        return x509.load_der_x509_crl(response.read())


def split_chain(fullchain: Path, directory: Path) -> list[Path]:
    """Each certificate of a PEM chain in a file of its own, the leaf first."""
    text = fullchain.read_text("ascii")
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", text, re.S)
    paths = []
    for number, block in enumerate(blocks):
        path = directory / f"{fullchain.stem}-{number}.pem"
        path.write_text(block, "ascii")
        paths.append(path)
    return paths
