"""`/metrics` for Prometheus: what processes have counted, and what the database says at this moment.

Gauges are read from the database at each scrape: there is nothing to keep in step between processes, and nothing that a
restart would lose. Each question is answered by a partial index that holds what is unfinished, and is given up after
`STATEMENT_TIMEOUT_MS`. Channels are named by their number, the first `CHANNELS_MAX` of them.

| `METRICS_TOKEN` | answered |
|---|---|
| set | `Authorization: Bearer <token>`; all others 401 |
| empty | nobody: 404; on a stack whose PUBLIC_URL is the loopback, everybody |
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import Final

from django.conf import settings
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from channels.models import ChannelState
from sync.score import percentile
from sync.scorecard import every_merchant, sale_latencies, waits
from synctec.lib import clock, metrics, sql

CHANNELS_MAX: Final = 200
STATEMENT_TIMEOUT_MS: Final = 3_000
LATENCY_SHARES: Final = (0.5, 0.95, 0.99)


@never_cache
@require_safe
def metrics_page(request: HttpRequest) -> HttpResponse:
    """Everything a scrape is told. While the database is away: what was counted, and `synctec_database_up 0`."""
    token: str = settings.METRICS_TOKEN
    if not token and not settings.METRICS_ARE_OPEN:
        raise Http404("Metrics are switched off: set METRICS_TOKEN.")
    sent = request.META.get("HTTP_AUTHORIZATION", "").encode("utf-8", "replace")
    if token and not secrets.compare_digest(sent, f"Bearer {token}".encode()):
        return HttpResponse("Send the token as: Authorization: Bearer ...\n", status=401, content_type="text/plain")
    registry = CollectorRegistry()
    registry.register(DatabaseCollector())
    return HttpResponse(metrics.exposition() + generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class DatabaseCollector(Collector):
    """Gauges as the database has them now."""

    def describe(self) -> Iterable[Metric]:
        """The names, without asking the database."""
        return list(_families().values())

    def collect(self) -> Iterator[Metric]:
        """One transaction, so that all gauges are of one moment."""
        gauges = _families()
        try:
            with transaction.atomic():
                sql.rows("SELECT set_config('statement_timeout', %s::text, true)", [str(STATEMENT_TIMEOUT_MS)])
                _fill(gauges)
        except sql.AWAY:
            # Half of the gauges would look like all of them.
            gauges = {name: gauge for name, gauge in _families().items() if name == "database_up"}
            gauges["database_up"].add_metric([], 0)
        else:
            gauges["database_up"].add_metric([], 1)
        yield from gauges.values()


#: By the name without its prefix: what it is, and its labels.
_GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "database_up": ("Whether the database could be asked (0 or 1).", ()),
    "oldest_seconds": ("Age of the oldest unfinished work: event, change or write.", ("work",)),
    "pending_events": ("Events that wait to be applied.", ()),
    "dead_letters": ("Events and writes that were given up, and not dismissed.", ()),
    "open_shortage_units": ("Units sold beyond stock that nothing has covered yet.", ()),
    "heartbeat_age_seconds": ("How long ago a part of the engine last did its work.", ("part",)),
    "oldest_audit_seconds": ("How long ago the invariant was asked for that was not asked for longest.", ()),
    "broken_invariants": ("Invariants that do not hold.", ()),
    "sale_latency_seconds": ("Of the last hour's sales, until their last store was lowered.", ("share",)),
    "sales_on_their_way": ("Of the last hour's sales, those that have not reached their last store.", ()),
    "channel_state": ("1 for the state a channel is in.", ("channel", "kind", "state")),
    "channel_failures": ("Calls in a row that a channel did not answer.", ("channel", "kind")),
    "channel_resting_seconds": ("How long a channel is still left alone.", ("channel", "kind")),
    "out_of_sync_levels": ("Listing levels that show another number than they should.", ("channel", "kind")),
    "suspect_levels": ("Listing levels that showed what nothing explains yet.", ("channel", "kind")),
    "channels_left_out": ("Channels beyond those that have gauges of their own.", ()),
}


def gauge_names() -> set[str]:
    """As they are scraped (dashboards and alert rules are checked against it)."""
    return {gauge.name for gauge in _families().values()}


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(f"synctec_{name}", about, labels=labels) for name, (about, labels) in _GAUGES.items()
    }


def _fill(gauges: dict[str, GaugeMetricFamily]) -> None:
    now = clock.now()
    merchants = every_merchant()
    waiting = waits(merchants, now=now)[None]
    for work in ("event", "change", "write"):
        gauges["oldest_seconds"].add_metric([work], getattr(waiting, f"oldest_{work}") or 0.0)
    gauges["pending_events"].add_metric([], waiting.pending_events)
    gauges["dead_letters"].add_metric([], waiting.dead_letters)
    [(short,)] = sql.rows(
        "SELECT coalesce(sum(quantity - quantity_covered), 0)::bigint FROM inventory_shortage WHERE covered_at IS NULL"
    )
    gauges["open_shortage_units"].add_metric([], short)
    for part, age in sql.rows(
        "SELECT name, extract(epoch FROM clock_timestamp() - beat_at)::float8 FROM sync_heartbeat"
    ):
        gauges["heartbeat_age_seconds"].add_metric([part], age)
    [(audited, broken)] = sql.rows(
        """
        SELECT coalesce(extract(epoch FROM clock_timestamp() - min(checked_at)), 0)::float8,
            count(*) FILTER (WHERE broken_since IS NOT NULL) FROM sync_auditresult
        """
    )
    gauges["oldest_audit_seconds"].add_metric([], audited)
    gauges["broken_invariants"].add_metric([], broken)
    latency, on_their_way = sale_latencies(merchants, now=now)
    for share in LATENCY_SHARES:
        seconds = percentile(latency, share)
        if seconds is not None:
            gauges["sale_latency_seconds"].add_metric([str(share)], seconds)
    gauges["sales_on_their_way"].add_metric([], on_their_way)
    _fill_channels(gauges)


def _fill_channels(gauges: dict[str, GaugeMetricFamily]) -> None:
    channels = sql.rows(
        """
        SELECT channel.id::text, channel.kind, channel.state, channel.failures,
            greatest(0, extract(epoch FROM channel.next_call_at - clock_timestamp()))::float8,
            (SELECT count(*) FROM channels_listinglevel WHERE channel_id = channel.id AND is_out_of_sync),
            (SELECT count(*) FROM channels_listinglevel WHERE channel_id = channel.id AND suspect_since IS NOT NULL),
            (SELECT count(*) FROM channels_channel)
        FROM channels_channel channel ORDER BY channel.id LIMIT %s
        """,
        [CHANNELS_MAX],
    )
    for channel, kind, state, failures, rests, out_of_sync, suspect, _ in channels:
        for known in ChannelState.values:
            gauges["channel_state"].add_metric([channel, kind, known], float(state == known))
        labels = [channel, kind]
        gauges["channel_failures"].add_metric(labels, failures)
        gauges["channel_resting_seconds"].add_metric(labels, rests)
        gauges["out_of_sync_levels"].add_metric(labels, out_of_sync)
        gauges["suspect_levels"].add_metric(labels, suspect)
    gauges["channels_left_out"].add_metric([], channels[0][-1] - len(channels) if channels else 0)
