"""What decides the numbers: marks, listing levels, groups, stock and rules."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction

from inventory import availability, stock
from locations.pace import Velocity
from locations.publishing import Rule
from sync.ports import OUTAGE_FAILURES, STORY_EVENTS, Desire, Group, Mark, ShelfStock, Target
from sync.tables.propagation import load_windows
from sync.tables.stock import load_bundles, lock_level_rows
from synctec.lib import sql


class PublishTables:
    """Marks are only added and taken away, so they never wait for each other."""

    def mark_dirty(self, merchant_id: int, marks: Mapping[int, tuple[uuid.UUID, datetime]]) -> None:
        if marks:
            sql.execute(
                """
                INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
                SELECT %s, * FROM unnest(%s::bigint[], %s::uuid[], %s::timestamptz[])
                """,
                [
                    merchant_id,
                    list(marks),
                    [correlation_id for correlation_id, _ in marks.values()],
                    [caused_at for _, caused_at in marks.values()],
                ],
            )

    def take_marks(self, merchant_id: int, limit: int) -> dict[int, Mark]:
        wanted = {
            sku
            for (sku,) in sql.rows(
                "SELECT DISTINCT sku_id FROM sync_dirtysku WHERE merchant_id = %s LIMIT %s", [merchant_id, limit]
            )
        }
        if not wanted:
            return {}
        families = families_of(wanted)
        free = {
            sku
            for (sku,) in sql.rows(
                "SELECT id FROM inventory_sku WHERE id = ANY(%s::bigint[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED",
                [sorted(wanted.union(*families.values()))],
            )
        }
        marks: dict[int, Mark] = {}
        for sku in sorted(wanted):
            family = families.get(sku, {sku})
            if family <= free:
                for member in sorted(family):
                    marks.setdefault(member, Mark()).is_divided |= sku in families
        for sku, correlation_id, caused_at in sql.rows(
            "DELETE FROM sync_dirtysku WHERE sku_id = ANY(%s::bigint[]) RETURNING sku_id, correlation_id, caused_at",
            [list(marks)],
        ):
            mark = marks[sku]
            mark.correlation_ids.append(correlation_id)
            mark.caused_at = min(mark.caused_at or caused_at, caused_at)
        return marks

    def lock_shelves(self, sku_ids: Collection[int]) -> None:
        stock.lock_levels_of(sku_ids)
        sql.rows(
            """
            SELECT 1 FROM channels_listinglevel level JOIN channels_listing listing ON listing.id = level.listing_id
            WHERE listing.sku_id = ANY(%s::bigint[]) ORDER BY level.id FOR NO KEY UPDATE OF level
            """,
            [sorted(sku_ids)],
        )

    def load_targets(self, sku_ids: Collection[int]) -> list[Target]:
        return [
            _target(*row)
            for row in sql.rows(
                """
                SELECT level.id, level.channel_id, level.listing_id, level.store_location_id, listing.sku_id,
                    member.group_id, coalesce(member.weight, 1)::float8, level.desired,
                    listing.is_tracked AND NOT listing.is_store_bundle AND listing.deleted_at IS NULL AND level.is_stocked
                        AND level.gone_at IS NULL,
                    level.suspect_since IS NOT NULL, channel.raises_paused_at IS NOT NULL,
                    least(level.shown, level.reported) + coalesce(push.to_quantity - push.from_quantity, 0),
                    CASE WHEN level.gone_at IS NOT NULL OR level.is_stocked AND listing.deleted_at IS NULL THEN greatest(0,
                        greatest(level.shown, level.reported, level.suspect_available,
                            CASE WHEN level.since_sample IS NULL THEN level.sample END)
                        + greatest(0, push.to_quantity - push.from_quantity)
                        + coalesce(level.doubtful_by, 0)) ELSE 0 END,
                    level.rush_units, level.usual_units, level.largest_sale, level.sold_at,
                    CASE WHEN channel.state <> 'active' OR channel.is_shadow THEN channel.created_at
                        WHEN channel.failures >= %s THEN channel.failing_since ELSE level.gone_at END,
                    channel.is_shadow,
                    level.gone_at IS NOT NULL AND listing.is_tracked AND NOT listing.is_store_bundle
                FROM channels_listinglevel level
                JOIN channels_listing listing ON listing.id = level.listing_id
                JOIN channels_channel channel ON channel.id = level.channel_id
                LEFT JOIN locations_grouplocation member ON member.store_location_id = level.store_location_id
                LEFT JOIN channels_push push ON push.listing_level_id = level.id AND push.state = 'open'
                WHERE listing.sku_id = ANY(%s::bigint[]) ORDER BY level.id
                """,
                [OUTAGE_FAILURES, sorted(sku_ids)],
            )
        ]

    def load_groups(self, group_ids: Collection[int]) -> dict[int, Group]:
        windows = load_windows(group_ids)
        groups = {}
        for group_id, warehouses, *terms in sql.rows(
            """
            SELECT shelf_group.id,
                ARRAY(SELECT warehouse_id FROM locations_groupwarehouse WHERE group_id = shelf_group.id ORDER BY id),
                shelf_group.policy, shelf_group.guard_units, shelf_group.weighting = 'velocity',
                shelf_group.allows_split_shipment, shelf_group.holds_weight::float8
            FROM locations_locationgroup shelf_group WHERE shelf_group.id = ANY(%s::bigint[])
            """,
            [sorted(group_ids)],
        ):
            groups[group_id] = Group(group_id, tuple(warehouses), *(*terms, windows.get(group_id, 0.0)))
        return groups

    def load_parts(self, merchant_id: int, sku_ids: Collection[int]) -> dict[int, dict[int, int]]:
        parts, _ = load_bundles(merchant_id, sku_ids)
        return parts

    def load_warehouses(self, store_locations: Collection[int]) -> dict[int, tuple[int, ...]]:
        drawn_on: dict[int, list[int]] = defaultdict(list)
        for location, warehouse in sql.rows(
            """
            SELECT store_location_id, warehouse_id FROM locations_mapping WHERE store_location_id = ANY(%s::bigint[])
            ORDER BY store_location_id, priority
            """,
            [sorted(store_locations)],
        ):
            drawn_on[location].append(warehouse)
        return {location: tuple(warehouses) for location, warehouses in drawn_on.items()}

    def load_stock(self, sku_ids: Collection[int]) -> dict[tuple[int, int], ShelfStock]:
        return {
            (sku, warehouse): ShelfStock(available, quota)
            for sku, warehouse, available, quota in sql.rows(
                """
                SELECT level.sku_id, level.warehouse_id,
                    CASE WHEN warehouse.is_active THEN level.available ELSE least(0, level.available) END, level.quota
                FROM inventory_stocklevel level JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id
                WHERE level.sku_id = ANY(%s::bigint[])
                """,
                [sorted(sku_ids)],
            )
        }

    def load_rules(self, channel_ids: Collection[int], sku_ids: Collection[int]) -> dict[tuple[str, int, int], Rule]:
        rules: dict[tuple[str, int, int], Rule] = {}
        for channel, sku, listing, units, percent, cap, floor in sql.rows(
            """
            SELECT channel_id, sku_id, listing_id, buffer_units, buffer_percent, cap, floor FROM locations_publishingrule
            WHERE channel_id = ANY(%s::bigint[]) AND (sku_id IS NULL OR sku_id = ANY(%s::bigint[]))
            """,
            [sorted(channel_ids), sorted(sku_ids)],
        ):
            rule = Rule(units, percent, cap, floor)
            if listing is not None:
                rules[("listing", listing, 0)] = rule
            elif sku is not None:
                rules[("sku", channel, sku)] = rule
            else:
                rules[("channel", channel, 0)] = rule
        return rules

    def write_desires(self, changed: Sequence[Desire], marks: Mapping[int, Mark], now: datetime) -> None:
        if not changed:
            return
        lock_level_rows(desire.target.level_id for desire in changed)
        with sql.cursor() as cursor:
            cursor.execute(
                """
                UPDATE channels_listinglevel level
                SET desired = told.desired, next_push_at = least(%s, now()), push_failures = 0,
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
                    STORY_EVENTS,
                    [desire.target.level_id for desire in changed],
                    [desire.target.sku_id for desire in changed],
                    [desire.desired for desire in changed],
                    [marks[desire.target.sku_id].caused_at or now for desire in changed],
                    [_array(marks[desire.target.sku_id].correlation_ids) for desire in changed],
                ],
            )

    def undivided(self, cells: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
        found = sql.rows(
            """
            WITH RECURSIVE told (sku, warehouse) AS (
                SELECT * FROM unnest(%s::bigint[], %s::bigint[])
            ), sold_as (origin, sku) AS (
                SELECT sku, sku FROM told
                UNION
                SELECT sold_as.origin, line.bundle_id FROM sold_as
                JOIN inventory_bomline line ON line.component_id = sold_as.sku
            )
            SELECT sku, warehouse FROM told WHERE NOT EXISTS (
                SELECT 1 FROM sold_as
                JOIN channels_listing listing ON listing.sku_id = sold_as.sku
                    AND listing.is_tracked AND NOT listing.is_store_bundle
                JOIN channels_listinglevel level ON level.listing_id = listing.id
                    AND (level.is_stocked AND listing.deleted_at IS NULL OR level.gone_at IS NOT NULL)
                JOIN locations_grouplocation member ON member.store_location_id = level.store_location_id
                JOIN locations_locationgroup shelf_group
                    ON shelf_group.id = member.group_id AND shelf_group.policy <> 'shared'
                JOIN locations_groupwarehouse place
                    ON place.group_id = shelf_group.id AND place.warehouse_id = told.warehouse
                WHERE sold_as.origin = told.sku
                    AND EXISTS (SELECT 1 FROM locations_mapping WHERE store_location_id = level.store_location_id))
            """,
            [[sku for sku, _ in cells], [warehouse for _, warehouse in cells]],
        )
        return {(sku, warehouse) for sku, warehouse in found}

    def write_quotas(self, merchant_id: int, quotas: Mapping[tuple[int, int], int | None]) -> None:
        if quotas:
            sql.execute(
                """
                UPDATE inventory_stocklevel level SET quota = told.quota
                FROM unnest(%s::bigint[], %s::bigint[], %s::int[]) AS told (sku_id, warehouse_id, quota)
                WHERE level.sku_id = told.sku_id AND level.warehouse_id = told.warehouse_id
                    AND level.quota IS DISTINCT FROM told.quota
                """,
                [[sku for sku, _ in quotas], [warehouse for _, warehouse in quotas], list(quotas.values())],
            )
            # A quota does not move the ledger's sequence, by which the gate tells old from new.
            skus = sorted({sku for sku, _ in quotas})
            transaction.on_commit(partial(availability.forget, merchant_id, skus), robust=True)


def _target(*row: Any) -> Target:
    *facts, rush_units, usual_units, largest_sale, sold_at, failing_since, is_shadow, is_gone = row
    velocity = Velocity(rush_units, usual_units, largest_sale, sold_at)
    return Target(*facts, velocity=velocity, failing_since=failing_since, is_shadow=is_shadow, is_gone=is_gone)  # type: ignore[misc]  # facts are not endless


def families_of(sku_ids: Collection[int]) -> dict[int, set[int]]:
    """Of SKUs whose units are divided among stores: everything that shares components with them, themselves included."""
    families: dict[int, set[int]] = defaultdict(set)
    for origin, sku in sql.rows(
        """
        WITH RECURSIVE family (origin, sku) AS (
            SELECT DISTINCT listing.sku_id, listing.sku_id FROM channels_listing listing
            JOIN channels_listinglevel level ON level.listing_id = listing.id
            JOIN locations_grouplocation member ON member.store_location_id = level.store_location_id
            JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id
            WHERE listing.sku_id = ANY(%s::bigint[]) AND shelf_group.policy <> 'shared'
            UNION
            SELECT family.origin, unnest(ARRAY[line.bundle_id, line.component_id]) FROM inventory_bomline line
            JOIN family ON family.sku IN (line.bundle_id, line.component_id)
        )
        SELECT origin, sku FROM family
        """,
        [sorted(sku_ids)],
    ):
        families[origin].add(sku)
    return families


def _array(correlation_ids: Sequence[uuid.UUID]) -> str:
    """A PostgreSQL array literal: arrays of arrays of unequal length cannot be passed as one parameter."""
    newest = correlation_ids[-STORY_EVENTS:]
    return "{" + ",".join(str(correlation_id) for correlation_id in newest) + "}"
