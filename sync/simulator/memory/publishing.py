"""Marks, and what decides the numbers, in memory."""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter

from locations.pace import Propagation, grows_materially
from locations.publishing import Rule
from sync.ports import OUTAGE_FAILURES, STORY_EVENTS, Desire, Group, Mark, ShelfStock, Target
from sync.simulator.memory.kept import Kept, earlier
from sync.simulator.memory.rows import ChannelRow, GroupRow, LevelRow

_by_level_id = attrgetter("level_id")


class PublishMemory(Kept):
    """`sync.ports.PublishBooks`."""

    def mark_dirty(self, merchant_id: int, marks: Mapping[int, tuple[uuid.UUID, datetime]]) -> None:
        dirty = self.marks[merchant_id]
        for sku, mark in marks.items():
            known = dirty.get(sku)
            if known is None:
                self._put(dirty, sku, [mark])
            else:
                self._append(known, mark)

    def take_marks(self, merchant_id: int, limit: int) -> dict[int, Mark]:
        self._locks("taking marks")
        dirty = self.marks[merchant_id]
        marks: dict[int, Mark] = {}
        for sku in sorted(itertools.islice(dirty, limit)):
            if self._is_divided(sku):
                for member in self._family(sku):
                    marks.setdefault(member, Mark()).is_divided = True
            else:
                marks.setdefault(sku, Mark())
        for sku, mark in marks.items():
            for correlation_id, caused_at in self._remove(dirty, sku) or ():
                mark.correlation_ids.append(correlation_id)
                mark.caused_at = caused_at if mark.caused_at is None else min(mark.caused_at, caused_at)
        return marks

    def _is_divided(self, sku: int) -> bool:
        known = self._divided.get(sku)
        if known is None:
            known = self._divided[sku] = any(
                level.location.group is not None and level.location.group.policy != "shared"
                for listing in self._listings_of.get(sku, ())
                for level in listing.levels
            )
        return known

    def _family(self, sku: int) -> tuple[int, ...]:
        """Everything that shares components with the SKU, itself included."""
        known = self._families.get(sku)
        if known is None:
            neighbours: dict[int, set[int]] = defaultdict(set)
            for bundle, parts in self._components.items():
                for component in parts:
                    neighbours[bundle].add(component)
                    neighbours[component].add(bundle)
            family, fresh = {sku}, [sku]
            while fresh:
                near = neighbours[fresh.pop()] - family
                family |= near
                fresh += near
            known = tuple(sorted(family))
            for member in known:
                self._families[member] = known
        return known

    def lock_shelves(self, sku_ids: Collection[int]) -> None:
        self._locks("locking shelves")

    def load_targets(self, sku_ids: Collection[int]) -> list[Target]:
        targets = []
        for sku in sku_ids:
            for listing in self._listings_of.get(sku, ()):
                is_published = listing.is_tracked and not listing.is_store_bundle and listing.deleted_at is None
                for level in listing.levels:
                    location, push = level.location, level.open_push
                    targets.append(
                        Target(
                            level.id,
                            level.channel_id,
                            listing.id,
                            location.id,
                            sku,
                            None if location.group is None else location.group.id,
                            location.weight,
                            level.desired,
                            is_published and level.is_stocked and level.gone_at is None,
                            level.suspect_since is not None,
                            self.channels[level.channel_id].has_paused_raises,
                            shown=min(level.shown, level.reported)
                            + (0 if push is None else push.to_quantity - push.from_quantity),
                            ceiling=self._ceiling(level),
                            velocity=level.velocity,
                            failing_since=self._failing_since(level),
                            is_shadow=self.channels[level.channel_id].is_shadow,
                            is_gone=level.gone_at is not None and listing.is_tracked and not listing.is_store_bundle,
                        )
                    )
        targets.sort(key=_by_level_id)
        return targets

    def _ceiling(self, level: LevelRow) -> int:
        if level.gone_at is None and (not level.is_stocked or level.listing.deleted_at is not None):
            return 0
        ceiling, push = level.reported, level.open_push
        if level.sample is not None:
            ceiling = max(ceiling, level.sample if level.since_sample is None else level.shown)
        if level.suspect_available is not None and level.suspect_available > ceiling:
            ceiling = level.suspect_available
        if push is not None and push.to_quantity > push.from_quantity:
            ceiling += push.to_quantity - push.from_quantity
        return max(0, ceiling + (level.doubtful_by or 0))

    def _failing_since(self, level: LevelRow) -> datetime | None:
        channel = self.channels[level.channel_id]
        if channel.state != "active" or channel.is_shadow:
            return channel.created_at
        return channel.failing_since if channel.failures >= OUTAGE_FAILURES else level.gone_at

    def load_groups(self, group_ids: Collection[int]) -> dict[int, Group]:
        return {
            group_id: Group(
                group_id=group_id,
                warehouses=group.warehouses,
                policy=group.policy,
                guard_units=group.guard_units,
                is_weighted_by_velocity=group.is_weighted_by_velocity,
                allows_split_shipment=group.allows_split_shipment,
                holds_weight=group.holds_weight,
                window_seconds=_window(group.channels.values()),
            )
            for group_id in sorted(group_ids)
            if (group := self.groups.get(group_id)) is not None
        }

    def load_warehouses(self, store_locations: Collection[int]) -> dict[int, tuple[int, ...]]:
        return {
            location: warehouses for location in store_locations if (warehouses := self.locations[location].warehouses)
        }

    def load_stock(self, sku_ids: Collection[int]) -> dict[tuple[int, int], ShelfStock]:
        return {
            (sku, row.warehouse_id): ShelfStock(
                min(0, row.available) if row.warehouse_id in self.closed_warehouses else row.available, row.quota
            )
            for sku in sku_ids
            for row in self._stock_of.get(sku, ())
        }

    def load_rules(self, channel_ids: Collection[int], sku_ids: Collection[int]) -> dict[tuple[str, int, int], Rule]:
        if not self._rules:
            return {}
        return {
            key: rule
            for channel in channel_ids
            for key, rule in self._rules.get(channel, {}).items()
            if key[0] != "sku" or key[2] in sku_ids
        }

    def restrain(self, merchant_id: int, wished: Sequence[Desire], now: datetime) -> list[Desire]:
        # No channel in memory holds big changes: nobody is there to confirm them.
        return list(wished)

    def write_desires(self, changed: Sequence[Desire], marks: Mapping[int, Mark], now: datetime) -> None:
        for desire in changed:
            target, desired = desire.target, desire.desired
            level = self.levels[target.level_id]
            if level.listing.sku_id != target.sku_id:
                continue
            self._touch_level(level)
            mark = marks[target.sku_id]
            caused_at = mark.caused_at or now
            reported = level.base + level.order_effects + level.pushed
            if desired is not None and desired == reported:
                level.waiting_since, level.waiting_correlation_ids = None, ()
            else:
                newest = tuple(mark.correlation_ids[-STORY_EVENTS:])
                if level.desired is not None and level.desired == reported:
                    level.waiting_since, level.waiting_correlation_ids = caused_at, newest
                else:
                    level.waiting_since = earlier(level.waiting_since, caused_at)
                    level.waiting_correlation_ids = (newest + level.waiting_correlation_ids)[:STORY_EVENTS]
            level.desired, level.next_push_at, level.push_failures = desired, min(now, self._now()), 0
            self._check_level(level)

    def undivided(self, cells: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
        return {(sku, warehouse) for sku, warehouse in cells if not self._divides(sku, warehouse)}

    def _divides(self, sku: int, warehouse: int) -> bool:
        """Whether a policy divides the units of the SKU, or of a bundle of it, in this warehouse."""
        for listing in self._listings_of.get(sku, ()):
            if listing.is_tracked and not listing.is_store_bundle:
                is_known = listing.deleted_at is None
                there = [
                    level for level in listing.levels if (is_known and level.is_stocked) or level.gone_at is not None
                ]
                places = [level.location for level in there if level.location.warehouses]
                groups = [place.group for place in places if place.group is not None and place.group.policy != "shared"]
                if any(warehouse in group.warehouses for group in groups):
                    return True
        return any(self._divides(bundle, warehouse) for bundle, parts in self._components.items() if sku in parts)

    def write_quotas(self, merchant_id: int, quotas: Mapping[tuple[int, int], int | None]) -> None:
        for pair, quota in quotas.items():
            row = self._stock_at.get(pair)
            if row is not None and row.quota != quota:
                self._require(quota is None or quota >= 0, "quota {} of SKU {}", quota, pair[0])
                self._touch(row)
                row.quota = quota

    def _note_lag(self, channel_id: int, way: str, seconds: float, now: datetime) -> None:
        channel = self.channels[channel_id]
        before: Propagation = getattr(channel, way)
        after = before.observed(seconds, now)
        if not before.is_worth_noting(after, now):
            return
        guarded = [
            group for group in self._groups_of(channel_id) if group.policy == "guard" and group.guard_units is None
        ]
        windows = [_window(group.channels.values()) for group in guarded]
        self._touch(channel)
        setattr(channel, way, after)
        grown = [
            group
            for group, known in zip(guarded, windows, strict=True)
            if grows_materially(known, _window(group.channels.values()))
        ]
        self._mark_groups_dirty(grown, now)

    def _groups_of(self, channel_id: int) -> list[GroupRow]:
        return [group for group in self.groups.values() if channel_id in group.channels]

    def _mark_groups_dirty(self, groups: Collection[GroupRow], now: datetime) -> None:
        if groups:
            correlation_id = self._uuid()
            skus = {
                (listing.merchant_id, listing.sku_id)
                for listing in self.listings.values()
                if listing.sku_id is not None and any(level.location.group in groups for level in listing.levels)
            }
            for merchant_id, sku in sorted(skus):
                self.mark_dirty(merchant_id, {sku: (correlation_id, now)})


def _window(channels: Iterable[ChannelRow]) -> float:
    """How long news takes from the slowest active channel to the slowest (seconds)."""
    rows = [row for row in channels if row.state == "active" and not row.is_shadow]
    return max((row.inbound.seconds for row in rows), default=0.0) + max(
        (row.outbound.seconds for row in rows), default=0.0
    )
