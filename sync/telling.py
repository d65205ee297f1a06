"""What logs, metrics and traces are told of the engine's work, batch by batch.

One line a batch, with the correlation ids of its events: one grep for an id tells the story up to the last store, and a
thousand events do not make a thousand lines.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from channels.models import Channel
from sync.apply import Applied
from sync.publish import Published
from sync.push import Pushed
from synctec.lib import metrics, sql, tracing

log = structlog.get_logger(__name__)

#: Ids in one line.
IDS_PER_LINE: Final = 50


def applied(merchant_id: int, done: Applied, *, began_at: float) -> None:
    """A batch of events was applied, or tried. Nothing is told of a look that found nothing."""
    if not done.claimed:
        return
    metrics.apply_batch.observe(done.claimed)
    for outcome in ("settled", "busy", "failed"):
        metrics.events.labels(outcome).inc(getattr(done, outcome))
    told = {"claimed": done.claimed, "settled": done.settled, "busy": done.busy, "failed": done.failed}
    for ids in _in_lines(done.stories):
        log.info("apply.done", merchant_id=merchant_id, **told, correlation_ids=ids)
    tracing.record(
        "apply",
        began_at=began_at,
        correlation_ids=done.stories,
        is_error=done.failed > 0,
        attributes={"merchant_id": merchant_id, **told},
    )


def published(merchant_id: int, done: Published, *, began_at: float) -> None:
    """SKUs were published."""
    if not done.skus:
        return
    metrics.published.inc(done.changed_levels)
    told = {"skus": done.skus, "changed_levels": done.changed_levels}
    log.info("publish.done", merchant_id=merchant_id, **told, correlation_ids=_texts(done.stories[:IDS_PER_LINE]))
    tracing.record(
        "publish", began_at=began_at, correlation_ids=done.stories, attributes={"merchant_id": merchant_id, **told}
    )


def pushed(channel: Channel, done: Pushed, *, began_at: float) -> None:
    """Numbers were written to a channel, or tried."""
    if not done.batches:
        return
    metrics.push_batches.labels(channel.kind).inc(done.batches)
    told = {"confirmed": done.confirmed, "stale": done.stale, "refused": done.refused, "unknown": done.unknown}
    for outcome, count in told.items():
        metrics.pushed.labels(channel.kind, outcome).inc(count)
    stories = _stories(done.batch_ids)
    about = {"merchant_id": channel.merchant_id, "channel_id": channel.pk}
    for ids in _in_lines(stories):
        log.info("push.done", **about, **told, batches=_texts(done.batch_ids), correlation_ids=ids)
    tracing.record(
        "push",
        began_at=began_at,
        correlation_ids=stories,
        is_error=bool(done.unknown or done.refused),
        attributes={**about, **told},
    )


def _stories(batch_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """The events behind the rows of these batches."""
    found = sql.rows(
        "SELECT correlation_ids FROM channels_push WHERE batch_id = ANY(%s::uuid[]) ORDER BY id", [list(batch_ids)]
    )
    return list(dict.fromkeys(one for (ids,) in found for one in ids))


def _in_lines(ids: Sequence[uuid.UUID]) -> Iterator[list[str]]:
    for start in range(0, max(1, len(ids)), IDS_PER_LINE):
        yield _texts(ids[start : start + IDS_PER_LINE])


def _texts(ids: Sequence[uuid.UUID]) -> list[str]:
    return [str(one) for one in ids]
