"""Writes under way, in memory."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from channels.protocol import QuantityChange
from sync.ports import (
    CLOCK_STEP,
    DOUBTFUL,
    DOUBTFUL_LOWERS,
    OUTAGE_FAILURES,
    SELLS_NOW,
    STORY_EVENTS,
    WAITED_LONG,
    Batch,
    ChannelRef,
    GivenBack,
    Picked,
    Row,
)
from sync.simulator.memory.kept import earlier, later
from sync.simulator.memory.publishing import PublishMemory
from sync.simulator.memory.rows import BatchRow, ChannelRow, PushRow

_BATCH_STATES = frozenset({"intent", "unknown", "done", "unresolved"})
#: Sorts levels without a waiting event last.
_NEVER = datetime.max.replace(tzinfo=UTC)


class PushMemory(PublishMemory):
    """`sync.ports.PushBooks`."""

    def claim_repeat(self, channel_id: int, lease: timedelta) -> Batch | None:
        self._commits_itself("a claim")
        unanswered = self._unanswered.get(channel_id)
        channel = self.channels[channel_id]
        now = self._now()
        if not unanswered or not self._is_writable(channel) or channel.next_call_at > now:
            return None
        due = [
            (batch.next_attempt_at, place, batch)
            for place, batch in enumerate(unanswered.values())
            if batch.next_attempt_at is not None and batch.next_attempt_at <= now
        ]
        if not due:
            return None
        _, _, batch = min(due)
        batch.lease_token = self._id("lease")
        batch.attempts += 1
        batch.next_attempt_at = now + lease
        batch.sent_at = now
        rows = tuple(
            Row(
                push.id,
                push.level.id,
                QuantityChange(
                    push.level.listing.inventory_item_id,
                    push.level.location.remote_id,
                    push.from_quantity,
                    push.to_quantity,
                ),
            )
            for push in batch.pushes
        )
        return Batch(batch.id, batch.lease_token, batch.attempts, is_repeat=True, rows=rows, opened_at=batch.opened_at)

    def _is_writable(self, channel: ChannelRow) -> bool:
        return channel.state == "active" and not channel.is_shadow and channel.merchant_id not in self.stopped_merchants

    def lock_claims(self, channel_id: int) -> None:
        self._locks("locking claims")

    def out_of_sync(self, channel_id: int, limit: int) -> list[Picked]:
        self._locks("picking levels")
        channel = self.channels[channel_id]
        now = self._now()
        if not self._is_writable(channel) or channel.next_call_at > now:
            return []
        picked = []
        for level in self._stirring(channel_id):
            desired = level.desired
            if desired is None or level.open_push is not None or level.next_push_at > now or not level.is_stocked:
                continue
            shown = level.shown
            if desired == shown or (
                level.suspect_since is not None
                and (desired > shown or (level.since_sample is None and level.suspect_available is None))
            ):
                continue
            if desired > shown and (level.doubtful_by or channel.has_paused_raises):
                continue
            listing = level.listing
            if listing.is_tracked and not listing.is_store_bundle and listing.deleted_at is None:
                waits_briefly = (level.waiting_since or now) > now - WAITED_LONG
                sold_at = level.velocity.sold_at
                sells = waits_briefly and sold_at is not None and sold_at > now - SELLS_NOW
                pace = -level.velocity.rush_units if sells else 0.0
                picked.append(
                    (desired > shown, waits_briefly, pace, level.waiting_since or _NEVER, level.id, shown, level)
                )
        picked.sort()
        return [
            Picked(
                level.id,
                level.listing.inventory_item_id,
                level.location.remote_id,
                shown,
                level.desired or 0,
                level.push_failures,
            )
            for *_, shown, level in picked[:limit]
        ]

    def open_batch(self, channel: ChannelRef, batch_id: uuid.UUID, chosen: Sequence[Picked], lease: timedelta) -> Batch:
        self._locks("opening a batch")
        now = self._now()
        self._require(batch_id not in self.batches, "batch {} made twice", batch_id)
        batch = BatchRow(batch_id, channel.channel_id, self._id("lease"), now + lease, opened_at=now, sent_at=now)
        self._put(self.batches, batch_id, batch)
        self._put(self._unanswered[channel.channel_id], batch_id, batch)
        rows = []
        for pick in chosen:
            level = self.levels[pick.level_id]
            self._require(level.open_push is None, "level {} has an open push", level.id)
            self._touch_level(level)
            push = PushRow(
                self._id("push"),
                batch,
                level,
                pick.shown,
                pick.desired,
                level.waiting_correlation_ids,
                level.waiting_since,
            )
            self._put(self.pushes, push.id, push)
            batch.pushes.append(push)
            level.open_push = push
            level.waiting_correlation_ids, level.waiting_since = (), None
            change = QuantityChange(pick.inventory_item_id, pick.location_id, pick.shown, pick.desired)
            rows.append(Row(push.id, level.id, change))
        return Batch(batch_id, batch.lease_token, 1, is_repeat=False, rows=tuple(rows))

    def fence(self, batch: Batch, state: str, error: str, next_attempt: timedelta | None) -> bool:
        row = self.batches.get(batch.id)
        if row is None or row.lease_token != batch.lease_token or row.state not in ("intent", "unknown"):
            return False
        self._require(state in _BATCH_STATES, "batch {} is {}", batch.id, state)
        self._touch(row)
        now = self._now()
        row.state, row.error = state, error[:500]
        row.next_attempt_at = None if next_attempt is None else now + next_attempt
        row.answered_at = None if state == "unknown" else now
        if state not in ("intent", "unknown"):
            self._remove(self._unanswered[row.channel_id], row.id)
        return True

    def uncount_attempt(self, batch: Batch) -> None:
        row = self.batches[batch.id]
        self._require(row.attempts > 0, "batch {} was never attempted", batch.id)
        self._touch(row)
        row.attempts -= 1

    def lock_level_rows(self, level_ids: Iterable[int]) -> None:
        self._locks("locking levels")

    def confirm(self, push_ids: Sequence[int], source_at: datetime | None) -> None:
        now = self._now()
        slowest: dict[int, float] = {}
        for push_id in push_ids:
            push = self._settle_push(push_id, "confirmed", now)
            if push is None:
                continue
            level = push.level
            delta = push.to_quantity - push.from_quantity
            level.pushed += delta
            level.version += 1
            if level.since_sample is not None:
                level.since_sample += delta
            level.source_at = later(level.source_at, source_at)
            level.confirmed_at = now
            level.push_failures, level.last_error = 0, ""
            if push.caused_at is not None:
                seconds = (now - push.caused_at).total_seconds()
                slowest[level.channel_id] = max(slowest.get(level.channel_id, seconds), seconds)
            group = level.location.group
            sku = level.listing.sku_id
            if delta < 0 and sku is not None and group is not None and group.policy != "shared":
                # Units were taken from a store: another one may have them now.
                correlation_id = push.correlation_ids[0] if push.correlation_ids else self._uuid()
                self.mark_dirty(level.listing.merchant_id, {sku: (correlation_id, push.caused_at or now)})
        for channel_id, seconds in slowest.items():
            self._note_lag(channel_id, "outbound", seconds, now)

    def _settle_push(self, push_id: int, state: str, now: datetime) -> PushRow | None:
        push = self.pushes.get(push_id)
        if push is None or push.state != "open":
            return None
        level = push.level
        self._require(level.open_push is push, "push {} is open, but not that of its level", push_id)
        self._touch(push)
        self._touch_level(level)
        push.state, push.settled_at = state, now
        level.open_push = None
        return push

    def give_back(self, rows: Sequence[GivenBack]) -> None:
        now = self._now()
        for row in rows:
            push = self._settle_push(row.push_id, "rejected", now)
            if push is None:
                continue
            push.error_code, push.error = row.code[:80], row.message[:500]
            level = push.level
            level.waiting_correlation_ids = (level.waiting_correlation_ids + push.correlation_ids)[:STORY_EVENTS]
            level.waiting_since = earlier(level.waiting_since, push.caused_at)
            level.next_push_at = now + row.pause
            level.push_failures += row.failures
            level.last_error = (f"{push.error_code}: {push.error}" if push.error_code else push.error)[:500]
            if row.is_doubtful_until is not None:
                level.doubtful_by = (level.doubtful_by or 0) + max(0, push.to_quantity - push.from_quantity)
                level.doubtful_from = earlier(level.doubtful_from, push.batch.opened_at)
                level.doubtful_until = later(level.doubtful_until, row.is_doubtful_until)
            if row.may_be_applied and push.to_quantity < push.from_quantity:
                lowered = push.from_quantity - push.to_quantity
                level.doubtful_lowers = (lowered, *level.doubtful_lowers)[:DOUBTFUL_LOWERS]
                level.doubtful_lowers_at = (push.batch.opened_at, *level.doubtful_lowers_at)[:DOUBTFUL_LOWERS]
            group, sku = level.location.group, level.listing.sku_id
            if push.to_quantity > push.from_quantity and sku is not None and group and group.policy != "shared":
                correlation_id = push.correlation_ids[0] if push.correlation_ids else self._uuid()
                self.mark_dirty(level.listing.merchant_id, {sku: (correlation_id, push.caused_at or now)})

    def mind_clock(self) -> None:
        before, now = self._swept_at, self._now()
        latest = now + DOUBTFUL
        for level in self.levels.values():
            if level.doubtful_until is not None and level.doubtful_until > latest:
                level.doubtful_until = latest
        if before is None or before - now <= CLOCK_STEP:
            self._swept_at = now
            return
        step = before - now
        with self.transaction():
            self._put(self.__dict__, "_swept_at", now)
            for event in (event for pending in self._pending.values() for event in pending.values()):
                self._touch(event)
                event.next_attempt_at = _nearer(event.next_attempt_at, step, now)
            for batch in (batch for unanswered in self._unanswered.values() for batch in unanswered.values()):
                self._touch(batch)
                batch.next_attempt_at = batch.next_attempt_at and _nearer(batch.next_attempt_at, step, now)
            for channel in self.channels.values():
                self._touch(channel)
                channel.next_call_at = _nearer(channel.next_call_at, step, now)
                channel.orders_read_at = None
            for level in self.levels.values():
                self._touch_level(level)
                level.next_push_at = _nearer(level.next_push_at, step, now)
                level.next_check_at = level.next_check_at and _nearer(level.next_check_at, step, now)
                level.sample = level.since_sample = level.sample_pushed = None
                level.sampled_from = level.sampled_until = level.sampled_ahead = None
                level.doubtful_from = level.doubtful_from and level.doubtful_from - step
                level.doubtful_lowers_at = tuple(opened_at - step for opened_at in level.doubtful_lowers_at)

    def end_doubts(self) -> None:
        now = self._now()
        due = [
            level
            for level in self.levels.values()
            if level.doubtful_until is not None
            and level.doubtful_until <= now
            and (level.suspect_since is None or level.doubtful_by == 0)
        ]
        if not due:
            return
        correlation_id = self._uuid()
        with self.transaction():
            for level in due:
                self._touch_level(level)
                if level.doubtful_by:
                    level.suspect_since = level.next_check_at = now
                    level.suspect_reason = "a raise that was given up may have come true"
                    continue
                level.doubtful_by = level.doubtful_from = level.doubtful_until = None
                if level.listing.sku_id is not None:
                    self.mark_dirty(level.listing.merchant_id, {level.listing.sku_id: (correlation_id, now)})

    def suspect(self, level_ids: Collection[int], reason: str, check_after: timedelta) -> None:
        now = self._now()
        for level_id in level_ids:
            level = self.levels[level_id]
            self._touch_level(level)
            level.suspect_since = level.suspect_since or now
            level.suspect_reason = reason
            level.suspect_available = level.since_sample = None
            level.next_check_at = now + check_after

    def channel_answered(self, channel_id: int) -> int:
        channel = self.channels[channel_id]
        failures = channel.failures
        if failures:
            self._touch(channel)
            channel.failures, channel.failing_since, channel.failing_cause, channel.last_error = 0, None, "", ""
        return failures

    def mark_shelves_dirty(self, channel: ChannelRef, now: datetime) -> None:
        correlation_id = self._uuid()
        divided = sorted(
            {
                level.listing.sku_id
                for level in self.levels.values()
                if level.channel_id == channel.channel_id
                and level.listing.sku_id is not None
                and level.location.group is not None
                and level.location.group.policy != "shared"
            }
        )
        self.mark_dirty(channel.merchant_id, dict.fromkeys(divided, (correlation_id, now)))

    def count_failure(self, channel_id: int, cause: str, error: str) -> int:
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.failures += 1
        channel.failing_since = channel.failing_since or self._now()
        channel.failing_cause, channel.last_error = cause, error[:500]
        return channel.failures

    def note_outage(self, channel_id: int, cause: str, error: str) -> bool:
        channel = self.channels[channel_id]
        if channel.failures >= OUTAGE_FAILURES:
            return False
        self._touch(channel)
        channel.failures = OUTAGE_FAILURES
        channel.failing_since = channel.failing_since or self._now()
        channel.failing_cause, channel.last_error = cause, error[:500]
        return True

    def rest_channel(self, channel_id: int, wait: timedelta, error: str) -> None:
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.next_call_at = self._now() + wait
        channel.last_error = error[:500]


def _nearer(moment: datetime, step: timedelta, now: datetime) -> datetime:
    """What is put off, nearer by a step."""
    return moment - step if moment > now else moment
