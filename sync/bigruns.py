"""Runs that would change too much of a channel at once: judged as a whole, held, and what a person decides about them.

`sync.tables.restraint` writes down what is big and unexplained as it is published; here the run is measured once all
that its cause has marked is published. Level-triggered: judging may happen at any time, any number of times, by anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import structlog
from django.db import transaction

from channels.models import Channel
from inventory.models import Cause
from merchants import trail
from merchants.models import ApiKey, User
from sync import blast
from sync.blast import Run, Terms
from sync.models import HeldLevel, HeldState, HoldKind, HoldState, PushHold
from sync.tables.restraint import RUN_LOCK, SALES
from synctec.lib import sql
from synctec.lib.alone import alone
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)

#: What was let through, or is over, is forgotten after so many days; holds and what they held later (`sync.retention`).
KEEP_DAYS = 2


class AlreadyDecided(Exception):
    """Somebody has decided before, or nothing was left of it. Nothing is changed."""


def judge_all() -> list[int]:
    """Judge what is watched; returns the merchants that have something to publish because of it. Each channel on its own."""
    due = sql.rows(
        """
        SELECT channel_id, merchant_id FROM sync_heldlevel WHERE state = 'watched' GROUP BY 1, 2
        UNION
        SELECT hold.channel_id, hold.merchant_id FROM sync_pushhold hold
        WHERE hold.state = 'held' AND NOT EXISTS (
            SELECT 1 FROM sync_heldlevel held WHERE held.hold_id = hold.id AND held.state = 'held')
        """
    )
    return [
        merchant
        for channel, merchant in due
        if alone("judge a run", partial(judge, channel, merchant), channel_id=channel)
    ]


@transaction.atomic
def judge(channel_id: int, merchant_id: int) -> bool:
    """Hold what is watched of a channel if it is too much, else let it through; returns whether to publish something.

    It is left for later while what was marked before it is not published, for a minute at most.
    """
    sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [RUN_LOCK, channel_id % 2**31])
    _end_empty_holds(channel_id)
    watched = HeldLevel.objects.filter(channel_id=channel_id, state=HeldState.WATCHED)
    if not watched.exists() or _is_incomplete(channel_id, merchant_id):
        return False
    hold = PushHold.objects.filter(channel_id=channel_id, kind=HoldKind.BIG_RUN, state=HoldState.HELD).first()
    run, terms = measure(channel_id), _terms_of(channel_id)
    if hold is None and (terms is None or not blast.is_big(run, terms)):
        _mark(channel_id, "watched")
        sql.execute(
            "UPDATE sync_heldlevel SET state = 'passed', settled_at = now() WHERE channel_id = %s AND state = 'watched'",
            [channel_id],
        )
        return True
    if hold is None:
        hold = PushHold.objects.create(
            merchant_id=merchant_id,
            channel_id=channel_id,
            kind=HoldKind.BIG_RUN,
            reason=blast.in_words(run),
            zeroed=run.zeroed,
            changed=run.changed,
            of_levels=run.of_levels,
        )
        log.warning("bigruns.held", channel_id=channel_id, hold=hold.pk, zeroed=run.zeroed, changed=run.changed)
    _note_causes(channel_id)
    watched.update(state=HeldState.HELD, hold=hold)
    return False


def measure(channel_id: int) -> Run:
    """What the channel was told and would be told within one run that no sales explain."""
    [row] = sql.rows(
        """
        SELECT count(DISTINCT held.listing_level_id) FILTER (WHERE held.kind = 'zero'),
            count(DISTINCT held.listing_level_id),
            (SELECT count(*) FROM channels_listinglevel level JOIN channels_listing listing ON listing.id = level.listing_id
                WHERE level.channel_id = %s AND level.is_stocked AND listing.sku_id IS NOT NULL AND listing.is_tracked
                    AND NOT listing.is_store_bundle AND listing.deleted_at IS NULL)
        FROM sync_heldlevel held LEFT JOIN sync_pushhold hold ON hold.id = held.hold_id
        WHERE held.channel_id = %s AND (held.state = 'watched' OR (held.state = 'held' AND hold.kind = 'big_run')
            OR held.state = 'passed' AND held.settled_at > now() - %s)
        """,
        [channel_id, channel_id, blast.WINDOW],
    )
    return Run(*row)


def _terms_of(channel_id: int) -> Terms | None:
    """When the channel's runs are held; None: never."""
    channel = Channel.objects.get(pk=channel_id)
    if not channel.holds_big_runs:
        return None
    return Terms(channel.big_run_levels, channel.big_run_zero_percent, channel.big_run_change_percent)


def _is_incomplete(channel_id: int, merchant_id: int) -> bool:
    """Whether more of the run may be about to be published."""
    [(waits,)] = sql.rows(
        """
        SELECT first.at > now() - %s AND EXISTS (
            SELECT 1 FROM sync_dirtysku mark WHERE mark.merchant_id = %s AND mark.caused_at <= first.at)
        FROM (SELECT min(created_at) AS at FROM sync_heldlevel WHERE channel_id = %s AND state = 'watched') first
        """,
        [blast.PATIENCE, merchant_id, channel_id],
    )
    return bool(waits)


def _end_empty_holds(channel_id: int) -> None:
    """What was held is not big any more: put right, or sold."""
    sql.execute(
        """
        UPDATE sync_pushhold hold
        SET state = 'cancelled', decided_at = now(), decision_reason = 'nothing of it is left: put right, or sold meanwhile'
        WHERE hold.channel_id = %s AND hold.state = 'held'
            AND NOT EXISTS (SELECT 1 FROM sync_heldlevel held WHERE held.hold_id = hold.id AND held.state = 'held')
        """,
        [channel_id],
    )


def _mark(channel_id: int, state: str, hold_id: int | None = None) -> None:
    """Have the SKUs published of whose levels changes stand so."""
    sql.execute(
        """
        INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
        SELECT DISTINCT listing.merchant_id, listing.sku_id, %s::uuid, now() FROM sync_heldlevel held
        JOIN channels_listinglevel level ON level.id = held.listing_level_id
        JOIN channels_listing listing ON listing.id = level.listing_id AND listing.sku_id IS NOT NULL
        WHERE held.channel_id = %s AND held.state = %s AND (%s::bigint IS NULL OR held.hold_id = %s)
        """,
        [uuid7(), channel_id, state, hold_id, hold_id],
    )


def _note_causes(channel_id: int) -> None:
    """Say of each watched level what likely changed it: the newest movement that is no sale, else the settings."""
    labels = {cause.value: str(cause.label) for cause in Cause if cause.value not in SALES}
    sql.execute(
        """
        UPDATE sync_heldlevel held
        SET cause = left(coalesce(
                told.label
                    || CASE WHEN lower(moved.reference) IN ('', lower(told.label)) THEN '' ELSE ': ' || moved.reference END,
                'Settings: mapping, warehouse, bundle, rule or policy'), 200),
            correlation_id = coalesce(moved.correlation_id, level.waiting_correlation_ids[1])
        FROM channels_listinglevel level
        JOIN channels_listing listing ON listing.id = level.listing_id
        LEFT JOIN LATERAL (
            SELECT newest.* FROM inventory_stocklevel shelf
            CROSS JOIN LATERAL (
                SELECT movement.cause, movement.reference, movement.correlation_id, movement.created_at
                FROM inventory_movement movement
                WHERE movement.stock_level_id = shelf.id AND movement.cause = ANY(%s::text[])
                    AND movement.seq > coalesce((
                        SELECT before.seq FROM inventory_movement before
                        WHERE before.stock_level_id = shelf.id AND before.created_at < now() - %s
                        ORDER BY before.seq DESC LIMIT 1), 0)
                ORDER BY movement.seq DESC LIMIT 1) newest
            WHERE shelf.sku_id = listing.sku_id ORDER BY newest.created_at DESC LIMIT 1
        ) moved ON true
        LEFT JOIN unnest(%s::text[], %s::text[]) AS told (cause, label) ON told.cause = moved.cause
        WHERE level.id = held.listing_level_id AND held.channel_id = %s AND held.state = 'watched'
        """,
        [list(labels), blast.WINDOW, list(labels), list(labels.values()), channel_id],
    )


def end(channel_id: int, why: str) -> None:
    """End whatever is held or watched of a channel, in the caller's transaction; what is computed counts again."""
    sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [RUN_LOCK, channel_id % 2**31])
    for state in (HeldState.WATCHED, HeldState.HELD):
        _mark(channel_id, state)
    sql.execute(
        """
        UPDATE sync_heldlevel SET state = 'released', settled_at = now()
        WHERE channel_id = %s AND state IN ('watched', 'held')
        """,
        [channel_id],
    )
    sql.execute(
        """
        UPDATE sync_pushhold SET state = 'cancelled', decided_at = now(), decision_reason = %s
        WHERE channel_id = %s AND state = 'held'
        """,
        [why, channel_id],
    )


# --- what a person decides ----------------------------------------------------------------------------------------


@transaction.atomic
def confirm(*, hold_id: int, user: User | None, api_key: ApiKey | None = None, reason: str) -> PushHold:
    """Let what is computed be shown, of all levels of a hold. Published and pushed by whoever is woken next.

    Raises:
        AlreadyDecided: it is not held any more.
    """
    hold = _decide(hold_id, HoldState.CONFIRMED, user, reason)
    sql.execute(
        "UPDATE sync_heldlevel SET state = 'confirmed', settled_at = now() WHERE hold_id = %s AND state = 'held'",
        [hold.pk],
    )
    _mark(hold.channel_id, "confirmed", hold.pk)
    _record(hold, "confirm", user, api_key, reason)
    return hold


@transaction.atomic
def look_again(*, hold_id: int, user: User | None, api_key: ApiKey | None = None, reason: str) -> PushHold:
    """The cause was mended: compute everything anew. What is big then is held again.

    Raises:
        AlreadyDecided: it is not held any more.
    """
    hold = _decide(hold_id, HoldState.CANCELLED, user, reason)
    sql.execute(
        "UPDATE sync_heldlevel SET state = 'released', settled_at = now() WHERE hold_id = %s AND state = 'held'",
        [hold.pk],
    )
    _mark(hold.channel_id, "released", hold.pk)
    _record(hold, "look_again", user, api_key, reason)
    return hold


class Change(NamedTuple):
    """A level and a big change of what it shows, as it was seen."""

    level_id: int
    shown: int
    told: int


def note_confirmed(
    channel: Channel, changes: Sequence[Change], *, why: str, user: User | None, reason: str
) -> PushHold | None:
    """Write down a run that somebody has seen before it began, as one that was confirmed: what was shown is not held once
    more. In the caller's transaction, which has what it follows from published."""
    if not changes:
        return None
    zeroed = {change.level_id for change in changes if change.told == 0}
    run = Run(len(zeroed), len({change.level_id for change in changes}), measure(channel.pk).of_levels)
    [(now,)] = sql.rows("SELECT now()")
    hold = PushHold.objects.create(
        merchant_id=channel.merchant_id,
        channel=channel,
        kind=HoldKind.BIG_RUN,
        state=HoldState.CONFIRMED,
        reason=f"{why}: {blast.in_words(run)}"[:500],
        zeroed=run.zeroed,
        changed=run.changed,
        of_levels=run.of_levels,
        created_by=user,
        decided_by=user,
        decided_at=now,
        decision_reason=reason.strip()[:500],
    )
    sql.execute(
        """
        INSERT INTO sync_heldlevel (merchant_id, channel_id, listing_level_id, hold_id, state, kind, from_quantity,
            to_quantity, sold_from, settled_at, cause)
        SELECT %s, %s, told.level, %s, 'confirmed', CASE WHEN told.wished = 0 THEN 'zero' ELSE 'much' END, told.shown,
            told.wished, now(), now(), %s
        FROM unnest(%s::bigint[], %s::int[], %s::int[]) AS told (level, shown, wished)
        """,
        [channel.merchant_id, channel.pk, hold.pk, why[:200], *(list(column) for column in zip(*changes, strict=True))],
    )
    return hold


def _decide(hold_id: int, state: HoldState, user: User | None, reason: str) -> PushHold:
    channel_id = PushHold.objects.values_list("channel_id", flat=True).get(pk=hold_id)
    sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [RUN_LOCK, channel_id % 2**31])
    hold = PushHold.objects.select_for_update(of=("self",), no_key=True).get(pk=hold_id)
    if hold.state != HoldState.HELD:
        raise AlreadyDecided("This was decided before, or nothing was left of it.")
    hold.state, hold.decided_by, hold.decision_reason = state, user, reason.strip()[:500]
    [(hold.decided_at,)] = sql.rows("SELECT now()")
    hold.save(update_fields=["state", "decided_by", "decision_reason", "decided_at"])
    return hold


def _record(hold: PushHold, verb: str, user: User | None, api_key: ApiKey | None, reason: str) -> None:
    trail.record(
        merchant_id=hold.merchant_id,
        action=f"push_hold.{verb}",
        subject=hold,
        user=user,
        api_key=api_key,
        before={"state": HoldState.HELD, "kind": hold.kind},
        after={"state": hold.state, "levels": HeldLevel.objects.filter(hold=hold).count()},
        reason=reason.strip(),
    )


def preview(hold: PushHold, *, limit: int) -> list[dict[str, Any]]:
    """The levels of a hold, the greatest changes first: SKU, title, place, shown now, was, would be, cause."""
    rows = (
        HeldLevel.objects.filter(hold=hold)
        .select_related("listing_level__listing__sku", "listing_level__store_location")
        .order_by("to_quantity", "-from_quantity", "pk")[:limit]
    )
    return [
        {
            "sku": level.listing.sku.code if level.listing.sku else "",
            "title": level.listing.title,
            "place": level.store_location.name,
            "shown": level.shown,
            "first": row.from_quantity,
            "wished": row.to_quantity,
            "cause": row.cause,
            "state": row.get_state_display(),
            "correlation_id": row.correlation_id,
        }
        for row in rows
        for level in (row.listing_level,)
    ]


def forget(*, now: datetime) -> int:
    """Delete changes that were let through long ago and belong to no hold; returns how many."""
    return sql.execute(
        """
        DELETE FROM sync_heldlevel
        WHERE hold_id IS NULL AND state IN ('passed', 'released') AND settled_at < %s::timestamptz - make_interval(days => %s)
        """,
        [now, KEEP_DAYS],
    )
