"""Having events of the inbox applied again: after a mapping was made, or a fault mended.

Safe whenever it is done: an order event is the state of an order and not a change of it, so applying it twice
changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import partial

from django.db import transaction

from channels import inbox
from channels.models import EventState, InboxEvent
from merchants import trail
from merchants.models import User

#: What may be taken up again. Pending events wait already; applied ones have nothing left to say.
REPLAYABLE = (EventState.IGNORED, EventState.DEAD)


@transaction.atomic
def replay(*, ids: Collection[int], user: User | None, now: datetime) -> int:
    """Make these events pending again when they were set aside; returns how many were."""
    events = list(
        InboxEvent.objects.select_for_update(of=("self",)).filter(pk__in=ids, state__in=REPLAYABLE).order_by("pk")
    )
    for event in events:
        trail.record(
            merchant_id=event.merchant_id,
            action="inbox.replay",
            subject=event,
            user=user,
            before={"state": event.state, "reason": event.reason, "attempts": event.attempts},
            after={"state": EventState.PENDING},
            correlation_id=event.correlation_id,
        )
    InboxEvent.objects.filter(pk__in=[event.pk for event in events]).update(
        state=EventState.PENDING, reason="", attempts=0, next_attempt_at=now, settled_at=None
    )
    for merchant_id in sorted({event.merchant_id for event in events}):
        transaction.on_commit(partial(inbox.ring, merchant_id))
    return len(events)
