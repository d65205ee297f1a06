"""The sweep: everything there is to do, found by SQL, so that no message and no webhook is ever needed for it.

Level-triggered and cheap: each question is answered by a partial index that holds only open work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import LiteralString

from sync.models import Heartbeat
from synctec.lib import sql
from synctec.lib.alone import alone
from synctec.lib.backoff import MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class Found:
    """Who has something to do."""

    merchants_to_apply: list[int] = field(default_factory=list)
    merchants_to_publish: list[int] = field(default_factory=list)
    channels_to_push: list[int] = field(default_factory=list)
    channels_to_check: list[int] = field(default_factory=list)
    channels_to_poll: list[int] = field(default_factory=list)
    jobs_to_work: list[int] = field(default_factory=list)


def sweep(*, now: datetime) -> Found:
    """Look for work that is due. It takes no lock: two sweeps at once ring the same bells, which collapse."""
    Heartbeat.objects.update_or_create(name="sweep", defaults={"beat_at": now})
    return Found(
        merchants_to_apply=_ids(
            """
            SELECT merchant.id FROM merchants_merchant merchant WHERE EXISTS (
                SELECT 1 FROM channels_inboxevent event
                WHERE event.merchant_id = merchant.id AND event.state = 'pending' AND event.next_attempt_at <= now())
            """
        ),
        merchants_to_publish=_ids(
            """
            SELECT merchant.id FROM merchants_merchant merchant
            WHERE EXISTS (SELECT 1 FROM sync_dirtysku mark WHERE mark.merchant_id = merchant.id)
            """
        ),
        channels_to_push=_ids(
            """
            SELECT channel.id FROM channels_channel channel
            WHERE channel.state = 'active' AND channel.next_call_at <= now()
                AND NOT channels_writing_is_stopped(channel.merchant_id) AND (
                EXISTS (
                    SELECT 1 FROM channels_listinglevel level
                    WHERE level.channel_id = channel.id AND level.is_out_of_sync
                        AND level.next_push_at <= now())
                OR EXISTS (
                    SELECT 1 FROM channels_pushbatch batch
                    WHERE batch.channel_id = channel.id AND batch.state IN ('intent', 'unknown')
                        AND batch.next_attempt_at <= now()))
            """
        ),
        channels_to_check=_ids(
            """
            SELECT channel.id FROM channels_channel channel
            WHERE channel.state IN ('active', 'paused') AND channel.next_call_at <= now() AND EXISTS (
                SELECT 1 FROM channels_listinglevel level
                WHERE level.channel_id = channel.id AND level.suspect_since IS NOT NULL AND level.next_check_at <= now())
            """
        ),
        # Nobody may have anything to ask a channel that was in outage: then this finds out that it is over.
        channels_to_poll=_ids(
            """
            SELECT id FROM channels_channel WHERE state = 'active' AND failing_since IS NOT NULL AND next_call_at <= now()
            """
        ),
        jobs_to_work=_ids(
            """
            SELECT id FROM sync_job WHERE state IN ('waiting', 'running', 'cancelling') AND next_attempt_at <= now()
            ORDER BY id LIMIT 100
            """
        ),
    )


def take_up_placeable_lines() -> int:
    """Have events applied again whose order lines wait for a mapping that is there by now; returns how many.

    A mapping takes up what was set aside before it (`sync.hooks`). A line that was set aside at that very moment, by a
    transaction that had not seen the mapping yet, is found here. It costs attempts, so that it ends by itself. Each merchant
    on its own.
    """
    waiting = _ids("SELECT DISTINCT merchant_id FROM sync_orderline WHERE waiting_for <> ''")
    return sum(
        alone("take up lines", partial(_take_up, merchant_id), merchant_id=merchant_id) or 0 for merchant_id in waiting
    )


def _take_up(merchant_id: int) -> int:
    return sql.execute(
        """
        UPDATE channels_inboxevent event
        SET state = 'pending', reason = '', settled_at = NULL, next_attempt_at = now()
        FROM sync_orderline line
        WHERE event.id = line.latest_event_id AND event.state IN ('applied', 'ignored') AND event.attempts <= %s
            AND line.merchant_id = %s AND line.waiting_for <> ''
            AND CASE WHEN line.waiting_for LIKE 'variant %%' THEN EXISTS (
                SELECT 1 FROM channels_listing listing
                WHERE listing.channel_id = line.channel_id AND listing.remote_variant_id = line.remote_variant_id
                    AND listing.sku_id IS NOT NULL)
            WHEN line.waiting_for LIKE 'SKU %%' THEN EXISTS (
                SELECT 1 FROM channels_listing listing JOIN inventory_sku sku ON sku.id = listing.sku_id
                WHERE listing.channel_id = line.channel_id
                    AND line.waiting_for IN (left('SKU ' || listing.remote_sku, 120), left('SKU ' || sku.code, 120)))
            ELSE EXISTS (
                SELECT 1 FROM channels_storelocation place
                JOIN locations_mapping mapping ON mapping.store_location_id = place.id
                WHERE place.channel_id = line.channel_id AND line.waiting_for IN ('location of the sale',
                    'location ' || place.remote_id, 'location without a warehouse: ' || place.id)) END
        """,
        [MAX_ATTEMPTS, merchant_id],
    )


def _ids(statement: LiteralString) -> list[int]:
    return [row[0] for row in sql.rows(statement)]
