"""Having stores read again on somebody's word: one level, a listing, a SKU, a channel, a location group.

What it does is what the engine does by itself when it doubts a level: the store is read, the difference is explained or
settled, and what must be written is written. Nothing waits for a pause after a refusal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from django.db import models, transaction
from django.db.models import QuerySet

from channels.models import Channel, ChannelState, Listing, ListingLevel
from inventory.models import Sku
from locations.models import LocationGroup
from merchants import trail
from merchants.models import ApiKey, User
from sync import jobs
from sync.jobs import BadParameters
from sync.models import Job
from sync.tables import upkeep
from synctec.lib import clock, sql
from synctec.lib.ids import uuid7

#: Levels doubted together: the next ones wait until these were read, so that sales elsewhere are never far behind.
BATCH_LEVELS = 500
#: So long a batch is waited for: its store may not answer, or have no calls left.
TELLS_WITHIN = timedelta(minutes=2)
_LOOKS_EVERY = timedelta(seconds=1)
#: More levels than this are read again as a job, batch by batch.
AT_ONCE_MAX = 100

REASON = "asked to be read again"
#: Only these can be asked.
_READABLE = (ChannelState.ACTIVE, ChannelState.PAUSED)

#: A lower that is due is itself a check, since it is only made if the store still shows what we believe: doubting its level
#: would hold it up.
_DOUBT: LiteralString = """
    UPDATE channels_listinglevel level
    SET next_push_at = now(), push_failures = 0,
        suspect_since = CASE WHEN doubted.is_lower_due THEN level.suspect_since ELSE coalesce(level.suspect_since, now()) END,
        suspect_reason = CASE WHEN level.suspect_since IS NULL AND NOT doubted.is_lower_due THEN %s
            ELSE level.suspect_reason END,
        suspect_available = CASE WHEN doubted.is_lower_due THEN level.suspect_available END,
        next_check_at = CASE WHEN doubted.is_lower_due THEN level.next_check_at ELSE now() END
    FROM (
        SELECT id, coalesce(desired < shown, false) AND suspect_since IS NULL AS is_lower_due
        FROM channels_listinglevel WHERE id = ANY(%s::bigint[]) ORDER BY id FOR NO KEY UPDATE) doubted
    WHERE level.id = doubted.id
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a press of the button came to: levels that are read now, or the job that has them read."""

    levels: int
    channels: Collection[int]
    job: Job | None = None


def levels_of(merchant_id: int, parameters: Mapping[str, Any]) -> QuerySet[ListingLevel]:
    """The levels that are meant and can be read."""
    levels = ListingLevel.objects.filter(
        merchant_id=merchant_id,
        listing__sku__isnull=False,
        listing__deleted_at=None,
        channel__state__in=_READABLE,
    )
    named = {
        "level": "pk",
        "listing": "listing_id",
        "sku": "listing__sku_id",
        "channel": "channel_id",
        "group": "store_location__membership__group_id",
    }
    return levels.filter(**{field: parameters[name] for name, field in named.items() if name in parameters})


def read(merchant_id: int, said: Mapping[str, Any]) -> dict[str, Any]:
    """What is meant: `level`, `listing`, `channel` or `group` by number, or `sku` by its code; several narrow it down.

    Raises:
        BadParameters: there is no such thing, or nothing was named.
    """
    parameters: dict[str, Any] = {}
    known: dict[str, type[models.Model]] = {
        "level": ListingLevel,
        "listing": Listing,
        "channel": Channel,
        "group": LocationGroup,
    }
    for name, model in known.items():
        if not said.get(name):
            continue
        text = str(said[name])
        is_number = text.isascii() and text.isdigit() and len(text) < 19
        if not is_number or not model._default_manager.filter(pk=int(text), merchant_id=merchant_id).exists():
            raise BadParameters(name, f"There is no such {name}. Give the number of one of yours.")
        parameters[name] = int(text)
    code = str(said.get("sku") or "").replace("\0", "").strip()
    if code:
        sku = Sku.objects.filter(merchant_id=merchant_id, code=code).first()
        if sku is None:
            raise BadParameters("sku", f"There is no SKU {code[:100]}. Write its code as it stands in the list.")
        parameters["sku"] = sku.pk
    if not parameters:
        raise BadParameters("channel", "Say what is to be read: a channel, a group, a SKU, a listing or a level.")
    return parameters


@transaction.atomic
def ask(
    *,
    merchant_id: int,
    said: Mapping[str, Any],
    user: User | None = None,
    api_key: ApiKey | None = None,
    reason: str = "",
) -> Asked:
    """Have what is meant read again: a few levels at once, more of them as a job.

    Raises:
        BadParameters: there is no such thing.
        jobs.NothingToDo: none of it is mapped and in a channel that can be read.
    """
    parameters = read(merchant_id, said)
    levels = levels_of(merchant_id, parameters).select_related("listing", "store_location", "channel")
    found = list(levels.order_by("pk")[: AT_ONCE_MAX + 1])
    if not found:
        raise jobs.NothingToDo(_NOTHING)
    if len(found) > AT_ONCE_MAX:
        job = jobs.create(
            merchant_id=merchant_id, kind=RESYNC.name, said=said, user=user, api_key=api_key, reason=reason
        )
        return Asked(job.total, (), job)
    _doubt(merchant_id, [level.pk for level in found], clock.now())
    for level in found:
        trail.record(
            merchant_id=merchant_id,
            action="listing_level.resync",
            subject=level,
            user=user,
            api_key=api_key,
            reason=reason,
        )
    return Asked(len(found), sorted({level.channel_id for level in found}))


def _doubt(merchant_id: int, level_ids: Collection[int], now: datetime) -> None:
    """What they should show is computed anew, too: nobody presses the button because all is well."""
    sql.execute(_DOUBT, [REASON, sorted(level_ids)])
    skus = ListingLevel.objects.filter(pk__in=level_ids).values_list("listing__sku_id", flat=True).distinct()
    upkeep.mark_dirty(
        merchant_id=merchant_id,
        sku_ids=sorted(filter(None, skus)),
        correlation_id=uuid7(),
        now=now,
    )


_NOTHING = "Nothing of it is mapped to a SKU and in a channel that can be read. Map it, or authorize the channel again."


def preview(merchant_id: int, parameters: Mapping[str, Any]) -> jobs.Preview:
    """How many levels would be read."""
    levels = levels_of(merchant_id, parameters)
    count = levels.count()
    if not count:
        return jobs.Preview(0, _NOTHING)
    channels = levels.values("channel_id").distinct().count()
    return jobs.Preview(
        count, f"{count:,} listing levels of {channels} channels will be read, and written where they differ."
    )


def step(job: Job) -> jobs.Step:
    """Have a batch read, or look whether the one before was."""
    cursor, now = job.cursor, clock.now()
    ids: list[int] = cursor.get("ids", [])
    differed, unread = 0, 0
    if ids:
        asked_at = datetime.fromisoformat(cursor["asked_at"])
        unread, differed = _looked_at(ids, asked_at)
        if unread and now - asked_at < TELLS_WITHIN:
            return jobs.Step(cursor=cursor, wait=_LOOKS_EVERY)
    following = list(
        levels_of(job.merchant_id, job.parameters)
        .filter(pk__gt=cursor.get("after", 0))
        .order_by("pk")
        .values_list("pk", flat=True)[:BATCH_LEVELS]
    )
    counted = {"unread": unread} if unread else {}
    if not following:
        return jobs.Step(
            cursor={"after": cursor.get("after", 0)}, done=len(ids), changed=differed, tally=counted, is_last=True
        )
    _doubt(job.merchant_id, following, now)
    channels = ListingLevel.objects.filter(pk__in=following).values_list("channel_id", flat=True).distinct()
    return jobs.Step(
        cursor={"after": following[-1], "ids": following, "asked_at": now.isoformat()},
        done=len(ids),
        changed=differed,
        tally=counted,
        wait=_LOOKS_EVERY,
        channels=sorted(channels),
    )


def _looked_at(ids: Collection[int], asked_at: datetime) -> tuple[int, int]:
    """How many of these levels were not read yet, and for how many a difference was found or a write made since."""
    [(unread, differed)] = sql.rows(
        """
        SELECT count(*) FILTER (WHERE level.suspect_since IS NOT NULL AND (level.sample IS NULL OR level.sampled_until < %s)),
            count(*) FILTER (WHERE (level.sample IS NOT NULL AND level.sampled_until >= %s) OR EXISTS (
                SELECT 1 FROM channels_push push WHERE push.listing_level_id = level.id AND push.created_at >= %s))
        FROM channels_listinglevel level WHERE level.id = ANY(%s::bigint[])
        """,
        [asked_at, asked_at, asked_at, sorted(ids)],
    )
    return int(unread), int(differed)


def report(job: Job) -> str:
    """What came of it, in words."""
    unread = job.tally.get("unread", 0)
    words = f"{job.done - unread:,} levels were read"
    words += (
        f", {job.changed:,} of them differed or were written." if job.changed else ", and all showed what they should."
    )
    if unread:
        words += (
            f" {unread:,} could not be read in time: the channel does not answer, or has no calls left. They will be."
        )
    return words


RESYNC = jobs.Kind("resync", "Read listings again", read=read, preview=preview, step=step, report=report)
