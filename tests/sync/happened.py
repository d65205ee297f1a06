"""What has happened to a merchant, put straight into the tables, each at its own moment."""

from __future__ import annotations

import random
import uuid
from datetime import datetime, timedelta

from channels.models import BatchState, EventState, InboxEvent, Push, PushBatch, PushState
from sync import letters
from synctec.lib.ids import earliest
from tests.factories import Shop


def id_of(moment: datetime) -> uuid.UUID:
    """An id as it is made then."""
    return uuid.UUID(int=earliest(moment).int | random.getrandbits(60))


def event(
    shop: Shop,
    at: datetime,
    *,
    topic: str = "orders/create",
    state: str = EventState.APPLIED,
    correlation_id: uuid.UUID | None = None,
) -> InboxEvent:
    """An event that arrived then."""
    event = InboxEvent.objects.create(
        merchant_id=shop.channel.merchant_id,
        channel=shop.channel,
        topic=topic,
        webhook_id=str(uuid.uuid4()),
        body_kept_on=at.date(),
        body_sha256=b"",
        hlc=0,
        received_at=at,
        correlation_id=correlation_id or id_of(at),
        state=state,
        reason="" if state == EventState.APPLIED else "malformed: as the test wants it",
        settled_at=None if state == EventState.PENDING else at,
    )
    if state == EventState.DEAD:
        letters.keep()
    return event


def push(
    shop: Shop,
    code: str,
    cause: InboxEvent,
    *,
    after: timedelta | None,
    by: int = -1,
    state: str = PushState.CONFIRMED,
    error_code: str = "",
) -> Push:
    """A write that the event led to, settled so long after it; None: not yet."""
    opened_at = cause.received_at
    batch = PushBatch.objects.create(
        id=id_of(opened_at),
        merchant_id=shop.channel.merchant_id,
        channel=shop.channel,
        state=BatchState.DONE if after is not None else BatchState.INTENT,
        lease_token=1,
    )
    made = Push.objects.create(
        merchant_id=shop.channel.merchant_id,
        channel=shop.channel,
        batch=batch,
        position=0,
        listing_level=shop.level(code),
        from_quantity=10,
        to_quantity=10 + by,
        state=state if after is not None else PushState.OPEN,
        error_code=error_code,
        correlation_ids=[cause.correlation_id],
        caused_at=cause.received_at,
        settled_at=None if after is None else cause.received_at + after,
    )
    Push.objects.filter(pk=made.pk).update(created_at=opened_at)
    return made
