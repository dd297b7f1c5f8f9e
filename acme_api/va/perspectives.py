"""The quorum of remote perspectives: all are asked at once, and enough of them must confirm (BR 3.2.2.9, row MP1)."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from acme_api.protocol.quorum import Report, Verdict, decide, is_settled
from acme_api.va import perspective_message as message
from acme_api.va.evidence import Evidence
from acme_api.va.failure import FailureType, ValidationFailure
from acme_api.va.look import Kind
from acme_api.va.methods import Question
from acme_api.va.perspective_client import PerspectiveAway, PerspectiveHealth, RemotePerspective
from ca.pki.corroboration import Corroboration, CorroborationRule


class Perspectives:
    """Asks remote perspectives about what the primary one has confirmed. `rule` says what is enough at a moment.

    Once they cannot change the decision the others are waited for `straggler_grace_s`: what they saw is good to know.
    """

    def __init__(
        self,
        remotes: Sequence[RemotePerspective],
        *,
        rule: Callable[[datetime], CorroborationRule],
        now: Callable[[], datetime],
        straggler_grace_s: float,
    ) -> None:
        self._remotes = tuple(remotes)
        self._rule = rule
        self._now = now
        self._straggler_grace_s = straggler_grace_s

    @property
    def health(self) -> tuple[PerspectiveHealth, ...]:
        """Of each, in the order of the configuration."""
        return tuple(remote.health for remote in self._remotes)

    async def corroborate(self, kind: Kind, question: Question, evidence: Evidence) -> Corroboration:
        """How far it is confirmed. Raises ValidationFailure when that is not enough: serverInternal when that is for
        want of answers, else as the perspectives that differ say."""
        evidence.wait_for("asking the other perspectives")
        rule = self._rule(self._now())
        reports, seen = await self._hear(message.encode(message.message_of(kind, question)), rule)
        evidence.set_perspectives([seen[remote.name] for remote in self._remotes])
        decision = decide([reports[remote.name] for remote in self._remotes], rule)
        if decision.failure is not None:
            raise ValidationFailure(cast(FailureType, decision.failure.failure_type), decision.failure.detail,
                                    transient=decision.failure.transient)
        return decision.corroboration

    async def probe(self) -> None:
        """One probe of each, side by side."""
        await asyncio.gather(*(remote.probe() for remote in self._remotes))

    async def close(self) -> None:
        """Closes every connection."""
        for remote in self._remotes:
            await remote.close()

    async def _hear(
        self, body: bytes, rule: CorroborationRule
    ) -> tuple[Mapping[str, Report], Mapping[str, Mapping[str, Any]]]:
        """A report of each, and what each saw; those that cannot matter any more get a short grace."""
        reports: dict[str, Report] = {}
        seen: dict[str, Mapping[str, Any]] = {}
        asking = {asyncio.create_task(self._ask(remote, body)): remote for remote in self._remotes}
        try:
            grace_s: float | None = None
            while asking:
                done, _ = await asyncio.wait(asking, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    name = asking.pop(task).name
                    reports[name], seen[name] = task.result()
                if is_settled(list(reports.values()), [(each.name, each.rir) for each in asking.values()], rule):
                    grace_s = self._straggler_grace_s
        finally:
            for task in asking:
                task.cancel()
        for remote in asking.values():
            reports[remote.name] = Report(perspective=remote.name, rir=remote.rir, verdict=Verdict.ABSENT)
            seen[remote.name] = {"name": remote.name, "rir": remote.rir, "verdict": "not waited for"}
        return reports, seen

    async def _ask(self, remote: RemotePerspective, body: bytes) -> tuple[Report, Mapping[str, Any]]:
        began = self._now()
        about: dict[str, Any] = {"name": remote.name, "rir": remote.rir}
        try:
            finding = await remote.ask(body)
        except PerspectiveAway as away:
            report = Report(perspective=remote.name, rir=remote.rir, verdict=Verdict.ABSENT)
            return report, about | {"verdict": report.verdict.value, "why": str(away)}
        about |= {"ms": round((self._now() - began).total_seconds() * 1_000),
                  "began_at": finding.evidence.get("began_at"), "facts": finding.evidence.get("facts")}
        if finding.failure is None:
            report = Report(perspective=remote.name, rir=remote.rir, verdict=Verdict.CORROBORATES)
            return report, about | {"verdict": report.verdict.value}
        failure = finding.failure
        if failure.type == "serverInternal":
            # It could not look: that is no opinion about the name.
            return (Report(perspective=remote.name, rir=remote.rir, verdict=Verdict.ABSENT),
                    about | {"verdict": Verdict.ABSENT.value, "why": failure.detail})
        report = Report(perspective=remote.name, rir=remote.rir, verdict=Verdict.DIFFERS, failure_type=failure.type,
                        detail=failure.detail, transient=failure.transient)
        return report, about | {"verdict": report.verdict.value, "type": failure.type, "detail": failure.detail}
