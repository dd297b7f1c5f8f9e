"""The remote perspectives of a configuration: whether they are enough to start with, and how they are from then on."""

import asyncio
from datetime import datetime
from typing import Final

import structlog

from acme_api.va.perspective_client import RemotePerspective
from acme_api.va.perspective_tls import client_context
from acme_api.va.perspectives import Perspectives
from acme_api.va.store import VaStore
from ca.pki.corroboration import CorroborationRule, next_change, rule_at, set_up_shortfall
from ca.process.ambient import Ambient
from ca.process.lifecycle import StartupError
from ca.process.settings import PerspectivesSettings, Settings
from ca.process.settings import RemotePerspective as RemoteSettings

_NOTICE_DAYS: Final = 60


def make_perspectives(settings: Settings, ambient: Ambient, *, enough: bool = True) -> Perspectives | None:
    """The remote perspectives, None when there are none and none are needed. Raises StartupError for certificates that
    cannot be used and, with `enough`, when the policy in force needs more than are configured; it is made in the event
    loop that uses it."""
    public = settings.policy == "public"

    def rule(moment: datetime) -> CorroborationRule:
        return rule_at(moment, public=public, least_corroborated=settings.ca.least_corroborated)

    now = ambient.now()
    if enough:
        require_enough(settings.perspectives, rule(now), public=public)
    if public:
        _warn_of_next_change(settings.perspectives, now)
    if not settings.perspectives.remotes:
        return None
    return Perspectives([_remote(settings.perspectives, each, ambient) for each in settings.perspectives.remotes],
                        rule=rule, now=ambient.now, straggler_grace_s=settings.perspectives.straggler_grace_s)


def require_enough(perspectives: PerspectivesSettings, rule: CorroborationRule, *, public: bool) -> None:
    """Raises StartupError unless the perspectives, all of them confirming, satisfy the rule."""
    missing = set_up_shortfall(
        [each.rir for each in perspectives.remotes],
        [perspectives.distance_group, *(each.distance_group for each in perspectives.remotes)], rule, public=public)
    if missing is not None:
        raise StartupError(f"perspectives.remotes: {missing}: add perspectives (deploy/PERSPECTIVES.md), or set "
                           "policy = \"internal\"")


def _warn_of_next_change(perspectives: PerspectivesSettings, now: datetime) -> None:
    change = next_change(now)
    if change is not None and len(perspectives.remotes) < change[1] and (change[0] - now).days < _NOTICE_DAYS:
        structlog.get_logger().warning("more perspectives are needed soon", since=change[0].date().isoformat(),
                                       needed=change[1], configured=len(perspectives.remotes))


def _remote(perspectives: PerspectivesSettings, remote: RemoteSettings, ambient: Ambient) -> RemotePerspective:
    assert perspectives.certificate is not None  # noqa: S101 - the settings are refused without
    assert perspectives.key is not None  # noqa: S101
    return RemotePerspective(
        name=remote.name, rir=remote.rir, address=remote.address, ambient=ambient,
        context=client_context(certificate=perspectives.certificate, key=perspectives.key, server=remote.certificate),
        timeout_s=perspectives.timeout_s, connect_timeout_s=perspectives.connect_timeout_s,
        longest_back_off_s=perspectives.longest_back_off_s)


async def keep_probing(perspectives: Perspectives, store: VaStore, interval_s: float) -> None:
    """Asks each how it is, again and again, and stores what is known, for `chancery status`; until it is cancelled."""
    log = structlog.get_logger()
    away: set[str] = set()
    while True:
        await perspectives.probe()
        health = perspectives.health
        for each in health:
            if each.fault is not None and each.name not in away:
                log.warning("perspective is away", perspective=each.name, fault=each.fault)
            elif each.fault is None and each.name in away:
                log.info("perspective is back", perspective=each.name, lag_ms=each.lag_ms)
        away = {each.name for each in health if each.fault is not None}
        try:
            await store.store_health(health)
        except Exception:
            log.exception("the health of the perspectives was not stored")
        await asyncio.sleep(interval_s)
