"""The inbox as the engine works on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import structlog
from django.db import transaction

from channels import bodies
from sync.decide import DEAD, Envelope, Verdict
from sync.ports import CLAIM_LEASE, Claimed
from sync.tables import letters
from synctec.lib import sql
from synctec.lib.crypto import CryptoError, UnknownKey

log = structlog.get_logger(__name__)

#: Events whose bodies are sealed with a key that is not there wait for it.
LOCKED_UP_PAUSE = timedelta(minutes=1)


class InboxTables:
    """Claims, verdicts and delays of events."""

    def claim_events(self, merchant_id: int, limit: int, leases: Sequence[timedelta]) -> list[Claimed]:
        with transaction.atomic():
            sql.forgo_flush()  # without the claim, the event is simply pending again
            sql.keep_to_index()
            found = sql.rows(
                """
                UPDATE channels_inboxevent event
                SET attempts = event.attempts + 1,
                    next_attempt_at = now() + (%s::interval[])[least(event.attempts + 1, %s)]
                FROM channels_channel channel
                WHERE channel.id = event.channel_id AND event.id = ANY(ARRAY(
                    SELECT id FROM channels_inboxevent
                    -- Put as a range, so that no index but that of the pending has this order.
                    WHERE merchant_id BETWEEN %s AND %s AND state = 'pending' AND next_attempt_at <= now()
                    ORDER BY merchant_id, id LIMIT %s FOR UPDATE SKIP LOCKED
                ))
                RETURNING event.id, event.channel_id, event.correlation_id, event.received_at, channel.kind, event.topic,
                    event.attempts, event.next_attempt_at, event.body_kept_on
                """,
                [list(leases), len(leases), merchant_id, merchant_id, limit],
            )
            sealed = bodies.sealed({event_id: kept_on for event_id, *_, kept_on in found})
        claimed = []
        for event_id, channel, correlation, received, kind, topic, attempts, leased_until, _ in found:
            event = Claimed(
                Envelope(event_id, channel, correlation, received), kind, topic, None, attempts, leased_until
            )
            try:
                event.body = bodies.unseal(sealed[event_id], channel_id=channel)
            except KeyError:
                event.unreadable = "its body is not kept any more: reconciliation reads what became of the order"
            except UnknownKey as error:
                # Nothing is wrong with the event. Whoever took the key off the ring will want to know.
                log.error("inbox.locked_up", event_id=event_id, channel_id=channel, error=str(error))
                self.give_back_events([event], LOCKED_UP_PAUSE, f"its body is {error}"[:500])
                continue
            except CryptoError as error:
                event.unreadable = f"its body was tampered with: it {error}"
            claimed.append(event)
        return sorted(claimed, key=lambda event: event.envelope.event_id)

    def take_events(self, event_ids: Collection[int]) -> set[int]:
        return {
            event_id
            for (event_id,) in sql.rows(
                """
                SELECT id FROM channels_inboxevent WHERE id = ANY(%s::bigint[]) AND state = 'pending'
                ORDER BY id FOR UPDATE SKIP LOCKED
                """,
                [list(event_ids)],
            )
        }

    def settle_events(self, verdicts: Mapping[int, Verdict]) -> None:
        dead = {event: verdict.reason for event, verdict in verdicts.items() if verdict.state == DEAD}
        if dead:
            # The letter says what the event says, or neither is there.
            with transaction.atomic():
                letters.note_event_attempts(list(dead), CLAIM_LEASE, list(dead.values()))
                self._settle(verdicts)
                letters.open_for_events(dead)
        else:
            self._settle(verdicts)

    def _settle(self, verdicts: Mapping[int, Verdict]) -> None:
        if verdicts:
            sql.execute(
                """
                UPDATE channels_inboxevent event
                SET state = told.state, reason = told.reason, settled_at = clock_timestamp()
                FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS told (id, state, reason)
                WHERE event.id = told.id AND event.state = 'pending'
                """,
                [
                    list(verdicts),
                    [str(verdict.state) for verdict in verdicts.values()],
                    [verdict.reason[:500] for verdict in verdicts.values()],
                ],
            )

    def retry_event(self, event_id: int, after: timedelta, reason: str) -> None:
        with transaction.atomic():
            letters.note_event_attempts([event_id], CLAIM_LEASE, [reason])
            sql.execute(
                """
                UPDATE channels_inboxevent SET next_attempt_at = now() + %s, reason = %s
                WHERE id = %s AND state = 'pending'
                """,
                [after, reason, event_id],
            )

    def put_off_events(self, event_ids: Collection[int], after: timedelta, reason: str) -> None:
        if event_ids:
            sql.execute(
                """
                WITH free AS (
                    -- Who has one of them locked is at work on it.
                    SELECT id FROM channels_inboxevent WHERE id = ANY(%s::bigint[]) AND state = 'pending' AND attempts > 0
                    ORDER BY id FOR UPDATE SKIP LOCKED
                )
                UPDATE channels_inboxevent event
                SET attempts = event.attempts - 1, next_attempt_at = now() + %s,
                    reason = coalesce(nullif(%s, ''), event.reason)
                FROM free WHERE event.id = free.id
                """,
                [list(event_ids), after, reason],
            )

    def give_back_events(self, claims: Collection[Claimed], after: timedelta, reason: str) -> None:
        sql.give_back()  # the connection may be what broke
        sql.execute(
            """
            WITH ours AS (
                -- Whatever was said of an event since it was claimed has moved the moment when it is due.
                SELECT event.id FROM unnest(%s::bigint[], %s::timestamptz[]) AS told (id, leased_until)
                JOIN channels_inboxevent event ON event.id = told.id AND event.next_attempt_at = told.leased_until
                WHERE event.state = 'pending' AND event.attempts > 0
                ORDER BY event.id FOR UPDATE OF event SKIP LOCKED
            )
            UPDATE channels_inboxevent event
            SET attempts = event.attempts - 1, next_attempt_at = now() + %s,
                reason = coalesce(nullif(%s, ''), event.reason)
            FROM ours WHERE event.id = ours.id
            """,
            [
                [claimed.envelope.event_id for claimed in claims],
                [claimed.leased_until for claimed in claims],
                after,
                reason,
            ],
        )
