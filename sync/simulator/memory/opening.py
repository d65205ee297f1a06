"""Setting up a merchant's configuration and stock, outside of transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from inventory.bom import explode
from inventory.ledger import Entry
from locations.publishing import Rule
from locations.routing import Routing
from sync.simulator.memory.rows import ChannelRow, GroupRow, ListingRow, LocationRow, SkuRow
from sync.simulator.memory.stock import StockMemory


class OpeningMemory(StockMemory):
    """What a merchant, or a test, configures."""

    def add_merchant(self, *, id: int | None = None) -> int:
        return id or self._id("merchant")

    def add_channel(
        self,
        merchant_id: int,
        *,
        id: int | None = None,
        kind: str = "shopify",
        state: str = "active",
        orders_counted_from: datetime | None = None,
        on_loss: str = "adopt",
        on_gain: str = "override",
    ) -> int:
        now = self._now()
        channel = ChannelRow(
            id or self._id("channel"),
            merchant_id,
            kind,
            state,
            orders_counted_from,
            on_loss,
            on_gain,
            created_at=now,
            next_call_at=now,
        )
        self.channels[channel.id] = channel
        return channel.id

    def set_channel_state(self, channel_id: int, state: str) -> None:
        """Somebody, or an answer of the channel, has paused it or set it going again."""
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.state = state
        self._tell_changed(channel_id)

    def set_channel_shadow(self, channel_id: int, is_on: bool) -> None:
        """Somebody has switched shadow mode on or off."""
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.is_shadow = is_on
        self._tell_changed(channel_id)

    def _tell_changed(self, channel_id: int) -> None:
        self._mark_groups_dirty(
            [group for group in self._groups_of(channel_id) if group.policy != "shared"], self._now()
        )

    def pause_raises(self, channel_id: int, *, is_paused: bool) -> None:
        """Whether nothing may be raised in the channel: a reconciliation was alarming, or a clean one followed."""
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.has_paused_raises = is_paused
        self._mark_groups_dirty(
            [group for group in self._groups_of(channel_id) if group.policy != "shared"], self._now()
        )

    def stop_writing(self, merchant_id: int, *, is_on: bool) -> None:
        """The kill switch. Going on reads first what is to be written (`channels.writing`)."""
        if is_on:
            self.stopped_merchants.add(merchant_id)
            return
        self.stopped_merchants.discard(merchant_id)
        now = self._now()
        for level in self.levels.values():
            channel = self.channels[level.channel_id]
            is_waiting = level.desired is not None and level.desired != level.shown
            if (
                channel.merchant_id == merchant_id
                and channel.state == "active"
                and is_waiting
                and not level.suspect_since
            ):
                self._touch_level(level)
                level.suspect_since = level.next_check_at = now
                level.suspect_reason, level.suspect_available = "writing was stopped", None

    def add_warehouse(self, merchant_id: int, *, id: int | None = None) -> int:
        return id or self._id("warehouse")

    def switch_warehouse(self, warehouse_id: int, *, is_on: bool) -> None:
        """Whether units may be sold from the warehouse."""
        if is_on:
            self.closed_warehouses.discard(warehouse_id)
        else:
            self.closed_warehouses.add(warehouse_id)

    def add_sku(self, merchant_id: int, *, id: int | None = None, code: str = "") -> int:
        sku = SkuRow(id or self._id("sku"), merchant_id, code=code)
        self.skus[sku.id] = sku
        self._forget_recipes()
        return sku.id

    def add_bom_line(self, bundle_id: int, component_id: int, quantity: int) -> None:
        """`quantity` units of the component go into one bundle.

        Raises:
            ValueError: the bundle would contain itself.
        """
        self._require(quantity > 0, "a BOM line needs units")
        self.skus[bundle_id].is_bundle = True
        self._components.setdefault(bundle_id, {})[component_id] = quantity
        explode(bundle_id, self._components)
        self._forget_recipes()

    def add_group(
        self,
        merchant_id: int,
        *,
        id: int | None = None,
        policy: str = "shared",
        guard_units: int | None = None,
        is_weighted_by_velocity: bool = False,
        allows_split_shipment: bool = False,
        holds_weight: float = 0.0,
        warehouses: Sequence[int] = (),
        routing: Routing = Routing.PRIORITY,
    ) -> int:
        group = GroupRow(
            id or self._id("group"),
            merchant_id,
            policy,
            guard_units,
            is_weighted_by_velocity,
            allows_split_shipment,
            holds_weight,
            tuple(sorted(warehouses)),
            routing,
        )
        self.groups[group.id] = group
        self._divided = {}
        return group.id

    def add_location(
        self,
        channel_id: int,
        remote_id: str,
        *,
        id: int | None = None,
        group_id: int | None = None,
        warehouses: Sequence[int] = (),
        weight: float = 1.0,
        is_active: bool = True,
    ) -> int:
        """A store location, drawing on warehouses given by priority."""
        group = self.groups[group_id] if group_id is not None else None
        self._require(group is not None or not warehouses, "a location draws on warehouses as a member of a group")
        location = LocationRow(
            id or self._id("location"), channel_id, remote_id, group, weight, tuple(warehouses), is_active
        )
        if group is not None:
            group.channels[channel_id] = self.channels[channel_id]
        self.locations[location.id] = location
        self._locations_of[channel_id].append(location)
        return location.id

    def add_listing(
        self,
        channel_id: int,
        sku_id: int | None,
        variant_id: str,
        item_id: str,
        *,
        id: int | None = None,
        is_tracked: bool = True,
        is_store_bundle: bool = False,
        deleted_at: datetime | None = None,
        remote_sku: str = "",
    ) -> int:
        self._require((channel_id, variant_id) not in self._by_variant, "variant {} twice", variant_id)
        listing = ListingRow(
            id or self._id("listing"),
            self.channels[channel_id].merchant_id,
            channel_id,
            sku_id,
            variant_id,
            item_id,
            is_tracked,
            is_store_bundle,
            deleted_at,
            remote_sku,
        )
        self.listings[listing.id] = listing
        self._by_variant[channel_id, variant_id] = listing
        self._by_item[channel_id, item_id].append(listing)
        if sku_id is not None:
            self._listings_of[sku_id].append(listing)
        self._divided = {}
        return listing.id

    def add_level(
        self,
        listing_id: int,
        location_id: int,
        *,
        id: int | None = None,
        base: int = 0,
        desired: int | None = None,
        is_confirmed: bool = True,
    ) -> int:
        """A level that shows `base`; one that is not confirmed is to be read first."""
        level = self._new_level(listing_id, location_id, id)
        level.base, level.desired = base, desired
        if is_confirmed:
            level.source_at = level.confirmed_at = self._now()
            level.suspect_since = level.next_check_at = None
            level.suspect_reason = ""
        return level.id

    def add_rule(
        self, channel_id: int, rule: Rule, *, sku_id: int | None = None, listing_id: int | None = None
    ) -> None:
        """A rule for the channel, for a SKU on it, or for one listing."""
        if listing_id is not None:
            self._rules[channel_id]["listing", listing_id, 0] = rule
        elif sku_id is not None:
            self._rules[channel_id]["sku", channel_id, sku_id] = rule
        else:
            self._rules[channel_id]["channel", channel_id, 0] = rule

    def open_stock(self, merchant_id: int, quantities: Mapping[tuple[int, int], int], now: datetime) -> None:
        """Book opening stock for (SKU, warehouse) pairs."""
        correlation_id = self._uuid()
        with self.transaction():
            rows = {pair: self._stock_row(merchant_id, *pair) for pair in sorted(quantities)}
            entries = [
                Entry(
                    stock_level_id=rows[pair].id,
                    cause="opening",
                    key=f"opening:{rows[pair].id}",
                    reference="opening stock",
                    correlation_id=correlation_id,
                    effective_at=now,
                    on_hand=quantity,
                )
                for pair, quantity in quantities.items()
                if quantity and not rows[pair].seq
            ]
            self.post(merchant_id, self.lock_balances([row.id for row in rows.values()]), entries, now)
