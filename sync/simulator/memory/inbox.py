"""The inbox in memory."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter

from sync.decide import Envelope, Verdict
from sync.ports import Claimed
from sync.simulator.memory.kept import Kept
from sync.simulator.memory.rows import EventRow

_FINAL_STATES = frozenset({"applied", "ignored", "dead"})

_by_event_id = attrgetter("envelope.event_id")


class InboxMemory(Kept):
    """`sync.ports.InboxBooks`, and how deliveries arrive."""

    def receive(
        self,
        channel_id: int,
        topic: str,
        webhook_id: str,
        body: bytes,
        *,
        correlation_id: uuid.UUID | None = None,
    ) -> bool:
        """Store one delivery and commit; whether it is news."""
        self._commits_itself("receiving")
        known = self._delivered.get((channel_id, topic, webhook_id))
        if known is not None:
            known.duplicates += 1
            return False
        self._store_event(channel_id, topic, webhook_id, body, correlation_id or self._uuid(), self._now())
        return True

    def _store_event(
        self, channel_id: int, topic: str, webhook_id: str, body: bytes, correlation_id: uuid.UUID, at: datetime
    ) -> None:
        event_id = self._id("event")
        merchant_id = self.channels[channel_id].merchant_id
        envelope = Envelope(event_id, channel_id, correlation_id, at)
        event = EventRow(merchant_id, topic, webhook_id, body, envelope, next_attempt_at=self._now())
        self.events[event_id] = event
        self._delivered[channel_id, topic, webhook_id] = event
        self._pending[merchant_id][event_id] = event

    def claim_events(self, merchant_id: int, limit: int, leases: Sequence[timedelta]) -> list[Claimed]:
        self._commits_itself("a claim")
        now = self._now()
        due = [event for event in self._pending[merchant_id].values() if event.next_attempt_at <= now]
        due.sort(key=_by_event_id)
        del due[limit:]
        claimed = []
        for event in due:
            event.attempts += 1
            event.next_attempt_at = now + leases[min(event.attempts, len(leases)) - 1]
            kind = self.channels[event.envelope.channel_id].kind
            claimed.append(
                Claimed(event.envelope, kind, event.topic, event.body, event.attempts, event.next_attempt_at)
            )
        return claimed

    def take_events(self, event_ids: Collection[int]) -> set[int]:
        self._locks("taking events")
        return {event_id for event_id in event_ids if self._pending_event(event_id) is not None}

    def _pending_event(self, event_id: int) -> EventRow | None:
        event = self.events.get(event_id)
        return event if event is not None and event.state == "pending" else None

    def settle_events(self, verdicts: Mapping[int, Verdict]) -> None:
        now = self._now()
        for event_id, verdict in verdicts.items():
            event = self._pending_event(event_id)
            if event is None:
                continue
            state = str(verdict.state)
            self._require(state in _FINAL_STATES, "event {} settled as {}", event_id, state)
            self._require(verdict.reason or state == "applied", "event {} is {} without saying why", event_id, state)
            self._touch(event)
            event.state, event.reason, event.settled_at = state, verdict.reason[:500], now
            self._remove(self._pending[event.merchant_id], event_id)

    def retry_event(self, event_id: int, after: timedelta, reason: str) -> None:
        event = self._pending_event(event_id)
        if event is not None:
            self._touch(event)
            event.next_attempt_at, event.reason = self._now() + after, reason

    def put_off_events(self, event_ids: Collection[int], after: timedelta, reason: str) -> None:
        due_at = self._now() + after
        for event_id in event_ids:
            event = self._pending_event(event_id)
            if event is not None and event.attempts > 0:
                self._touch(event)
                event.attempts -= 1
                event.next_attempt_at = due_at
                event.reason = reason or event.reason

    def give_back_events(self, claims: Collection[Claimed], after: timedelta, reason: str) -> None:
        for claimed in claims:
            event = self._pending_event(claimed.envelope.event_id)
            if event is not None and event.next_attempt_at == claimed.leased_until:
                self.put_off_events([claimed.envelope.event_id], after, reason)
