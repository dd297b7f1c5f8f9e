"""What the demo prints when it serves: addresses, and lines that work when they are copied."""

import shlex
import shutil
from pathlib import Path

from ca.process.settings import Settings


def program(called: str) -> str:
    """How `chancery`, which was `called` so, is called again: by its name, or by its path where the name is not found,
    as in the virtual environment of a clone."""
    return "chancery" if shutil.which("chancery") else shlex.quote(str(Path(called).absolute()))


def banner_text(settings: Settings, data_dir: Path, *, program: str = "chancery") -> str:
    """The text for the terminal. Every command line stands alone on lines of its own."""
    directory = f"{settings.acme.base_url}/directory"
    roots = shlex.quote(str(data_dir / "roots.pem"))
    config = shlex.quote(str(data_dir / "chancery.toml"))
    place = shlex.quote(str(data_dir / "certbot"))
    common = (f"--server {directory} \\\n    --config-dir {place} --work-dir {place} --logs-dir {place} \\\n"
              "    --agree-tos --register-unsafely-without-email -n")
    port = settings.va.http_01_port
    no_nonce = "" if settings.ocsp.live else " -no_nonce"
    return f"""
Chancery is ready.

  ACME directory   {directory}
  roots            {data_dir / "roots.pem"}
  OCSP             {settings.ca.ocsp_url}/
  CRLs, issuers    {settings.ca.crl_base_url}/
  operators        http://{settings.admin.listen[0]}/
  configuration    {data_dir / "chancery.toml"}

A certificate by http-01 (names under .localhost are this machine; any other name is looked up in DNS):

  REQUESTS_CA_BUNDLE={roots} certbot certonly --standalone --http-01-port {port} \\
    -d demo.localhost {common}

A wildcard by dns-01, for a domain of yours whose TXT records you can set:

  REQUESTS_CA_BUNDLE={roots} certbot certonly --manual --preferred-challenges dns \\
    -d example.org -d '*.example.org' --server {directory} \\
    --config-dir {place} --work-dir {place} --logs-dir {place} \\
    --agree-tos --register-unsafely-without-email

Is it still good?

  openssl ocsp -CAfile {roots} -issuer {place}/live/demo.localhost/chain.pem \\
    -cert {place}/live/demo.localhost/cert.pem -url {settings.ca.ocsp_url}/{no_nonce}

Look inside:

  {program} status --config {config}

Ctrl-C stops it; the next start on this directory goes on with the same CA.
"""
