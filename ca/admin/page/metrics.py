"""Prometheus metrics of the whole installation, from the same look at the database as the page.

Times are Unix timestamps, so that an alert rule can say how old is too old; nothing is counted twice when several
processes of one kind run.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ca.admin.ocsp_outlook import Outlook, certificate_seconds
from ca.admin.page.watch import View
from ca.admin.records import Facts
from ca.admin.status import not_after

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(view: View) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_ViewCollector(view))
    return generate_latest(registry)


class _ViewCollector(Collector):
    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        """Called once, by generate_latest."""
        view = self._view
        yield _one("chancery_database_up", "Whether the database answers.", float(view.database_answers))
        yield _one("chancery_degraded_reasons", "How many things are not as they should be.", len(view.reasons))
        reasons = GaugeMetricFamily("chancery_degraded", "1 for each kind of thing that is not as it should be.",
                                    labels=["reason"])
        for code in sorted({reason.code for reason in view.reasons}):
            reasons.add_metric([code], 1)
        yield reasons
        if view.maintained_at is not None:
            yield _one("chancery_maintenance_timestamp_seconds", "When the upkeep of the database last worked.",
                       view.maintained_at.timestamp())
        if view.status is not None:
            yield _one("chancery_looked_at_timestamp_seconds", "When these facts were read.",
                       view.status.looked_at.timestamp())
            yield from _of_outlook(view.status.outlook)
            yield from _of_facts(view.status.facts, view.status.processes, view.status.looked_at)


def _of_facts(facts: Facts, processes: Sequence[str], looked_at: datetime) -> Iterable[Metric]:
    connections = {process.process: process.connections for process in facts.processes}
    yield _labelled("chancery_process_up", "Whether a process of this kind is connected to the database.", "process",
                    [(name, float(name in connections)) for name in processes])
    yield _labelled("chancery_process_connections", "Database connections.", "process", connections.items())
    yield _labelled("chancery_queue_depth", "Entries that wait in a queue.", "queue",
                    [(queue.name, queue.depth) for queue in facts.queues])
    yield _labelled("chancery_queue_oldest_age_seconds", "How long the oldest entry has waited; 0 when none does.",
                    "queue", [(queue.name, 0.0 if queue.oldest_at is None
                               else max(0.0, (looked_at - queue.oldest_at).total_seconds())) for queue in facts.queues])
    yield _one("chancery_certificates_stored", "Certificates signed and still stored (an estimate when many).",
               facts.certificates.stored)
    yield _one("chancery_certificates_signed_24h", "Certificates signed in the last 24 hours.",
               facts.certificates.last_24_h)
    yield _labelled("chancery_issuer_not_after_timestamp_seconds", "When an issuing certificate ends.", "issuer",
                    [(issuer.name, not_after(issuer).timestamp()) for issuer in facts.issuers])
    yield _labelled("chancery_issuer_active", "Whether new certificates are signed by the issuer.", "issuer",
                    [(issuer.name, float(issuer.active)) for issuer in facts.issuers])
    yield _one("chancery_ocsp_shards", "Ranges of serial numbers whose responses are signed together.",
               facts.ocsp.shards)
    yield _one("chancery_ocsp_shards_due", "Ranges that are due to be signed again.", facts.ocsp.overdue)
    if facts.ocsp.oldest_signed_at is not None:
        yield _one("chancery_ocsp_oldest_timestamp_seconds", "When the oldest response in use was signed.",
                   facts.ocsp.oldest_signed_at.timestamp())
    yield _labelled("chancery_crl_shards", "CRL shards of an issuer.", "issuer",
                    [(crls.issuer_name, crls.shards) for crls in facts.crls])
    yield _labelled("chancery_crl_published", "CRL shards that have a CRL.", "issuer",
                    [(crls.issuer_name, crls.published) for crls in facts.crls])
    yield _labelled("chancery_crl_entries", "Entries of the latest CRLs.", "issuer",
                    [(crls.issuer_name, crls.entries) for crls in facts.crls])
    yield _labelled("chancery_crl_oldest_this_update_timestamp_seconds", "thisUpdate of the oldest latest CRL.",
                    "issuer", [(crls.issuer_name, crls.oldest_this_update.timestamp()) for crls in facts.crls
                               if crls.oldest_this_update is not None])
    yield _labelled("chancery_crl_next_update_timestamp_seconds", "nextUpdate of the CRL that ends first.", "issuer",
                    [(crls.issuer_name, crls.first_next_update.timestamp()) for crls in facts.crls
                     if crls.first_next_update is not None])
    yield _one("chancery_database_size_bytes", "Size of the database.", facts.database_size_bytes)
    if facts.partitions_until is not None:
        yield _one("chancery_partitions_until_timestamp_seconds", "After this moment a table has no partition.",
                   datetime.combine(facts.partitions_until, time(), UTC).timestamp())


def _of_outlook(ahead: Outlook) -> Iterable[Metric]:
    backlog = ahead.forecast
    yield _one("chancery_ocsp_certificates", "Certificates whose responses are signed again and again.",
               ahead.certificates)
    yield _one("chancery_ocsp_backlog_certificates", "Certificates that are due to be signed again.", backlog.overdue)
    yield _one("chancery_ocsp_forecast_oldest_seconds", "The age that a response will reach before it is replaced.",
               backlog.oldest.total_seconds())
    if backlog.done_at is not None:
        yield _one("chancery_ocsp_backlog_done_timestamp_seconds", "When nothing is overdue any more.",
                   backlog.done_at.timestamp())
    if backlog.breach_at is not None:
        yield _one("chancery_ocsp_breach_timestamp_seconds", "When a response gets older than BR 4.9.9 allows.",
                   backlog.breach_at.timestamp())
    if ahead.new_done_in is not None:
        yield _one("chancery_ocsp_new_done_seconds", "Until every new certificate has its first response.",
                   ahead.new_done_in.total_seconds())
    yield _labelled("chancery_ocsp_certificates_per_second", "What all pre-signers together can sign.", "issuer_id",
                    [(str(issuer_id), 1 / seconds) for issuer_id, seconds in
                     certificate_seconds(ahead.signers).items()])
    yield _labelled("chancery_ocsp_responder_not_after_timestamp_seconds", "When a delegated responder ends.",
                    "issuer_id", [(str(issuer_id), until.timestamp())
                                  for issuer_id, (_, until) in ahead.responders.items()])
    yield _one("chancery_ocsp_last_batch_id", "The end of the batch log.", ahead.last_batch_id)


def _one(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _labelled(name: str, help_text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for text, value in values:
        family.add_metric([text], value)
    return family
