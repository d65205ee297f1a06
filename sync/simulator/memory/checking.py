"""Suspects, samples and what they come to, in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sync import register
from sync.ports import LOOK_AGAIN, ChannelRef, DriftFound, Due, Edits, Finding, LockedSuspect, held_first
from sync.simulator.memory.kept import Kept, earlier, later
from sync.simulator.memory.rows import LevelRow

_DRIFT_ACTIONS = frozenset({"explained", "adopted", "overridden", "asked"})


class CheckMemory(Kept):
    """`sync.ports.CheckBooks`."""

    def claim_suspects(self, channel_id: int, limit: int, lease: timedelta) -> list[Due]:
        self._commits_itself("a claim")
        now = self._now()
        due = [
            (level.gone_at is not None, level.next_check_at, level.id, level)
            for level in self._stirring(channel_id)
            if level.suspect_since is not None and level.next_check_at is not None and level.next_check_at <= now
        ]
        due.sort()
        claimed = []
        for *_, level_id, level in due[:limit]:
            level.next_check_at = now + lease
            claimed.append(
                Due(
                    level_id,
                    level.listing.inventory_item_id,
                    level.location.remote_id,
                    level.version,
                    level.pushed,
                )
            )
        return claimed

    def orders_applied_since(self, channel_id: int) -> datetime | None:
        channel = self.channels[channel_id]
        has_pending = any(
            event.envelope.channel_id == channel_id and event.topic.startswith(("orders/", "refunds/"))
            for event in self._pending[channel.merchant_id].values()
        )
        is_to_come = channel.orders_read_at is not None and channel.orders_read_at > self._now()
        return None if has_pending or is_to_come else channel.orders_read_at

    def edits(self, channel_id: int) -> Edits:
        channel = self.channels[channel_id]
        return Edits("override", "override") if channel.is_shadow else Edits(channel.on_loss, channel.on_gain)

    def hold_places(self, level_ids: Collection[int]) -> dict[int, tuple[int, ...]]:
        return {
            level_id: held_first(level.held_at, self._stock_drawn_on(level))
            for level_id in sorted(level_ids)
            if (level := self.levels.get(level_id)) is not None
        }

    def _stock_drawn_on(self, level: LevelRow) -> tuple[int, ...]:
        sku = level.listing.sku_id if level.held_at is None else self.stock[level.held_at].sku_id
        if sku is None:
            return ()
        warehouses = tuple(place for place in level.location.warehouses if (sku, place) in self._stock_at)
        return tuple(self._stock_at[sku, warehouse].id for warehouse in self._in_use(warehouses))

    def lock_suspects(self, level_ids: Collection[int]) -> list[LockedSuspect]:
        self._locks("locking suspects")
        locked = []
        for level_id in sorted(level_ids):
            level = self.levels.get(level_id)
            if level is None or level.suspect_since is None:
                continue
            push = level.open_push
            if push is not None and push.batch.state in ("intent", "unknown"):
                continue
            sku = level.listing.sku_id
            locked.append(
                LockedSuspect(
                    level_id=level_id,
                    sku_id=sku,
                    is_bundle=sku is not None and self.skus[sku].is_bundle,
                    base=level.base,
                    order_effects=level.order_effects,
                    pushed=level.pushed,
                    version=level.version,
                    is_first_reading=level.confirmed_at is None or not level.is_stocked or level.gone_at is not None,
                    gone_at=level.gone_at,
                    sample=level.sample,
                    sampled_from=level.sampled_from,
                    sampled_until=level.sampled_until,
                    sample_pushed=level.sample_pushed,
                    sampled_ahead=level.sampled_ahead,
                    held=level.held,
                    held_at=level.held_at,
                    confirmed_at=level.confirmed_at,
                    open_push_id=None if push is None else push.id,
                    open_push_delta=None if push is None else push.to_quantity - push.from_quantity,
                    open_push_sent_at=None if push is None else push.batch.sent_at,
                    is_in_doubt=level.doubtful_from is not None
                    and level.doubtful_from <= (level.sampled_until or self._now()),
                    doubt_ends_at=level.doubtful_until if level.doubtful_by else None,
                    doubtful_lowers=level.doubtful_lowers,
                    doubtful_lowers_at=level.doubtful_lowers_at,
                )
            )
        return locked

    def taken_since(self, level_id: int, since: datetime, until: datetime, known_since: datetime) -> tuple[int, bool]:
        taken, is_ambiguous = 0, False
        oldest = known_since - timedelta(hours=1)
        for key in self._lines_at.get(level_id, ()):
            line = self.orders.get(key[:2], {}).get(key)
            if line is None:
                continue
            if not line.placed and line.level_id == level_id and line.updated_at >= oldest:
                units, is_unclear = register.taken_since(line.register, since, until)
                taken += units
                is_ambiguous = is_ambiguous or is_unclear
            for placed in line.placed.values():
                if placed.level_id == level_id and placed.changed_at >= known_since:
                    units, is_unclear = register.taken_elsewhere_since(line.register, placed.effect.taken, until)
                    taken += units
                    is_ambiguous = is_ambiguous or is_unclear
        level = self.levels[level_id]
        if len(self._locations_of[level.channel_id]) > 1:
            for lines in self.orders.values():
                for line in lines.values():
                    if line.is_at_another_level(level) and line.created_at >= known_since:
                        is_ambiguous = is_ambiguous or register.taken_elsewhere_since(line.register, 0, until)[1]
        return taken, is_ambiguous

    def write_findings(self, findings: Sequence[Finding], now: datetime) -> None:
        for finding in findings:
            level = self.levels[finding.level_id]
            self._touch_level(level)
            if finding.ends_doubt:
                level.doubtful_by = level.doubtful_from = level.doubtful_until = None
            if finding.is_settled:
                level.base += finding.residue
                level.version += 1
                level.is_stocked, level.gone_at = finding.is_stocked, None
                level.sample = level.since_sample = level.sample_pushed = None
                level.sampled_from = level.sampled_until = level.sampled_ahead = None
                level.suspect_since = level.suspect_available = level.next_check_at = None
                level.suspect_reason = ""
                level.held, level.held_at = 0, None
                level.doubtful_lowers = level.doubtful_lowers_at = ()
                level.confirmed_at = now
                level.source_at = later(level.source_at, finding.source_at)
            elif finding.sample is not None:
                level.base += finding.residue
                level.version += finding.residue != 0
                if finding.is_audited:
                    _forget_lowers(level)
                level.sample, level.since_sample = finding.sample, finding.since_sample
                level.sample_pushed = finding.sample_pushed
                level.sampled_from, level.sampled_until = finding.sampled_from, finding.sampled_until
                level.sampled_ahead = finding.sampled_ahead
                level.suspect_available = None
                level.held, level.held_at = finding.held, finding.held_at
                level.next_check_at = earlier(finding.next_check_at, self._now() + LOOK_AGAIN)
            else:
                if finding.gone_at is not None:
                    level.version += level.gone_at is None
                    level.is_stocked, level.gone_at, level.suspect_available = False, finding.gone_at, finding.shows
                level.next_check_at = earlier(finding.next_check_at, self._now() + LOOK_AGAIN)
            self._check_level(level)

    def add_drifts(self, channel: ChannelRef, drifts: Sequence[DriftFound]) -> None:
        for drift in drifts:
            self._require(drift.action in _DRIFT_ACTIONS, "drift of level {} is {}", drift.level_id, drift.action)
            self._require(
                drift.held == 0 or (drift.held > 0 and drift.held_at is not None and drift.action == "asked"),
                "drift of level {} holds {} units, {}",
                drift.level_id,
                drift.held,
                drift.action,
            )
            self._append(self.drifts, drift)

    def bundles_with(self, merchant_id: int, sku_ids: Collection[int]) -> set[int]:
        parts = self.load_parts(merchant_id, sku_ids)
        return {
            *sku_ids,
            *(bundle for needed in parts.values() for sku in needed for bundle in self._bundles.get(sku, ())),
        }

    def suspect_unsuspected(self, level_ids: Collection[int], reason: str, now: datetime) -> None:
        for level_id in level_ids:
            level = self.levels[level_id]
            if level.suspect_since is None:
                self._touch_level(level)
                level.suspect_since, level.suspect_reason = now, reason
                level.next_check_at = min(now, self._now())


def _forget_lowers(level: LevelRow) -> None:
    """Those that may be in the sample that was settled; what was opened after it may be in the newest."""
    assert level.sampled_until is not None
    written = zip(level.doubtful_lowers, level.doubtful_lowers_at, strict=True)
    kept = [(units, opened_at) for units, opened_at in written if opened_at > level.sampled_until]
    level.doubtful_lowers = tuple(units for units, _ in kept)
    level.doubtful_lowers_at = tuple(opened_at for _, opened_at in kept)
