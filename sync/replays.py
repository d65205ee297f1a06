"""Replaying the event log: any events of the inbox, by id, by filter or by time, applied once more as a job.

Whether a replay changed anything is not guessed: an event has moved stock when the ledger has new movements with its
correlation id afterwards. So a replay of what was applied says, from the books, that nothing was moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Count, Max, Q, QuerySet

from channels import inbox
from channels.models import Channel, EventState, InboxEvent
from channels.replay import replayable
from inventory.models import Movement
from merchants.admin_lists import ROWS_OUT_OF_ORDER, oldest_id_since
from sync import jobs
from sync.jobs import BadParameters, read_moment
from sync.models import Job, OrderLine
from synctec.lib import clock, sql

#: Events applied again together; the next ones wait for them, so that live events are never far behind.
BATCH_EVENTS = 500
#: So long a batch is waited for: its store may not answer.
TELLS_WITHIN = timedelta(seconds=60)
_LOOKS_EVERY = timedelta(milliseconds=500)
IDS_MAX = 1_000
#: Order lines looked through for the events of an order or a SKU.
LINES_MAX = 1_000


def find(merchant_id: int, parameters: Mapping[str, Any]) -> QuerySet[InboxEvent]:
    """The events of a merchant that fit, whether they may be replayed or not."""
    events = InboxEvent.objects.filter(merchant_id=merchant_id).defer("body_sha256")
    named = {
        "ids": "pk__in",
        "channel": "channel_id",
        "topic": "topic",
        "states": "state__in",
        "reason": "reason__icontains",
    }
    events = events.filter(**{field: parameters[name] for name, field in named.items() if name in parameters})
    if "since" in parameters:
        # Times have no index; ids grow with them.
        since = datetime.fromisoformat(parameters["since"])
        oldest = oldest_id_since(InboxEvent, "received_at", since)
        events = events.filter(pk__gte=(oldest or 0) - ROWS_OUT_OF_ORDER, received_at__gte=since)
    if "until" in parameters:
        events = events.filter(received_at__lte=datetime.fromisoformat(parameters["until"]))
    if "about" in parameters:
        events = events.filter(_about(merchant_id, parameters["about"]))
    return events


def _about(merchant_id: int, said: str) -> Q:
    """The events behind an order, by its id, number or name, or behind the newest orders of a SKU."""
    channels = list(Channel.objects.filter(merchant_id=merchant_id).values_list("pk", flat=True))
    name = said if said.startswith("#") else f"#{said}"
    of_order = Q(channel_id__in=channels) & (Q(order_id=said) | Q(order_name__in=(said, name)))
    lines = list(
        OrderLine.objects.filter(of_order | Q(sku__merchant_id=merchant_id, sku__code=said), merchant_id=merchant_id)
        .order_by("-pk")
        .values_list("correlation_id", "latest_event_id")[:LINES_MAX]
    )
    return Q(correlation_id__in={correlation for correlation, _ in lines}) | Q(pk__in={event for _, event in lines})


def read(merchant_id: int, said: Mapping[str, Any]) -> dict[str, Any]:
    """Which events: `ids`, `channel`, `topic`, `states`, `reason`, `about` (an order or a SKU), `since`, `until`.

    Raises:
        BadParameters: a field is wrong, or nothing was named at all.
    """
    parameters: dict[str, Any] = {}
    if said.get("ids"):
        parameters["ids"] = _read_ids(said["ids"])
    if said.get("channel"):
        channel = str(said["channel"])
        known = channel.isascii() and channel.isdigit() and len(channel) < 19
        if not known or not Channel.objects.filter(pk=int(channel), merchant_id=merchant_id).exists():
            raise BadParameters("channel", "There is no such channel. Give the number of one of yours.")
        parameters["channel"] = int(channel)
    if said.get("states"):
        states = [said["states"]] if isinstance(said["states"], str) else list(said["states"])
        known_states = (EventState.APPLIED, EventState.IGNORED, EventState.DEAD)
        if not set(states) <= set(known_states):
            raise BadParameters("states", f"Events in these states can be replayed: {', '.join(known_states)}.")
        parameters["states"] = sorted(states)
    for name, length in (("topic", 80), ("reason", 200), ("about", 120)):
        text = str(said.get(name) or "").replace("\0", "").strip()
        if len(text) > length:
            raise BadParameters(name, f"At most {length} characters.")
        if text:
            parameters[name] = text
    since, until = read_moment("since", said.get("since")), read_moment("until", said.get("until"))
    if not parameters and since is None and until is None:
        raise BadParameters("ids", "Say which events: by id, channel, topic, state, reason, order or SKU, or time.")
    if since is not None and until is not None and since > until:
        raise BadParameters("until", "The end lies before the beginning.")
    if since is not None:
        parameters["since"] = since.isoformat()
    # What arrives later is not meant, and a job must end.
    parameters["until"] = min(until or clock.now(), clock.now()).isoformat()
    return parameters


def _read_ids(said: Any) -> list[int]:
    ids = said if isinstance(said, Sequence) and not isinstance(said, str) else [said]
    texts = [str(each) for each in ids]
    if len(texts) > IDS_MAX:
        raise BadParameters("ids", f"At most {IDS_MAX} ids at once. Use a filter or a time range for more.")
    wrong = [text for text in texts if not (text.isascii() and text.isdigit() and len(text) < 19)]
    if wrong:
        raise BadParameters("ids", f"{wrong[0][:40]!r} is no number of an event.")
    return sorted({int(text) for text in texts})


def preview(merchant_id: int, parameters: Mapping[str, Any]) -> jobs.Preview:
    """How many events would be applied again, and how many of those that fit would not."""
    events = find(merchant_id, parameters)
    states = dict(events.filter(replayable()).values_list("state").annotate(count=Count("pk")).order_by())
    left = events.exclude(replayable()).count()
    count = sum(states.values())
    parts = [f"{states[state]:,} {state}" for state in EventState.values if state in states]
    words = (
        f"{count:,} events will be applied again ({', '.join(parts)})."
        if count
        else "No event that fits can be applied again."
    )
    if left:
        words += (
            f" {left:,} are left alone: they wait already, are so old that their bodies are gone, or say how a product or a "
            "location was then."
        )
    return jobs.Preview(count, words)


def step(job: Job) -> jobs.Step:
    """Have a batch applied again, or look what has become of the one before."""
    cursor, now = job.cursor, clock.now()
    ids: list[int] = cursor.get("ids", [])
    counted: dict[str, int] = {}
    moved = 0
    if ids:
        _stay_applied(cursor["applied"])
        fates = dict(InboxEvent.objects.filter(pk__in=ids).values_list("state").annotate(count=Count("pk")).order_by())
        waiting = fates.get(EventState.PENDING, 0)
        if waiting and now - datetime.fromisoformat(cursor["asked_at"]) < TELLS_WITHIN:
            return jobs.Step(cursor=cursor, wait=_LOOKS_EVERY)
        counted = {str(state): count for state, count in fates.items()}
        moved = _moved_stock(ids, cursor["movement"])
    done, dead = len(ids), counted.get(EventState.DEAD, 0)
    following = list(
        find(job.merchant_id, job.parameters)
        .filter(replayable(), pk__gt=cursor.get("after", 0))
        .order_by("pk")
        .values_list("pk", flat=True)[:BATCH_EVENTS]
    )
    if not following:
        return jobs.Step(
            cursor={"after": cursor.get("after", 0)}, done=done, changed=moved, failed=dead, tally=counted, is_last=True
        )
    newest = Movement.objects.filter(merchant_id=job.merchant_id).aggregate(newest=Max("pk"))["newest"] or 0
    applied = list(InboxEvent.objects.filter(pk__in=following, state=EventState.APPLIED).values_list("pk", flat=True))
    _make_pending(following)
    transaction.on_commit(partial(inbox.ring, job.merchant_id))
    return jobs.Step(
        cursor={
            "after": following[-1],
            "ids": following,
            "applied": applied,
            "asked_at": now.isoformat(),
            "movement": newest,
        },
        done=done,
        changed=moved,
        failed=dead,
        tally=counted,
        wait=_LOOKS_EVERY,
    )


def _make_pending(ids: Sequence[int]) -> None:
    sql.execute(
        """
        UPDATE channels_inboxevent
        SET state = 'pending', reason = '', attempts = 0, settled_at = NULL, next_attempt_at = now()
        WHERE id = ANY(ARRAY(
            SELECT id FROM channels_inboxevent WHERE id = ANY(%s::bigint[]) AND state <> 'pending' ORDER BY id FOR UPDATE))
        """,
        [list(ids)],
    )


def _stay_applied(ids: Sequence[int]) -> None:
    """What was applied before and now is told to be known already was applied all the same."""
    InboxEvent.objects.filter(pk__in=ids, state=EventState.IGNORED, reason__startswith="superseded").update(
        state=EventState.APPLIED, reason="applied again: nothing in it was new"
    )


def _moved_stock(ids: Sequence[int], newest_before: int) -> int:
    """How many of these events have movements that were not there before they were applied again."""
    [(count,)] = sql.rows(
        """
        SELECT count(*) FROM channels_inboxevent event WHERE event.id = ANY(%s::bigint[]) AND EXISTS (
            SELECT 1 FROM inventory_movement movement
            WHERE movement.correlation_id = event.correlation_id AND movement.merchant_id = event.merchant_id
                AND movement.id > %s)
        """,
        [list(ids), newest_before],
    )
    return int(count)


def report(job: Job) -> str:
    """What came of it, in words."""
    parts = [f"{count:,} {state}" for state, count in sorted(job.tally.items()) if state != EventState.PENDING]
    words = f"{job.done:,} events were applied again" + (f" ({', '.join(parts)})" if parts else "") + ". "
    words += (
        f"{job.changed:,} of them moved stock."
        if job.changed
        else "Nothing changed: the ledger has no new movement of theirs."
    )
    if job.tally.get(EventState.PENDING):
        words += f" {job.tally[EventState.PENDING]:,} still wait, most likely for their store."
    return words


REPLAY = jobs.Kind("replay_events", "Replay events", read=read, preview=preview, step=step, report=report)
