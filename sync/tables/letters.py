"""Dead letters as rows, found in what the engine wrote down anyway: opening one depends on no process that lived.

A letter of an event is opened in the transaction in which the event dies; the sweep finds those that died otherwise. A letter
of a listing level is derived by the sweep alone, from its failures, its channel's, and its writes without an answer.

Rows are locked in the order inbox events, listing levels, dead letters.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import timedelta
from typing import LiteralString

from synctec.lib import sql
from synctec.lib.backoff import MAX_ATTEMPTS

#: Who keeps the letters does so alone: two sweeps at once would wait for each other's rows.
KEEPING_LOCK = 7003
#: Attempts are kept for so long, and then removed so many at a time. Those of letters that live are kept.
ATTEMPTS_KEPT = timedelta(days=30)
_FORGOTTEN_AT_ONCE = 5_000

#: From what is said of a dead event to why it was given up (`sync.apply` writes these words).
_CAUSE_OF_EVENT: LiteralString = """
    CASE WHEN event.reason ~ '^(malformed|unreadable|failed [0-9]+ times: MalformedEvent):' THEN 'unreadable'
        WHEN event.reason LIKE 'poison:%%' THEN 'poison'
        WHEN event.reason ~ '^failed [0-9]+ times: Refused:' THEN 'refused'
        WHEN event.reason ~ '^failed [0-9]+ times: NotAuthorized:' THEN 'not_authorized'
        ELSE 'bug' END
"""
#: The same mistake in another event has other numbers in it.
_CODE_OF_EVENT: LiteralString = """
    left(regexp_replace(
        regexp_replace(event.reason, '^(failed [0-9]+ times|malformed|unreadable|poison): ', ''), '[0-9]+', '#', 'g'), 80)
"""

_OPEN_FOR_EVENTS: LiteralString = """
    INSERT INTO sync_deadletter AS letter (merchant_id, channel_id, event_id, cause, code, said, attempts, correlation_id)
    SELECT event.merchant_id, event.channel_id, event.id, {cause}, {code}, event.reason, event.attempts, event.correlation_id
    FROM ({found}) found JOIN channels_inboxevent event ON event.id = found.id
    ORDER BY event.id
    ON CONFLICT (event_id) WHERE ended_at IS NULL DO UPDATE
    SET state = 'open', cause = excluded.cause, code = excluded.code, said = excluded.said, attempts = excluded.attempts
    WHERE letter.state = 'retried'
    """.replace("{cause}", _CAUSE_OF_EVENT).replace("{code}", _CODE_OF_EVENT)
_OPEN_FOR_THESE: LiteralString = _OPEN_FOR_EVENTS.replace(
    "{found}", "SELECT id FROM channels_inboxevent WHERE id = ANY(%s::bigint[]) AND state = 'dead'"
)
_OPEN_FOR_ALL: LiteralString = _OPEN_FOR_EVENTS.replace(
    "{found}",
    """
    SELECT dead.id FROM channels_channel channel
    JOIN channels_inboxevent dead ON dead.channel_id = channel.id AND dead.state = 'dead'
    WHERE NOT EXISTS (
        SELECT 1 FROM sync_deadletter letter
        WHERE letter.event_id = dead.id AND letter.ended_at IS NULL AND letter.state <> 'retried')
    """,
)

#: Whether a number is written to the level's store at all.
_IS_WRITTEN: LiteralString = (
    "level.is_stocked AND listing.is_tracked AND NOT listing.is_store_bundle AND listing.deleted_at IS NULL"
)

#: Levels whose numbers do not reach their stores, each with why. A refusal that is final puts its row off for long; rows
#: that only failed along with others are tried again at once, and are none.
_OPEN_FOR_LEVELS: LiteralString = """
    WITH trouble AS (
        SELECT level.id, level.merchant_id, level.channel_id, level.waiting_correlation_ids[1] AS correlation_id,
            CASE WHEN channel.state = 'needs_auth' THEN 1 WHEN channel.failures > %s THEN 2 ELSE 3 END AS rank,
            CASE WHEN channel.state = 'needs_auth' THEN 'not_authorized' WHEN channel.failures > %s THEN 'channel_away'
                ELSE 'refused' END AS cause,
            CASE WHEN channel.state = 'needs_auth' OR channel.failures > %s THEN ''
                WHEN level.last_error ~ '^[A-Z][A-Z_]+: ' THEN split_part(level.last_error, ':', 1)
                ELSE regexp_replace(level.last_error, '[0-9]+', '#', 'g') END AS code,
            CASE WHEN channel.state = 'needs_auth' THEN coalesce(nullif(channel.state_reason, ''), channel.last_error)
                WHEN channel.failures > %s THEN channel.last_error ELSE level.last_error END AS said,
            CASE WHEN channel.state = 'needs_auth' THEN 0 WHEN channel.failures > %s THEN channel.failures
                ELSE level.push_failures END AS attempts
        FROM channels_channel channel
        JOIN channels_listinglevel level ON level.channel_id = channel.id AND level.is_out_of_sync
        JOIN channels_listing listing ON listing.id = level.listing_id
        WHERE channel.state IN ('active', 'needs_auth')
            AND (channel.state = 'needs_auth' OR channel.failures > %s
                OR (level.push_failures > 0 AND level.next_push_at > now()))
            AND {is_written}
        UNION ALL
        SELECT level.id, level.merchant_id, level.channel_id, push.correlation_ids[1], 4, 'unknown_outcome', '',
            batch.error, batch.attempts
        FROM channels_push push
        JOIN channels_pushbatch batch ON batch.id = push.batch_id
        JOIN channels_channel channel ON channel.id = push.channel_id
        JOIN channels_listinglevel level ON level.id = push.listing_level_id
        JOIN channels_listing listing ON listing.id = level.listing_id
        WHERE push.state = 'open' AND batch.attempts > %s AND batch.state IN ('unknown', 'unresolved')
            AND channel.state = 'active' AND {is_written}
    )
    INSERT INTO sync_deadletter AS letter (merchant_id, channel_id, listing_level_id, cause, code, said, attempts,
        correlation_id)
    SELECT DISTINCT ON (trouble.id) trouble.merchant_id, trouble.channel_id, trouble.id, trouble.cause,
        left(trouble.code, 80), trouble.said, trouble.attempts, trouble.correlation_id
    FROM trouble
    WHERE NOT EXISTS (
        SELECT 1 FROM sync_deadletter known
        WHERE known.listing_level_id = trouble.id AND known.ended_at IS NULL AND (known.state = 'dismissed'
            OR (known.state = 'open' AND known.cause = trouble.cause AND known.code = left(trouble.code, 80))))
    ORDER BY trouble.id, trouble.rank
    ON CONFLICT (listing_level_id) WHERE ended_at IS NULL DO UPDATE
    SET state = 'open', cause = excluded.cause, code = excluded.code, said = excluded.said, attempts = excluded.attempts
    WHERE letter.state <> 'dismissed'
""".replace("{is_written}", _IS_WRITTEN)

#: A letter of an event ends with the event's fate; one whose event was taken up by anything at all is being tried again.
_FOLLOW_EVENTS: LiteralString = """
    WITH news AS (
        SELECT letter.id, event.state AS fate, event.reason FROM sync_deadletter letter
        LEFT JOIN channels_inboxevent event ON event.id = letter.event_id
        WHERE letter.ended_at IS NULL AND letter.event_id IS NOT NULL AND (event.id IS NULL
            OR event.state IN ('applied', 'ignored') OR (event.state = 'pending' AND letter.state = 'open'))
    )
    UPDATE sync_deadletter letter
    SET state = CASE WHEN letter.state = 'dismissed' THEN 'dismissed' WHEN news.fate = 'pending' THEN 'retried'
            ELSE 'recovered' END,
        retried_at = CASE WHEN news.fate = 'pending' THEN now() ELSE letter.retried_at END,
        ended_at = CASE WHEN news.fate = 'pending' THEN NULL ELSE now() END,
        outcome = CASE WHEN news.fate IS NULL THEN 'the event is so old that it was removed'
            WHEN news.fate = 'pending' THEN letter.outcome
            ELSE left(concat_ws(': ', news.fate, nullif(news.reason, '')), 200) END
    FROM news WHERE letter.id = news.id AND letter.ended_at IS NULL
"""

#: A letter of a level ends when the store shows the right number, however that came about, or takes no number any more.
_END_FOR_LEVELS: LiteralString = """
    WITH over AS (
        SELECT letter.id, CASE WHEN channel.state = 'uninstalled' THEN 'the app was removed from the store'
            WHEN NOT ({is_written}) THEN 'the store takes no number for it any more'
            ELSE 'the store shows what it should' END AS outcome
        FROM sync_deadletter letter
        JOIN channels_listinglevel level ON level.id = letter.listing_level_id
        JOIN channels_listing listing ON listing.id = level.listing_id
        JOIN channels_channel channel ON channel.id = level.channel_id
        WHERE letter.ended_at IS NULL AND (channel.state = 'uninstalled' OR NOT ({is_written})
            OR (NOT level.is_out_of_sync AND NOT EXISTS (
                SELECT 1 FROM channels_push push WHERE push.listing_level_id = level.id AND push.state = 'open')))
    )
    UPDATE sync_deadletter letter
    SET state = CASE WHEN letter.state = 'dismissed' THEN 'dismissed' ELSE 'recovered' END, ended_at = now(),
        outcome = over.outcome
    FROM over WHERE letter.id = over.id AND letter.ended_at IS NULL
""".replace("{is_written}", _IS_WRITTEN)

#: Events that a store refused to tell more about, when we were let in anew since: a scope may have been missing.
_MENDED: LiteralString = """
    SELECT letter.id FROM sync_deadletter letter
    JOIN channels_channel channel ON channel.id = letter.channel_id AND channel.state = 'active'
    JOIN channels_credential credential ON credential.channel_id = channel.id
    WHERE letter.ended_at IS NULL AND letter.state = 'open' AND letter.event_id IS NOT NULL
        AND letter.cause IN ('refused', 'not_authorized')
        AND credential.updated_at > greatest(letter.opened_at, letter.retried_at)
    ORDER BY letter.id LIMIT %s
"""
_MENDED_AT_ONCE = 1_000

_RETRY_EVENTS: LiteralString = """
    UPDATE channels_inboxevent
    SET state = 'pending', reason = '', attempts = 0, settled_at = NULL, next_attempt_at = now()
    WHERE id = ANY(ARRAY(
        SELECT event.id FROM sync_deadletter letter JOIN channels_inboxevent event ON event.id = letter.event_id
        WHERE letter.id = ANY(%s::bigint[]) AND letter.ended_at IS NULL AND letter.state = 'open' AND event.state = 'dead'
        ORDER BY event.id FOR UPDATE OF event))
"""
_RETRY_LEVELS: LiteralString = """
    UPDATE channels_listinglevel SET next_push_at = now(), push_failures = 0
    WHERE id = ANY(ARRAY(
        SELECT level.id FROM sync_deadletter letter JOIN channels_listinglevel level ON level.id = letter.listing_level_id
        WHERE letter.id = ANY(%s::bigint[]) AND letter.ended_at IS NULL AND letter.state = 'open'
        ORDER BY level.id FOR NO KEY UPDATE OF level))
"""
#: A store that failed is asked again at once. What waits because the store said how long goes on waiting.
_ASK_CHANNELS: LiteralString = """
    UPDATE channels_channel SET next_call_at = now()
    WHERE state = 'active' AND failures > 0 AND next_call_at > now() AND id = ANY(ARRAY(
        SELECT DISTINCT channel_id FROM sync_deadletter
        WHERE id = ANY(%s::bigint[]) AND ended_at IS NULL AND state = 'open' AND cause = 'channel_away'))
"""
_MARK_RETRIED: LiteralString = """
    UPDATE sync_deadletter SET state = 'retried', retried_at = now(), retries = retries + 1, retried_by_job_id = %s
    WHERE id = ANY(ARRAY(
        SELECT id FROM sync_deadletter WHERE id = ANY(%s::bigint[]) AND ended_at IS NULL AND state = 'open'
        ORDER BY id FOR UPDATE))
    RETURNING channel_id, event_id IS NOT NULL
"""

_FORGET_ATTEMPTS: LiteralString = """
    DELETE FROM sync_attempt WHERE id = ANY(ARRAY(
        SELECT attempt.id FROM sync_attempt attempt WHERE attempt.ended_at < now() - %s
            AND NOT EXISTS (
                SELECT 1 FROM sync_deadletter letter
                WHERE letter.event_id = attempt.event_id AND letter.ended_at IS NULL)
        ORDER BY attempt.ended_at LIMIT %s FOR UPDATE SKIP LOCKED))
"""


def open_for_events(event_ids: Collection[int]) -> None:
    """Open letters for those of the events that are dead, in the caller's transaction."""
    sql.execute(_OPEN_FOR_THESE, [sorted(event_ids)])


def keep() -> bool:
    """Open, change and end letters by what the rows say now, in the caller's transaction; False while another does it."""
    if not sql.rows("SELECT pg_try_advisory_xact_lock(%s, 0)", [KEEPING_LOCK])[0][0]:
        return False
    sql.execute(_FOLLOW_EVENTS)
    sql.execute(_END_FOR_LEVELS)
    sql.execute(_OPEN_FOR_ALL)
    sql.execute(_OPEN_FOR_LEVELS, [MAX_ATTEMPTS] * 7)
    mended = [letter_id for (letter_id,) in sql.rows(_MENDED, [_MENDED_AT_ONCE])]
    if mended:
        retry(mended, job_id=None)
    sql.execute(_FORGET_ATTEMPTS, [ATTEMPTS_KEPT, _FORGOTTEN_AT_ONCE])
    return True


def retry(letter_ids: Collection[int], *, job_id: int | None) -> list[tuple[int, bool]]:
    """Try again what these open letters are about, in the caller's transaction: (channel, whether it is an event) of each.

    So many statements, however many letters.
    """
    ids = sorted(letter_ids)
    # Whoever keeps the letters locks them in no order: one after the other, neither waits for the other's rows crosswise.
    sql.rows("SELECT pg_advisory_xact_lock(%s, 0)", [KEEPING_LOCK])
    sql.execute(_RETRY_EVENTS, [ids])
    sql.execute(_RETRY_LEVELS, [ids])
    sql.execute(_ASK_CHANNELS, [ids])
    return [(channel, is_event) for channel, is_event in sql.rows(_MARK_RETRIED, [job_id, ids])]


# --- attempts that failed -----------------------------------------------------------------------------------------


def note_event_attempts(event_ids: Collection[int], lease: timedelta, answers: Collection[str]) -> None:
    """Write down that attempts at pending events have just failed; their claims began when their leases did."""
    sql.execute(
        """
        INSERT INTO sync_attempt (merchant_id, channel_id, event_id, number, started_at, ended_at, answer)
        SELECT event.merchant_id, event.channel_id, event.id, event.attempts,
            CASE WHEN told.answer NOT LIKE 'poison:%%'
                THEN least(event.next_attempt_at - %s::interval, clock_timestamp()) END,
            clock_timestamp(), left(told.answer, 500)
        FROM unnest(%s::bigint[], %s::text[]) AS told (id, answer)
        JOIN channels_inboxevent event ON event.id = told.id AND event.state = 'pending'
        """,
        [lease, list(event_ids), list(answers)],
    )


def note_batch_attempt(batch_id: uuid.UUID, answer: str) -> None:
    """Write down that the latest sending of a write failed, whole or in part."""
    sql.execute(
        """
        INSERT INTO sync_attempt (merchant_id, channel_id, batch_id, number, started_at, ended_at, answer)
        SELECT merchant_id, channel_id, id, attempts, sent_at, clock_timestamp(), left(%s, 500)
        FROM channels_pushbatch WHERE id = %s
        """,
        [answer, batch_id],
    )
