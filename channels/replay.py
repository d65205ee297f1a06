"""Having events of the inbox applied again: after a mapping was made, or a fault mended.

Safe whenever it is done: an order event is the state of an order and not a change of it, so applying it twice
changes nothing the second time.

Of events that were applied, only those are taken up again that carry a version: what an order or a level was at some moment.
One about a product or a location says how that was then, and would put it back.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import partial

from django.db import transaction
from django.db.models import BooleanField, Q
from django.db.models.expressions import RawSQL

from channels import inbox
from channels.models import EventState, InboxEvent
from merchants import trail
from merchants.models import User

#: What may be taken up again, whatever it is about. Pending events wait already.
REPLAYABLE = (EventState.IGNORED, EventState.DEAD)
#: Topics whose events carry a version, so that an old one cannot undo a newer one.
VERSIONED_TOPICS = ("orders/", "refunds/", "inventory_levels/")


#: Without its body there is nothing to apply.
_BODY_IS_KEPT = RawSQL(
    """
    EXISTS (SELECT 1 FROM channels_inboxbody body
        WHERE body.event_id = channels_inboxevent.id AND body.kept_on = channels_inboxevent.body_kept_on)
    """,
    (),
    output_field=BooleanField(),
)


def replayable() -> Q:
    """The events that may be applied again, as a filter of `InboxEvent`."""
    versioned = Q()
    for prefix in VERSIONED_TOPICS:
        versioned |= Q(topic__startswith=prefix)
    return (Q(state__in=REPLAYABLE) | (Q(state=EventState.APPLIED) & versioned)) & Q(_BODY_IS_KEPT)


def may_replay(event: InboxEvent) -> bool:
    """Whether this one may be applied again."""
    return InboxEvent.objects.filter(replayable(), pk=event.pk).exists()


@transaction.atomic
def replay(*, ids: Collection[int], user: User | None, now: datetime) -> int:
    """Make those of these events pending again that may be; returns how many were."""
    events = list(InboxEvent.objects.select_for_update(of=("self",)).filter(replayable(), pk__in=ids).order_by("pk"))
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
