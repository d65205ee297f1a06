"""Publishing: from stock to what every store location should show.

Level-triggered: it computes today's value of the SKUs marked dirty, however many changes the marks stand for. Publishers
of one SKU take turns (a lock on its row), so that an older value never overwrites a newer one.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from inventory.bom import bundles_available
from locations.publishing import Rule, most_specific, published
from sync import world
from synctec.lib import sql

BATCH_SKUS = 500


@dataclass(slots=True)
class Mark:
    """Why a SKU is published: the events behind it and when the oldest of them arrived."""

    correlation_ids: list[uuid.UUID] = field(default_factory=list)
    caused_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A listing level that may have to show another number."""

    level_id: int
    channel_id: int
    listing_id: int
    store_location_id: int
    sku_id: int
    desired: int | None
    is_publishable: bool


@dataclass(slots=True)
class Published:
    """What a batch came to: SKUs done, levels changed, and the channels that have something to push."""

    skus: int = 0
    changed_levels: int = 0
    channels: set[int] = field(default_factory=set)


def mark_dirty(*, merchant_id: int, sku_ids: Sequence[int] | None, correlation_id: uuid.UUID, now: datetime) -> None:
    """Mark SKUs for publishing in the caller's transaction, with every bundle that contains them. None: all mapped SKUs."""
    if sku_ids is None:
        ids = [
            sku
            for (sku,) in sql.rows(
                "SELECT DISTINCT sku_id FROM channels_listing WHERE merchant_id = %s AND sku_id IS NOT NULL",
                [merchant_id],
            )
        ]
    else:
        _, bundles = world.load_bundles(merchant_id, sku_ids)
        ids = sorted({*sku_ids, *(bundle for sku in sku_ids for bundle in bundles.get(sku, ()))})
    with sql.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
            SELECT %s, sku, %s, %s FROM unnest(%s::bigint[]) AS sku
            """,
            [merchant_id, correlation_id, now, ids],
        )


@transaction.atomic
def publish_batch(*, merchant_id: int, now: datetime) -> Published:
    """Publish one batch of a merchant's dirty SKUs; `.skus` tells whether there may be more."""
    sql.forgo_flush()  # without this, the marks are there again
    marks = _take_marks(merchant_id)
    if not marks:
        return Published()
    targets = _targets(marks)
    parts, _ = world.load_bundles(merchant_id, marks)
    warehouses = _warehouses({target.store_location_id for target in targets})
    available = _available({sku for sku_parts in parts.values() for sku in sku_parts})
    rules = _rules({target.channel_id for target in targets}, marks)
    changed: list[tuple[Target, int | None]] = []
    for target in targets:
        desired = _desired(target, parts, warehouses, available, rules)
        if desired != target.desired:
            changed.append((target, desired))
    _write(changed, marks, now)
    return Published(len(marks), len(changed), {target.channel_id for target, _ in changed})


def _take_marks(merchant_id: int) -> dict[int, Mark]:
    """Take the marks of SKUs that no other publisher is busy with."""
    free = sql.rows(
        """
        SELECT sku.id FROM inventory_sku sku
        WHERE sku.id IN (SELECT DISTINCT sku_id FROM sync_dirtysku WHERE merchant_id = %s LIMIT %s)
        ORDER BY sku.id FOR NO KEY UPDATE SKIP LOCKED
        """,
        [merchant_id, BATCH_SKUS],
    )
    if not free:
        return {}
    marks: dict[int, Mark] = defaultdict(Mark)
    for sku, correlation_id, caused_at in sql.rows(
        "DELETE FROM sync_dirtysku WHERE sku_id = ANY(%s::bigint[]) RETURNING sku_id, correlation_id, caused_at",
        [[sku for (sku,) in free]],
    ):
        mark = marks[sku]
        mark.correlation_ids.append(correlation_id)
        mark.caused_at = min(mark.caused_at or caused_at, caused_at)
    return dict(marks)


def _targets(skus: Iterable[int]) -> list[Target]:
    """The levels of these SKUs. Unlocked: `desired` is written by publishers only, and they take turns."""
    return [
        Target(*row)
        for row in sql.rows(
            """
            SELECT level.id, level.channel_id, level.listing_id, level.store_location_id, listing.sku_id, level.desired,
                listing.is_tracked AND NOT listing.is_store_bundle AND listing.deleted_at IS NULL AND level.is_stocked
            FROM channels_listinglevel level JOIN channels_listing listing ON listing.id = level.listing_id
            WHERE listing.sku_id = ANY(%s::bigint[])
            """,
            [sorted(skus)],
        )
    ]


def _warehouses(store_locations: set[int]) -> dict[int, list[int]]:
    drawn_on: dict[int, list[int]] = defaultdict(list)
    for location, warehouse in sql.rows(
        "SELECT store_location_id, warehouse_id FROM locations_mapping WHERE store_location_id = ANY(%s::bigint[])",
        [sorted(store_locations)],
    ):
        drawn_on[location].append(warehouse)
    return drawn_on


def _available(skus: set[int]) -> dict[tuple[int, int], int]:
    return {
        (sku, warehouse): available
        for sku, warehouse, available in sql.rows(
            "SELECT sku_id, warehouse_id, available FROM inventory_stocklevel WHERE sku_id = ANY(%s::bigint[])",
            [sorted(skus)],
        )
    }


def _rules(channels: set[int], skus: Iterable[int]) -> dict[tuple[str, int, int], Rule]:
    """Rules by what they are for: ("channel", id, 0), ("sku", channel id, SKU id), ("listing", id, 0)."""
    rules: dict[tuple[str, int, int], Rule] = {}
    for channel, sku, listing, units, percent, cap, floor in sql.rows(
        """
        SELECT channel_id, sku_id, listing_id, buffer_units, buffer_percent, cap, floor FROM locations_publishingrule
        WHERE channel_id = ANY(%s::bigint[]) AND (sku_id IS NULL OR sku_id = ANY(%s::bigint[]))
        """,
        [sorted(channels), sorted(skus)],
    ):
        rule = Rule(units, percent, cap, floor)
        if listing is not None:
            rules[("listing", listing, 0)] = rule
        elif sku is not None:
            rules[("sku", channel, sku)] = rule
        else:
            rules[("channel", channel, 0)] = rule
    return rules


def _desired(
    target: Target,
    parts: Mapping[int, Mapping[int, int]],
    warehouses: Mapping[int, Sequence[int]],
    available: Mapping[tuple[int, int], int],
    rules: Mapping[tuple[str, int, int], Rule],
) -> int | None:
    """What the level should show; None when it is not ours to say."""
    drawn_on = warehouses.get(target.store_location_id)
    if not target.is_publishable or not drawn_on:
        return None
    recipe = parts[target.sku_id]
    if recipe == {target.sku_id: 1}:
        total = sum(available.get((target.sku_id, warehouse), 0) for warehouse in drawn_on)
    else:
        # A bundle is packed in one warehouse, so bundles are counted per warehouse.
        total = sum(
            max(0, bundles_available(recipe, {sku: available.get((sku, warehouse), 0) for sku in recipe}))
            for warehouse in drawn_on
        )
    rule = most_specific(
        (
            rules.get(("listing", target.listing_id, 0)),
            rules.get(("sku", target.channel_id, target.sku_id)),
            rules.get(("channel", target.channel_id, 0)),
        )
    )
    return published(total, rule)


def _write(changed: Sequence[tuple[Target, int | None]], marks: Mapping[int, Mark], now: datetime) -> None:
    """Write what should be shown, unless the listing is another SKU's by now. Events wait only where a push will come."""
    if not changed:
        return
    world.lock_level_rows(target.level_id for target, _ in changed)
    with sql.cursor() as cursor:
        cursor.execute(
            """
            UPDATE channels_listinglevel level
            SET desired = told.desired, next_push_at = %s, push_failures = 0,
                waiting_since = CASE WHEN told.desired = level.reported THEN NULL
                    WHEN level.desired = level.reported THEN told.caused_at
                    ELSE least(level.waiting_since, told.caused_at) END,
                waiting_correlation_ids = CASE WHEN told.desired = level.reported THEN '{}'
                    WHEN level.desired = level.reported THEN told.correlation_ids::uuid[]
                    ELSE (told.correlation_ids::uuid[] || level.waiting_correlation_ids)[1:%s] END
            FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::timestamptz[], %s::text[])
                AS told (id, sku_id, desired, caused_at, correlation_ids)
            JOIN channels_listing listing USING (sku_id)
            WHERE level.id = told.id AND listing.id = level.listing_id
            """,
            [
                now,
                world.STORY_EVENTS,
                [target.level_id for target, _ in changed],
                [target.sku_id for target, _ in changed],
                [desired for _, desired in changed],
                [marks[target.sku_id].caused_at for target, _ in changed],
                [_array(marks[target.sku_id].correlation_ids) for target, _ in changed],
            ],
        )


def _array(correlation_ids: Sequence[uuid.UUID]) -> str:
    """A PostgreSQL array literal: arrays of arrays of unequal length cannot be passed as one parameter."""
    newest = correlation_ids[-world.STORY_EVENTS :]
    return "{" + ",".join(str(correlation_id) for correlation_id in newest) + "}"
