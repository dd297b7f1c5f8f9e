"""What is degraded by the configuration and by the files that it names, whatever the database says."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from ca.admin.output import span
from ca.admin.perspective_status import perspective_notices
from ca.admin.status import Reason
from ca.admin.tls_status import tls_notices
from ca.pki.ct_log_list import parse_log_list
from ca.pki.ct_outlook import NOTICE, covered_until, shortfall
from ca.pki.policy import LOG_LIST_LIFE_S, LOG_LIST_WARNING_S
from ca.pki.profile import longest_life
from ca.process.settings import Settings


def notices(settings: Settings, now: datetime) -> Iterator[Reason]:
    """All of them."""
    yield from perspective_notices(settings, now)
    yield from tls_notices(settings, now)
    yield from transparency_notices(settings, now)


def transparency_notices(settings: Settings, now: datetime) -> Iterator[Reason]:
    """Certificates are not logged though browsers want it; or the list of logs cannot be used, is old, or runs out."""
    if not settings.ct_enabled:
        if settings.policy == "public":
            yield Reason(code="ct_off", text="certificates are not logged, and browsers accept none of them: [ct] "
                         "enabled = false")
        return
    try:
        if settings.ct.log_list is None:
            return      # refused when the settings are read
        logs = parse_log_list(settings.ct.log_list.read_bytes())
    except OSError as fault:
        yield Reason(code="log_list_unusable", text=f"ct.log_list: {settings.ct.log_list}: {fault.strerror}")
        return
    except ValueError as fault:
        yield Reason(code="log_list_unusable", text=f"ct.log_list: {fault}")
        return
    if now - logs.made_at > timedelta(seconds=LOG_LIST_WARNING_S):
        yield Reason(code="log_list_old", text=f"the list of CT logs is {span(now - logs.made_at)} old, and nothing is "
                     f"logged by it after {LOG_LIST_LIFE_S // 86_400} days: `chancery log-list fetch`")
    longest = longest_life(settings.ca.profiles)
    short_of = shortfall(logs, now=now, longest=longest)
    until = covered_until(logs, now)
    if short_of is not None:
        yield Reason(code="log_list_short", text=short_of + ": `chancery log-list fetch`")
    elif until is not None and until <= now + longest + NOTICE:
        yield Reason(code="log_list_ends", text=f"from {until - longest:%Y-%m-%d} on some certificates cannot be "
                     f"logged: too few logs take those that end at {until:%Y-%m-%d}: `chancery log-list fetch`")
