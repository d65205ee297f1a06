"""Registers, ledger and levels in memory, as applying events sees them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter

from inventory import ledger
from inventory.ledger import Balance, Entry
from locations.routing import Routing
from sync.decide import Level, Line, LineKey, ListingFacts, Named, Placed, Taken, explained, listing_of
from sync.ports import Mappings, Mentioned, OrderKey, Waiting
from sync.simulator.memory.kept import later
from sync.simulator.memory.publishing import PublishMemory
from sync.simulator.memory.rows import LevelRow, LineRow, PlacedRow, ShortageRow, StockRow

_by_id = attrgetter("id")


def _placed(line: Line, before: LineRow | None, now: datetime) -> dict[int, PlacedRow]:
    """Where the line has been, and when what it did there changed."""
    if not line.placed:
        return {}
    known = dict(before.placed) if before is not None else {}
    for where, placed in line.placed.items():
        if where not in known or known[where].effect != placed.effect:
            known[where] = PlacedRow(placed.level_id, placed.effect, now)
    return known


class StockMemory(PublishMemory):
    """`sync.ports.StockBooks`."""

    def load_mappings(self, merchant_id: int, mentioned: Mentioned, known_skus: Collection[int]) -> Mappings:
        by_variant: dict[tuple[int, str], ListingFacts] = {}
        by_item: dict[tuple[int, str], tuple[ListingFacts, ...]] = {}
        for variant in sorted(mentioned.variants):
            listing = self._by_variant.get(variant)
            if listing is not None:
                by_variant[variant] = ListingFacts(listing.id, listing.sku_id)
        for item in sorted(mentioned.items):
            facts = tuple(
                ListingFacts(listing.id, listing.sku_id)
                for listing in self._by_item.get(item, ())
                if listing.deleted_at is None
            )
            if facts:
                by_item[item] = facts
        by_code: dict[tuple[int, str], ListingFacts] = {}
        for channel, code in sorted(mentioned.codes):
            meant = listing_of(self._named(channel, code))
            if meant is not None:
                by_code[channel, code] = meant
        channels = sorted(
            {
                *(channel for channel, _ in mentioned.variants),
                *(channel for channel, _ in mentioned.items),
                *(channel for channel, _ in mentioned.orders),
            }
        )
        location_ids: dict[tuple[int, str], int] = {}
        warehouses: dict[int, tuple[int, ...]] = {}
        default_locations: dict[int, int] = {}
        routing: dict[int, Routing] = {}
        split_shipment: set[int] = set()
        for channel in channels:
            for location in self._locations_of.get(channel, ()):
                location_ids[channel, location.remote_id] = location.id
                group = location.group
                if group is not None and (group.routing is not Routing.PRIORITY or group.allows_split_shipment):
                    routing[location.id] = group.routing
                    if group.allows_split_shipment:
                        split_shipment.add(location.id)
                if location.warehouses:
                    warehouses[location.id] = self._in_use(location.warehouses)
                    default_locations.setdefault(channel, location.id)
        found = (*by_variant.values(), *by_code.values())
        skus = {listing.sku_id for listing in found if listing.sku_id is not None}
        skus.update(known_skus)
        parts = self.load_parts(merchant_id, skus)
        return Mappings(
            listings_by_variant=by_variant,
            listings_by_item=by_item,
            location_ids=location_ids,
            default_locations=default_locations,
            warehouses=warehouses,
            parts=parts,
            bundles={
                component: self._bundles[component]
                for needed in parts.values()
                for component in needed
                if component in self._bundles
            },
            counted_from={channel: self.channels[channel].orders_counted_from for channel in channels},
            routing=routing,
            split_shipment=split_shipment,
            listings_by_code=by_code,
        )

    def _named(self, channel_id: int, code: str) -> list[Named]:
        return [
            Named(listing.id, listing.sku_id, listing.remote_sku == code, listing.deleted_at is not None)
            for listing in self.listings.values()
            if listing.channel_id == channel_id
            and listing.sku_id is not None
            and code in (listing.remote_sku, self.skus[listing.sku_id].code)
        ]

    def channels_with_several_places(self, channel_ids: Collection[int]) -> set[int]:
        return {
            channel
            for channel in channel_ids
            if len(self._locations_of.get(channel, ())) > 1
            and sum(1 for location in self._locations_of[channel] if location.is_active) > 1
        }

    def lines_with_a_place(self, orders: Collection[OrderKey]) -> set[LineKey]:
        return {
            key
            for order in orders
            for key, line in self.orders.get(order, {}).items()
            if line.store_location_id is not None or line.register.located
        }

    def contested_orders(self, orders: Collection[OrderKey]) -> set[OrderKey]:
        return {
            order
            for order in orders
            if any(line.register.needs_reading for line in self.orders.get(order, {}).values())
        }

    def skus_of_orders(self, orders: Collection[OrderKey]) -> dict[OrderKey, set[int]]:
        skus: dict[OrderKey, set[int]] = defaultdict(set)
        for order in orders:
            for line in self.orders.get(order, {}).values():
                if line.sku_id is not None:
                    skus[order].add(line.sku_id)
        return skus

    def lock_lines(self, orders: Collection[OrderKey]) -> dict[LineKey, Line]:
        self._locks("locking lines")
        rows = [line for order in orders for line in self.orders.get(order, {}).values()]
        if len(rows) > 1:
            rows.sort(key=_by_id)
        return {
            row.key: Line(
                row.key,
                row.id,
                row.order_name,
                row.register,
                row.listing_id,
                row.sku_id,
                row.level_id,
                row.store_location_id,
                row.applied,
                row.desired,
                row.postings,
                row.waiting_for,
                dict(row.taken_from),
                {where: Placed(placed.level_id, placed.effect) for where, placed in row.placed.items()},
            )
            for row in rows
        }

    def lock_stock(
        self,
        merchant_id: int,
        mappings: Mappings,
        skus: Collection[int],
        locations: Collection[int],
        taken: Collection[int],
    ) -> tuple[dict[tuple[int, int], int], dict[int, Balance]]:
        warehouses = {warehouse for location in locations for warehouse in mappings.warehouses.get(location, ())}
        stocked = mappings.stocked_skus(skus)
        origins = [self.stock[level] for level in sorted(taken) if level in self.stock]
        stocked.update(row.sku_id for row in origins)
        rows = [
            self._stock_row(merchant_id, sku, warehouse) for sku in sorted(stocked) for warehouse in sorted(warehouses)
        ]
        ids = {(row.sku_id, row.warehouse_id): row.id for row in (*rows, *origins)}
        return ids, self.lock_balances(ids.values())

    def _stock_row(self, merchant_id: int, sku_id: int, warehouse_id: int) -> StockRow:
        row = self._stock_at.get((sku_id, warehouse_id))
        if row is None:
            row = StockRow(self._id("stock"), merchant_id, sku_id, warehouse_id)
            self._put(self.stock, row.id, row)
            self._put(self._stock_at, (sku_id, warehouse_id), row)
            self._append(self._stock_of[sku_id], row)
        return row

    def lock_balances(self, stock_level_ids: Collection[int]) -> dict[int, Balance]:
        self._locks("locking balances")
        stock = self.stock
        rows = [stock[level] for level in sorted(set(stock_level_ids)) if level in stock]
        return {
            row.id: Balance(
                row.id,
                row.on_hand,
                row.committed,
                row.held,
                row.seq,
                quota=row.quota,
                sku_id=row.sku_id,
                warehouse_id=row.warehouse_id,
            )
            for row in rows
        }

    def lock_levels(self, merchant_id: int, pairs: Collection[tuple[int, int]]) -> dict[tuple[int, int], Level]:
        self._locks("locking levels")
        rows = []
        for pair in sorted(set(pairs)):
            row = self._level_at.get(pair)
            if row is None and pair[0] in self.listings:
                row = self._new_level(*pair)
            if row is not None:
                rows.append(row)
        rows.sort(key=_by_id)
        return {
            (row.listing.id, row.location.id): Level(
                row.id,
                row.base + row.order_effects + row.pushed,
                row.source_at,
                row.suspect_since,
                row.suspect_available,
                row.sample,
                None if row.open_push is None else row.open_push.to_quantity,
                row.held,
                row.is_stocked and row.gone_at is None,
            )
            for row in rows
        }

    def post(self, merchant_id: int, balances: Mapping[int, Balance], entries: Sequence[Entry], now: datetime) -> None:
        if not entries:
            return
        self._locks("posting")
        known = {}
        still_open = []
        for level, balance in balances.items():
            if balance.oversold:
                for shortage in self.stock[level].shortages:
                    if shortage.covered_at is None:
                        known[shortage.id] = shortage
                        still_open.append(ledger.OpenShortage(shortage.id, level, shortage.quantity - shortage.covered))
        if len(still_open) > 1:
            still_open.sort(key=attrgetter("id"))
        posting = ledger.post(balances, entries, still_open)
        for row in {
            line.entry.stock_level_id: self.stock[line.entry.stock_level_id] for line in posting.lines
        }.values():
            self._touch(row)
        for line in posting.lines:
            self._write_movement(merchant_id, line)
        for level, balance in posting.balances.items():
            self._write_balance(self.stock[level], balance)
        for made in posting.shortages:
            self._make_shortage(made, now)
        for covered in posting.covered:
            assert covered.id is not None
            self._cover_shortage(known[covered.id], covered.covered_units, now)

    def _write_movement(self, merchant_id: int, line: ledger.Line) -> None:
        row = self.stock[line.entry.stock_level_id]
        key = (merchant_id, line.idempotency_key)
        self._require(key not in self._posted, "movement {} posted twice", key[1])
        self._require(
            line.seq == len(row.movements) + 1, "movement {} of stock level {} leaves a gap", line.seq, row.id
        )
        self._require(line.delta, "movement {} moves nothing", key[1])
        self._require(row.merchant_id == merchant_id, "stock level {} is another merchant's", row.id)
        self._append(row.movements, line)
        self._posted.add(key)
        if self._undo is not None:
            self._undo.append((self._posted.discard, key))

    def _write_balance(self, row: StockRow, balance: Balance) -> None:
        quota = balance.quota
        self._require(balance.committed >= 0 and balance.held >= 0, "stock level {} below zero", row.id)
        self._require(quota is None or quota >= 0, "quota of stock level {} below zero", row.id)
        self._require(balance.seq == len(row.movements), "stock level {} does not know its last movement", row.id)
        row.on_hand, row.committed, row.held = balance.on_hand, balance.committed, balance.held
        row.seq, row.quota = balance.seq, quota

    def _make_shortage(self, made: ledger.OpenShortage, now: datetime) -> None:
        entry = made.entry
        assert entry is not None
        row = ShortageRow(
            self._id("shortage"),
            made.open_units + made.covered_units,
            made.covered_units,
            str(entry.cause),
            entry.reference[:200],
            entry.correlation_id,
            entry.effective_at,
            None if made.open_units else now,
        )
        self._require(row.quantity > 0, "a shortage of nothing at stock level {}", made.stock_level_id)
        self._append(self.stock[made.stock_level_id].shortages, row)

    def _cover_shortage(self, row: ShortageRow, units: int, now: datetime) -> None:
        self._touch(row)
        row.covered += units
        self._require(row.covered <= row.quantity, "shortage {} covered beyond itself", row.id)
        row.covered_at = now if row.covered == row.quantity else None

    def held_for_orders(self, merchant_id: int, orders: Collection[OrderKey]) -> set[int]:
        return set()  # these books keep no holds: nobody asks for one here

    def lock_holds(
        self, merchant_id: int, orders: Collection[OrderKey], balances: Mapping[int, Balance], now: datetime
    ) -> list[Waiting]:
        return []

    def end_holds(
        self, merchant_id: int, ended: Sequence[Waiting], balances: Mapping[int, Balance], now: datetime
    ) -> None:
        return None

    def write_lines(self, merchant_id: int, lines: Collection[Line], now: datetime) -> None:
        for line in lines:
            order = self.orders.get(line.key[:2])
            if order is None:
                order = {}
                self._put(self.orders, line.key[:2], order)
            old = order.get(line.key)
            if line.id is None:
                self._require(old is None, "order line {} made twice", line.key)
                line.id = self._id("line")
            elif old is None or old.id != line.id:
                # As the database: nothing is there to be updated.
                continue
            assert line.latest is not None, f"nothing was said of order line {line.key}"
            self._require(
                line.waiting_for or line.applied == line.desired, "order line {}: applied is not desired", line.key
            )
            self._require(line.applied.committed >= 0, "order line {}: committed below zero", line.key)
            taken_from = dict(line.taken_from)
            for level, taken in taken_from.items():
                self._require(taken.committed >= 0, "order line {}: committed below zero at {}", line.key, level)
                self._require(taken.units_per_line_unit > 0, "order line {} takes no units at {}", line.key, level)
            if old is not None:
                # Where it has taken from stays known, and in which units.
                for level, before in old.taken_from.items():
                    after = taken_from.get(level, before)
                    taken_from[level] = Taken(before.units_per_line_unit, after.committed, after.on_hand)
            row = LineRow(
                line.id,
                line.key,
                line.order_name[:80],
                line.register,
                line.listing_id,
                line.sku_id,
                line.level_id,
                line.store_location_id,
                line.applied,
                line.desired,
                line.postings,
                line.waiting_for[:120],
                taken_from,
                line.latest.event_id,
                line.latest.correlation_id,
                now,
                old.created_at if old is not None else now,
                _placed(line, old, now),
            )
            self._put(order, line.key, row)
            if row.level_id is not None:
                self._lines_at[row.level_id][line.key] = None
            for placed in row.placed.values():
                self._lines_at[placed.level_id][line.key] = None

    def write_order_effects(self, levels: Collection[Level], now: datetime) -> None:
        for moved in levels:
            added = moved.order_effects_added
            if not added:
                continue
            level = self.levels[moved.id]
            self._touch_level(level)
            level.order_effects += added
            level.version += 1
            if level.desired is not None:
                offered = min(added, max(0, level.reported)) if added > 0 else added
                level.desired = max(0, level.desired + offered)
            if added < 0:
                level.velocity = level.velocity.sold(-added, now, largest=moved.largest_sale)
            if explained(moved):
                level.suspect_since = level.suspect_available = level.next_check_at = None
                level.doubtful_lowers = level.doubtful_lowers_at = ()
            elif level.sample is not None:
                level.next_check_at = self._now()
            self._check_level(level)

    def write_level_changes(self, levels: Collection[Level], now: datetime, check_after: timedelta) -> None:
        for changed in levels:
            becomes = changed.becomes
            if becomes is None:
                continue
            level = self.levels[changed.id]
            self._touch_level(level)
            if becomes.is_suspect:
                level.suspect_since = level.suspect_since or now
                level.suspect_reason = "webhook differs"
                level.next_check_at = level.next_check_at or min(now, self._now()) + check_after
            else:
                level.suspect_since = level.next_check_at = None
                level.suspect_reason = ""
                level.doubtful_lowers = level.doubtful_lowers_at = ()
                level.confirmed_at = now
            level.suspect_available = becomes.available
            level.source_at = later(level.source_at, becomes.source_at)
            self._check_level(level)

    def note_inbound_lag(self, lags: Mapping[int, float], now: datetime) -> None:
        for channel_id, seconds in sorted(lags.items()):
            self._note_lag(channel_id, "inbound", seconds, now)

    def _new_level(self, listing_id: int, location_id: int, id: int | None = None) -> LevelRow:
        """A level as the database makes it: to be read before all else."""
        now = self._now()
        listing = self.listings[listing_id]
        level = LevelRow(
            id or self._id("level"),
            listing.channel_id,
            listing,
            self.locations[location_id],
            next_push_at=now,
            suspect_since=now,
            suspect_reason="never read",
            next_check_at=now,
        )
        self._put(self.levels, level.id, level)
        self._put(self._level_at, (listing_id, location_id), level)
        self._put(self._astir[level.channel_id], level.id, level)
        self._append(listing.levels, level)
        self._divided = {}
        return level
