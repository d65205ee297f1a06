"""What there is to do, found without any message: as `sync.sweep` asks."""

from __future__ import annotations

from sync.simulator.memory.kept import Kept


class SweepMemory(Kept):
    """Who has work."""

    def merchants_to_apply(self) -> list[int]:
        now = self._now()
        return [
            merchant
            for merchant, pending in self._pending.items()
            if any(event.next_attempt_at <= now for event in pending.values())
        ]

    def merchants_to_publish(self) -> list[int]:
        return [merchant for merchant, marks in self.marks.items() if marks]

    def channels_to_push(self) -> list[int]:
        now = self._now()
        return [
            channel.id
            for channel in self.channels.values()
            if (self._astir[channel.id] or self._unanswered[channel.id])
            and channel.state == "active"
            and channel.merchant_id not in self.stopped_merchants
            and channel.next_call_at <= now
            and (
                any(
                    level.desired is not None and level.desired != level.shown and level.next_push_at <= now
                    for level in self._astir[channel.id].values()
                )
                or any(
                    batch.next_attempt_at is not None and batch.next_attempt_at <= now
                    for batch in self._unanswered[channel.id].values()
                )
            )
        ]

    def channels_to_check(self) -> list[int]:
        now = self._now()
        return [
            channel.id
            for channel in self.channels.values()
            if self._astir[channel.id]
            and channel.state in ("active", "paused")
            and channel.next_call_at <= now
            and any(
                level.suspect_since is not None and level.next_check_at is not None and level.next_check_at <= now
                for level in self._astir[channel.id].values()
            )
        ]
