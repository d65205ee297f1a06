"""Dead letters as people see them: grouped by cause, tried again, dismissed, and what each went through.

How letters come to be and end is in `sync.tables.letters`. Trying again is always safe: events are the state of an order and
levels are compared with what they should show, so doing either twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Count, Max, Min, Q, QuerySet

from channels import inbox
from channels.models import Channel
from merchants import trail
from merchants.models import ApiKey, User
from sync import jobs, remedies
from sync.jobs import BadParameters, read_moment
from sync.models import DeadLetter, FailureCause, Job, LetterState
from sync.tables import letters as rows
from synctec.lib import clock, sql

#: Letters tried again with one transaction.
BATCH_LETTERS = 1_000
#: So long a job waits to be told what became of the letters it tried again.
TELLS_WITHIN = timedelta(minutes=2)
_LOOKS_EVERY = timedelta(seconds=1)
#: Pushes and attempts shown of one letter.
ATTEMPTS_SHOWN = 50


class CannotChange(Exception):
    """The letter is in a state in which this cannot be done. The text says what to do instead."""


@dataclass(frozen=True, slots=True)
class Group:
    """Letters of one channel with the same cause."""

    channel: Channel
    cause: str
    code: str
    open: int
    retried: int
    first_at: datetime
    last_at: datetime
    example: DeadLetter
    remedy: remedies.Remedy


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt behind a letter."""

    number: int
    started_at: datetime | None
    ended_at: datetime | None
    request: str
    answer: str

    @property
    def seconds(self) -> float | None:
        """How long it took; None where nobody knows."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


def keep() -> bool:
    """Open, change and end letters by what the rows say now (sweep); False while another process does it."""
    with transaction.atomic():
        return rows.keep()


def living(merchant_id: int) -> QuerySet[DeadLetter]:
    """The letters of a merchant that are not at an end and were not dismissed."""
    return DeadLetter.objects.filter(merchant_id=merchant_id, ended_at=None).exclude(state=LetterState.DISMISSED)


def groups(merchant_id: int, *, since: datetime | None = None) -> list[Group]:
    """What waits, by channel and cause, the largest group first."""
    letters = living(merchant_id)
    if since is not None:
        letters = letters.filter(opened_at__gte=since)
    found = list(
        letters.values("channel_id", "cause", "code")
        .annotate(
            open=Count("pk", filter=Q(state=LetterState.OPEN)),
            retried=Count("pk", filter=Q(state=LetterState.RETRIED)),
            first_at=Min("opened_at"),
            last_at=Max("opened_at"),
            example_id=Max("pk"),
        )
        .order_by("-open", "channel_id", "cause", "code")
    )
    channels = Channel.objects.in_bulk({row["channel_id"] for row in found})
    examples = DeadLetter.objects.select_related("listing_level__listing", "listing_level__store_location").in_bulk(
        [row["example_id"] for row in found]
    )
    return [
        Group(
            channel=channels[row["channel_id"]],
            cause=row["cause"],
            code=row["code"],
            open=row["open"],
            retried=row["retried"],
            first_at=row["first_at"],
            last_at=row["last_at"],
            example=examples[row["example_id"]],
            remedy=remedies.remedy(row["cause"], row["code"]),
        )
        for row in found
    ]


# --- what is done about them ---------------------------------------------------------------------------------------


@transaction.atomic
def retry(*, letter: DeadLetter, user: User | None = None, api_key: ApiKey | None = None) -> list[int]:
    """Try one again at once; returns the channels that may have something to push.

    Raises:
        CannotChange: it is not open.
    """
    tried = rows.retry([letter.pk], job_id=None)
    if not tried:
        raise CannotChange(_WHY_NOT.get(_state(letter), "It is not open any more."))
    trail.record(
        merchant_id=letter.merchant_id,
        action="letter.retry",
        subject=letter,
        user=user,
        api_key=api_key,
        before={"state": LetterState.OPEN},
        after={"state": LetterState.RETRIED},
        correlation_id=letter.correlation_id,
    )
    transaction.on_commit(partial(inbox.ring, letter.merchant_id))
    return [channel for channel, _ in tried]


@transaction.atomic
def dismiss(
    *, letter: DeadLetter, reason: str, user: User | None = None, api_key: ApiKey | None = None, now: datetime
) -> None:
    """Say that nobody need do anything about it. It is not opened again for the same trouble; `reopen` takes it back.

    Raises:
        CannotChange: it was dismissed before or is at an end, or no reason was given.
    """
    if not reason.strip():
        raise CannotChange("Say why, so that the next one who looks knows.")
    dismissed = DeadLetter.objects.filter(
        pk=letter.pk, ended_at=None, state__in=(LetterState.OPEN, LetterState.RETRIED)
    ).update(state=LetterState.DISMISSED, dismissed_at=now, dismissed_by=user, dismissed_because=reason.strip()[:500])
    if not dismissed:
        raise CannotChange(_WHY_NOT.get(_state(letter), "It is not open any more."))
    _record_change(letter, "letter.dismiss", LetterState.DISMISSED, user, api_key, reason.strip()[:500])


@transaction.atomic
def reopen(*, letter: DeadLetter, user: User | None = None, api_key: ApiKey | None = None) -> None:
    """Take a dismissal back.

    Raises:
        CannotChange: it is not dismissed, or what it is about has come right since.
    """
    reopened = DeadLetter.objects.filter(pk=letter.pk, ended_at=None, state=LetterState.DISMISSED).update(
        state=LetterState.OPEN, dismissed_at=None, dismissed_by=None, dismissed_because=""
    )
    if not reopened:
        raise CannotChange("Only a dismissed letter whose trouble is not over can be reopened.")
    _record_change(letter, "letter.reopen", LetterState.OPEN, user, api_key, "")


_WHY_NOT = {
    LetterState.RETRIED: "It is being tried again at this moment.",
    LetterState.RECOVERED: "It has recovered: there is nothing left to do.",
    LetterState.DISMISSED: "It was dismissed. Reopen it first.",
}


def _state(letter: DeadLetter) -> LetterState:
    return LetterState(DeadLetter.objects.values_list("state", flat=True).get(pk=letter.pk))


def _record_change(
    letter: DeadLetter, action: str, state: LetterState, user: User | None, api_key: ApiKey | None, reason: str
) -> None:
    trail.record(
        merchant_id=letter.merchant_id,
        action=action,
        subject=letter,
        user=user,
        api_key=api_key,
        before={"state": letter.state},
        after={"state": state},
        reason=reason,
        correlation_id=letter.correlation_id,
    )


# --- what it went through -----------------------------------------------------------------------------------------


def attempts(letter: DeadLetter) -> Sequence[Tried]:
    """The attempts behind a letter, newest first: of its event, or of the writes about its level since one was confirmed."""
    if letter.event_id is not None:
        found = sql.rows(
            """
            SELECT attempt.number, attempt.started_at, attempt.ended_at, 'apply ' || event.topic, attempt.answer
            FROM sync_attempt attempt JOIN channels_inboxevent event ON event.id = attempt.event_id
            WHERE attempt.event_id = %s AND attempt.merchant_id = %s ORDER BY attempt.id DESC LIMIT %s
            """,
            [letter.event_id, letter.merchant_id, ATTEMPTS_SHOWN],
        )
    else:
        found = sql.rows(
            """
            WITH written AS (
                SELECT * FROM channels_push
                WHERE listing_level_id = %s AND merchant_id = %s AND id > coalesce((
                    SELECT max(id) FROM channels_push WHERE listing_level_id = %s AND state = 'confirmed'), 0)
                ORDER BY id DESC LIMIT %s
            )
            SELECT coalesce(attempt.number, batch.attempts), coalesce(attempt.started_at, batch.sent_at),
                coalesce(attempt.ended_at, batch.answered_at),
                format('set %%s to %%s', written.from_quantity, written.to_quantity),
                CASE WHEN written.state = 'rejected' AND (attempt.id IS NULL OR attempt.ended_at >= batch.answered_at)
                    THEN concat_ws(': ', nullif(written.error_code, ''), nullif(written.error, ''))
                    ELSE coalesce(attempt.answer, 'on its way') END
            FROM written JOIN channels_pushbatch batch ON batch.id = written.batch_id
            LEFT JOIN sync_attempt attempt ON attempt.batch_id = batch.id
            ORDER BY written.id DESC, attempt.id DESC LIMIT %s
            """,
            [letter.listing_level_id, letter.merchant_id, letter.listing_level_id, ATTEMPTS_SHOWN, ATTEMPTS_SHOWN],
        )
    return [Tried(*row) for row in found]


def subject(letter: DeadLetter) -> str:
    """What the letter is about, in words."""
    if letter.listing_level is not None:
        listing = letter.listing_level.listing
        name = listing.remote_sku or listing.title or listing.remote_variant_id
        return f"{name} at {letter.listing_level.store_location.name}"
    return f"event {letter.event_id}"


# --- many at once -------------------------------------------------------------------------------------------------


def _read(merchant_id: int, said: Mapping[str, Any]) -> dict[str, Any]:
    """Which letters: `channel`, `cause`, `code`, `since`, all optional; `until` is now, so that the job has an end."""
    parameters: dict[str, Any] = {"until": clock.now().isoformat()}
    if said.get("channel"):
        channel = str(said["channel"])
        known = channel.isascii() and channel.isdigit() and len(channel) < 19
        if not known or not Channel.objects.filter(pk=int(channel), merchant_id=merchant_id).exists():
            raise BadParameters("channel", "There is no such channel. Give the number of one of yours.")
        parameters["channel"] = int(channel)
    if said.get("cause"):
        if said["cause"] not in FailureCause.values:
            raise BadParameters("cause", f"Known causes are: {', '.join(FailureCause.values)}.")
        parameters["cause"] = said["cause"]
    if said.get("code") is not None:
        # Empty is a code too: that of causes which need none.
        parameters["code"] = str(said["code"])[:80]
    since = read_moment("since", said.get("since"))
    if since is not None:
        parameters["since"] = since.isoformat()
    return parameters


def _chosen(merchant_id: int, parameters: Mapping[str, Any]) -> QuerySet[DeadLetter]:
    letters = DeadLetter.objects.filter(
        merchant_id=merchant_id,
        ended_at=None,
        state=LetterState.OPEN,
        opened_at__lte=datetime.fromisoformat(parameters["until"]),
    )
    if "since" in parameters:
        letters = letters.filter(opened_at__gte=datetime.fromisoformat(parameters["since"]))
    named = {"channel": "channel_id", "cause": "cause", "code": "code"}
    return letters.filter(**{field: parameters[name] for name, field in named.items() if name in parameters})


def _preview(merchant_id: int, parameters: Mapping[str, Any]) -> jobs.Preview:
    found = _chosen(merchant_id, parameters).aggregate(
        every=Count("pk"), events=Count("event_id"), channels=Count("channel_id", distinct=True)
    )
    if not found["every"]:
        return jobs.Preview(0, "No dead letter that fits waits for anybody.")
    levels = found["every"] - found["events"]
    parts = [f"{found['events']:,} events"] if found["events"] else []
    parts += [f"the numbers of {levels:,} listing levels"] if levels else []
    return jobs.Preview(found["every"], f"{' and '.join(parts)} of {found['channels']} channels will be tried again.")


def _step(job: Job) -> jobs.Step:
    """Have a batch tried again; when all are, wait until it is known what became of them."""
    after = int(job.cursor.get("after", 0))
    if "asked_at" not in job.cursor:
        ids = list(
            _chosen(job.merchant_id, job.parameters)
            .filter(pk__gt=after)
            .order_by("pk")
            .values_list("pk", flat=True)[:BATCH_LETTERS]
        )
        if ids:
            tried = rows.retry(ids, job_id=job.pk)
            transaction.on_commit(partial(inbox.ring, job.merchant_id))
            return jobs.Step(
                cursor={"after": ids[-1]},
                done=len(ids),
                changed=len(tried),
                channels=sorted({channel for channel, is_event in tried if not is_event}),
            )
        return jobs.Step(cursor={"after": after, "asked_at": clock.now().isoformat()})
    rows.keep()
    is_told = not DeadLetter.objects.filter(retried_by_job=job, state=LetterState.RETRIED).exists()
    is_late = clock.now() - datetime.fromisoformat(job.cursor["asked_at"]) > TELLS_WITHIN
    if is_told or is_late:
        return jobs.Step(cursor=job.cursor, is_last=True)
    return jobs.Step(cursor=job.cursor, wait=_LOOKS_EVERY)


def _report(job: Job) -> str:
    states = dict(
        DeadLetter.objects.filter(retried_by_job=job).values_list("state").annotate(count=Count("pk")).order_by()
    )
    parts = [f"{job.changed:,} tried again: {states.get(LetterState.RECOVERED, 0):,} recovered"]
    if states.get(LetterState.OPEN):
        parts.append(f"{states[LetterState.OPEN]:,} failed again")
    if states.get(LetterState.RETRIED):
        parts.append(f"{states[LetterState.RETRIED]:,} are still on their way")
    return f"{', '.join(parts)}."


RETRY = jobs.Kind("retry_letters", "Try dead letters again", read=_read, preview=_preview, step=_step, report=_report)
