"""A whole reconciliation pass over a channel, with its record for people to see."""

from __future__ import annotations

import structlog
from django.db.models import F

from channels.models import Channel
from sync import live
from sync.models import ReconcileRun, RunState
from sync.ports import Engine
from sync.reconcile import compare_levels, poll_orders
from sync.tables.upkeep import add_missing_levels

log = structlog.get_logger(__name__)


def reconcile(engine: Engine, *, channel: Channel) -> ReconcileRun:
    """One whole pass over a channel. A pass that fails says why; the next begins where it was cut short.

    Raises:
        ChannelError: the channel could not be asked to the end; the pass is recorded as failed.
    """
    previous = ReconcileRun.objects.filter(channel=channel).order_by("-id").first()
    run = ReconcileRun.objects.create(
        merchant_id=channel.merchant_id,
        channel=channel,
        started_at=engine.now(),
        compared_to=0 if previous is None or previous.state == RunState.DONE else previous.compared_to,
    )
    record = ReconcileRun.objects.filter(pk=run.pk)

    def note(levels: int, suspects: int, compared_to: int) -> None:
        record.update(
            levels_read=F("levels_read") + levels,
            levels_suspect=F("levels_suspect") + suspects,
            compared_to=compared_to,
        )

    try:
        add_missing_levels(merchant_id=channel.merchant_id)
        orders_read, orders_recovered = poll_orders(engine, channel=live.ref(channel))
        record.update(orders_read=orders_read, orders_recovered=orders_recovered)
        compare_levels(engine, channel=live.ref(channel), begin_behind=run.compared_to, on_page=note)
    except Exception as error:
        record.update(state=RunState.FAILED, error=str(error)[:500], finished_at=engine.now())
        raise
    record.update(state=RunState.DONE, finished_at=engine.now())
    run.refresh_from_db()
    log.info(
        "reconcile.done",
        channel_id=channel.pk,
        orders=run.orders_read,
        recovered=run.orders_recovered,
        levels=run.levels_read,
        suspects=run.levels_suspect,
    )
    return run
