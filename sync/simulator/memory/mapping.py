"""Listings mapped, unmapped and deleted, in memory: what mapping, its hooks and the catalogue do to the books."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from sync.simulator.memory.opening import OpeningMemory
from sync.simulator.memory.rows import EventRow, LineRow
from synctec.lib.backoff import MAX_ATTEMPTS


class MappingMemory(OpeningMemory):
    """What becomes of listings, and of what waited for them."""

    def map_listing(self, listing_id: int, sku_id: int | None) -> None:
        """Map a listing to a SKU, or to none."""
        listing, now = self.listings[listing_id], self._now()
        before = listing.sku_id
        if before == sku_id:
            return
        correlation_id = self._uuid()
        self._touch(listing)
        if before is not None:
            self._remove_from(self._listings_of[before], listing)
        listing.sku_id = sku_id
        if sku_id is not None:
            self._append(self._listings_of[sku_id], listing)
        self._put(self.__dict__, "_divided", {})
        self._add_missing_levels()
        if sku_id is None:
            for level in listing.levels:
                self._touch_level(level)
                level.desired = None
        else:
            for level in listing.levels:
                self._touch_level(level)
                level.suspect_reason = level.suspect_reason if level.suspect_since else "mapped"
                level.suspect_since = level.suspect_since or now
                level.suspect_available, level.next_check_at = None, now
            self._mark_with_bundles(listing.merchant_id, sku_id, correlation_id)
            codes = {listing.remote_sku, self.skus[sku_id].code} - {""}
            waits = {f"variant {listing.remote_variant_id}", *(f"SKU {code}" for code in codes)}
            self._take_up(listing.channel_id, waits)
        if before is not None:
            self._mark_with_bundles(listing.merchant_id, before, correlation_id)

    def delete_listing(self, listing_id: int) -> None:
        """Its store has said that the variant is deleted."""
        listing = self.listings[listing_id]
        if listing.deleted_at is None:
            self._touch(listing)
            now = listing.deleted_at = self._now()
            for level in listing.levels:
                if level.is_stocked and level.gone_at is None:
                    self._touch_level(level)
                    level.version += 1
                    level.is_stocked, level.gone_at, level.next_check_at = False, now, now
                    level.suspect_reason = level.suspect_reason if level.suspect_since else "deleted"
                    level.suspect_since = level.suspect_since or now
            if listing.sku_id is not None:
                self._mark_with_bundles(listing.merchant_id, listing.sku_id, self._uuid())

    def take_up_placeable_lines(self) -> int:
        """As `sync.sweep` does: lines that were set aside just when what they wait for was mapped."""
        taken = 0
        for line in [line for lines in self.orders.values() for line in lines.values() if line.waiting_for]:
            event = self.events[line.latest_event_id]
            if event.state in ("applied", "ignored") and event.attempts <= MAX_ATTEMPTS and self._is_placeable(line):
                attempts = event.attempts
                self._take_up_event(event)
                event.attempts = attempts
                taken += 1
        return taken

    def _is_placeable(self, line: LineRow) -> bool:
        channel, wait = line.key[0], line.waiting_for
        if wait.startswith("variant "):
            listing = self._by_variant.get((channel, line.register.variant_id))
            return listing is not None and listing.sku_id is not None
        if wait.startswith("SKU "):
            return any(
                wait in (f"SKU {listing.remote_sku}"[:120], f"SKU {self.skus[listing.sku_id].code}"[:120])
                for listing in self.listings.values()
                if listing.channel_id == channel and listing.sku_id is not None
            )
        places = [place for place in self._locations_of.get(channel, ()) if place.warehouses]
        return any(
            wait in ("location of the sale", f"location {place.remote_id}", f"location without a warehouse: {place.id}")
            for place in places
        )

    def _take_up(self, channel_id: int, waits: Collection[str]) -> None:
        """Have events applied again that were set aside for want of one of these."""
        latest = {
            line.latest_event_id
            for (channel, _), lines in self.orders.items()
            if channel == channel_id
            for line in lines.values()
            if line.waiting_for in waits
        }
        reasons = {f"unmapped {wait}" for wait in waits}
        for event_id, event in self.events.items():
            is_meant = (
                event.envelope.channel_id == channel_id
                and event.state == "ignored"
                and event.reason in reasons
                and not event.topic.startswith("inventory")
            )
            if (is_meant or event_id in latest) and event.state in ("applied", "ignored"):
                self._take_up_event(event)

    def _take_up_event(self, event: EventRow) -> None:
        self._touch(event)
        event.state, event.reason, event.attempts = "pending", "", 0
        event.settled_at, event.next_attempt_at = None, self._now()
        self._put(self._pending[event.merchant_id], event.envelope.event_id, event)

    def _add_missing_levels(self) -> None:
        for listing in self.listings.values():
            if listing.sku_id is not None and listing.deleted_at is None:
                for place in self._locations_of.get(listing.channel_id, ()):
                    if place.warehouses and (listing.id, place.id) not in self._level_at:
                        self._new_level(listing.id, place.id)

    def _mark_with_bundles(self, merchant_id: int, sku_id: int, correlation_id: uuid.UUID) -> None:
        parts = self.load_parts(merchant_id, [sku_id])[sku_id]
        skus = {sku_id, *(bundle for part in parts for bundle in self._bundles.get(part, ()))}
        self.mark_dirty(merchant_id, dict.fromkeys(sorted(skus), (correlation_id, self._now())))
