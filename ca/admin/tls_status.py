"""What will soon be wrong with the ACME server's own certificate, where an operator sees to it (under the public policy
always): nobody can order anything from a server whose certificate has ended."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from ca.admin.status import Reason
from ca.process.settings import AcmeSettings, Settings

_NOTICE: Final = timedelta(days=14)
_CODE: Final = "tls_certificate"


def tls_notices(settings: Settings, now: datetime) -> Iterator[Reason]:
    """Each, for the operator: it ends within two weeks (or within the last third of a short life), or it is for other
    names than the one that clients ask for."""
    certificate = _certificate(settings.acme)
    if certificate is None:
        return
    end, life = certificate.not_valid_after_utc, certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if end - now < min(_NOTICE, life / 3):
        yield Reason(code=_CODE, text=f"the ACME server's certificate {'ends' if end > now else 'ended'} at "
                     f"{end:%Y-%m-%d %H:%M} UTC: renew it, its file is {settings.acme.tls_certificate}")
    host = urlsplit(settings.acme.base_url).hostname or ""
    names = _names(certificate)
    if host not in names and f"*.{host.partition('.')[2]}" not in names:
        yield Reason(code=_CODE, text=f"the ACME server's certificate is not for {host}, but for "
                     f"{', '.join(names) or 'no name'}")


def _certificate(acme: AcmeSettings) -> x509.Certificate | None:
    """That of the file; None where the server renews it by itself, or a proxy has it, or this machine cannot read it:
    then another one runs the front end, which does not start without."""
    if not acme.tls or acme.service_names or acme.tls_certificate is None:
        return None
    try:
        return x509.load_pem_x509_certificate(acme.tls_certificate.read_bytes())
    except (OSError, ValueError):
        return None


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [*(name.lower() for name in found.get_values_for_type(x509.DNSName)),
            *(str(address) for address in found.get_values_for_type(x509.IPAddress))]
