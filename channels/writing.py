"""The kill switch: nothing is written to any channel of a merchant, or of the whole installation, until somebody says so.

Channels are still read and what they tell is applied. Invariant: no write begins after the switch has committed. Who opens a
push batch holds a lock of this switch in share mode, asked for before it looks; who stops waits until those have committed. A
write whose batch was committed before is under way: it is sent, and its answer is noted. One without an answer is asked for
again when writing goes on.

Going on reads first: what is to be written is doubted, so that it is read before, and every channel is reconciled.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from django.db import connection, models, transaction
from django.db.models import Q

from channels import steering
from channels.models import Channel, ChannelState, ListingLevel, WritingStop
from merchants import trail
from merchants.models import ApiKey, Merchant, User
from synctec.lib import sql

#: Class of the advisory locks that a claim shares and a stop has for itself: of a merchant, and 0 of the installation.
STOP_LOCK: Final = 7003

#: So many levels are counted before somebody decides; there may be more.
PREVIEW_LEVELS: Final = 1000

WAS_STOPPED: Final = "writing was stopped"


class CannotSwitch(Exception):
    """It is so already. The text says since when."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop that is on."""

    is_everybody: bool
    began_at: datetime
    reason: str


@transaction.atomic
def stop(*, merchant: Merchant | None, user: User | None, api_key: ApiKey | None = None, reason: str) -> WritingStop:
    """Begin no more writes to the merchant's channels; None: to any channel of the installation.

    Raises:
        CannotSwitch: it is stopped already.
        ValueError: without a reason.
    """
    if not reason.strip():
        raise ValueError("A stop needs a reason.")
    _lock(merchant)
    on = _open_stops(merchant).first()
    if on is not None:
        raise CannotSwitch(f"Writing is stopped already, since {on.began_at:%Y-%m-%d %H:%M:%S} UTC: {on.reason}")
    begun = WritingStop.objects.create(merchant=merchant, reason=reason.strip()[:500])
    begun.refresh_from_db()
    for concerned in _concerned(merchant):
        trail.record(
            merchant_id=concerned.pk,
            action="writing.stop",
            subject=concerned,
            user=user,
            api_key=api_key,
            after={"everybody": merchant is None},
            reason=begun.reason,
        )
    return begun


@transaction.atomic
def resume(
    *,
    merchant: Merchant | None,
    user: User | None,
    api_key: ApiKey | None = None,
    now: datetime,
    reason: str = "",
) -> WritingStop:
    """Write again, after reading: what is to be written is read before, and all channels are reconciled.

    Raises:
        CannotSwitch: it is not stopped.
    """
    _lock(merchant)
    on = _open_stops(merchant).first()
    if on is None:
        raise CannotSwitch("Writing is not stopped.")
    on.ended_at, on.end_reason = max(now, on.began_at), reason.strip()[:500]
    on.save(update_fields=["ended_at", "end_reason"])
    channels = Channel.objects.filter(state=ChannelState.ACTIVE)
    if merchant is not None:
        channels = channels.filter(merchant=merchant)
    concerned = sorted(channels.values_list("pk", flat=True))
    _doubt_what_is_to_be_written(concerned, now)
    for channel_id in concerned:
        for ask in steering.on_reconcile:
            transaction.on_commit(partial(ask, channel_id))
    for each in _concerned(merchant):
        trail.record(
            merchant_id=each.pk,
            action="writing.resume",
            subject=each,
            user=user,
            api_key=api_key,
            before={"stopped_at": on.began_at.isoformat(), "everybody": merchant is None},
            reason=on.end_reason,
        )
    return on


def stops_on(merchant_id: int | None) -> list[Stop]:
    """The stops that keep a merchant's channels from being written to, the installation's first; None: only that one."""
    found = WritingStop.objects.filter(Q(merchant=None) | Q(merchant_id=merchant_id), ended_at=None)
    return sorted(
        (Stop(row.merchant_id is None, row.began_at, row.reason) for row in found), key=lambda on: not on.is_everybody
    )


def merchants_stopped() -> list[tuple[str, Stop]]:
    """Every stop that is on, with the name of the merchant; "" for the installation's."""
    found = WritingStop.objects.filter(ended_at=None).select_related("merchant").order_by("pk")
    return [
        (row.merchant.name if row.merchant else "", Stop(row.merchant_id is None, row.began_at, row.reason))
        for row in found
    ]


def stopped_merchant_ids() -> list[int]:
    """The merchants whose own stop is on."""
    found = WritingStop.objects.filter(ended_at=None, merchant__isnull=False)
    return list(found.values_list("merchant_id", flat=True))


def preview(merchant: Merchant) -> str:
    """What a stop or its end concerns."""
    channels = Channel.objects.filter(merchant=merchant, state=ChannelState.ACTIVE).count()
    waiting = ListingLevel.objects.filter(merchant=merchant, channel__merchant=merchant, is_out_of_sync=True)
    levels = len(waiting.values_list("pk")[:PREVIEW_LEVELS])
    told = f"{levels}+" if levels == PREVIEW_LEVELS else str(levels)
    return f"{channels} active channels; {told} listing levels show another number than they should"


def _open_stops(merchant: Merchant | None) -> models.QuerySet[WritingStop]:
    return WritingStop.objects.filter(merchant=merchant, ended_at=None)


def _lock(merchant: Merchant | None) -> None:
    """Wait until the claims under way have committed, and keep others out until this has."""
    assert connection.in_atomic_block
    sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [STOP_LOCK, merchant.pk % 2**31 if merchant else 0])


def _concerned(merchant: Merchant | None) -> list[Merchant]:
    return [merchant] if merchant else list(Merchant.objects.order_by("pk"))


def _doubt_what_is_to_be_written(channel_ids: list[int], now: datetime) -> int:
    """Have those levels read that show another number than they should: until then they are not written."""
    waiting = ListingLevel.objects.filter(channel_id__in=channel_ids, is_out_of_sync=True, suspect_since=None)
    locked = sorted(waiting.select_for_update(no_key=True).order_by("pk").values_list("pk", flat=True))
    return ListingLevel.objects.filter(pk__in=locked).update(
        suspect_since=now, suspect_reason=WAS_STOPPED, suspect_available=None, next_check_at=now
    )
