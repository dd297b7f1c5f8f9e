"""What will soon be wrong with the remote perspectives: a date of BR 3.2.2.9, or a certificate that ends."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from ca.admin.status import Reason
from ca.pki.corroboration import next_change
from ca.process.settings import Settings

NOTICE: Final = timedelta(days=60)


def perspective_notices(settings: Settings, now: datetime) -> Iterator[Reason]:
    """Each, for the operator."""
    perspectives = settings.perspectives
    change = next_change(now) if settings.policy == "public" else None
    if change is not None and len(perspectives.remotes) < change[1] and change[0] - now < NOTICE:
        yield Reason(code="perspectives_few", text=f"from {change[0].date()} on {change[1]} remote perspectives are "
                     f"needed, {len(perspectives.remotes)} are configured (BR 3.2.2.9)")
    files = [("the VA", perspectives.certificate)] if perspectives.certificate is not None else []
    files += [(f"perspective {remote.name}", remote.certificate) for remote in perspectives.remotes]
    for whose, path in files:
        end = _last_end(path)
        if end is not None and end - now < NOTICE:
            verb = "ends" if end > now else "ended"
            yield Reason(code="perspective_certificate", text=f"the certificate of {whose} {verb} at {end.date()}: "
                         f"replace it (deploy/PERSPECTIVES.md), its file is {path}")


def _last_end(path: Path) -> datetime | None:
    """When the last of the file's certificates ends; None where this machine cannot read it, which is not at fault
    then: another one runs the VA, and `chancery config check` complains of files that must be there."""
    try:
        return max(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(path.read_bytes()))
    except (OSError, ValueError):
        return None
