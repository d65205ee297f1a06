"""How a channel does: whether it answers, what is left of its budget, what its calls came to, its outages. Reads only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import redis
from django.db.models import Q, Sum

from channels import connect
from channels.models import CallHour, Channel, Outage
from channels.urgency import Urgency

OUTAGES_SHOWN: Final = 20

URGENCY_WORDS: Final = {
    Urgency.LOWER: "Decreases, orders of events",
    Urgency.RAISE: "Raises",
    Urgency.SUSPECT: "Reads of suspects",
    Urgency.BACKGROUND: "Reconciliation, full passes",
}


@dataclass(frozen=True, slots=True)
class Calls:
    """What became of the calls of one class within some hours."""

    urgency: str
    calls: int
    cost: float
    throttled: int
    paced: int
    rested: int
    unanswered: int
    server_errors: int
    waited_seconds: float


@dataclass(frozen=True, slots=True)
class Condition:
    """A channel's state at one moment. What Redis knows is None while it is away."""

    breaker: str | None  # closed, open, half_open
    reason: str
    next_probe_seconds: float | None
    failing_since: datetime | None
    next_call_at: datetime
    budget_left: float | None
    budget_capacity: float | None
    budget_per_second: float | None
    blocked_seconds: float | None
    #: Of this hour and the one before, by class.
    calls: tuple[Calls, ...]
    #: Seconds away in the past day.
    away_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def condition_of(channel: Channel, *, now: datetime) -> Condition:
    """Look at a channel."""
    breaker, reason, next_probe_seconds = None, channel.last_error, None
    left = capacity = rate = blocked = None
    try:
        standing, budget = connect.standing_of(channel), connect.budget_of(channel)
    except redis.RedisError:
        pass
    else:
        breaker = str(standing.state)
        if standing.has_opened:
            reason, next_probe_seconds = standing.reason, round(standing.left_seconds, 1)
        left, capacity = round(budget.level, 1), budget.capacity
        rate, blocked = budget.rate_per_second, round(budget.blocked_seconds, 1)
    return Condition(
        breaker=breaker,
        reason=reason,
        next_probe_seconds=next_probe_seconds,
        failing_since=channel.failing_since,
        next_call_at=channel.next_call_at,
        budget_left=left,
        budget_capacity=capacity,
        budget_per_second=rate,
        blocked_seconds=blocked,
        calls=_calls(channel, now),
        away_seconds=away_seconds(channel, since=now - timedelta(days=1), until=now),
    )


def away_seconds(channel: Channel, *, since: datetime, until: datetime) -> float:
    """For how long the channel was in outage between two moments."""
    within = Outage.objects.filter(
        Q(ended_at__isnull=True) | Q(ended_at__gt=since), channel=channel, began_at__lt=until
    )
    spans = within.values_list("began_at", "ended_at")
    return sum((min(until, ended or until) - max(since, began)).total_seconds() for began, ended in spans)


def outages_of(channel: Channel) -> list[Outage]:
    """The latest outages, newest first."""
    return list(Outage.objects.filter(channel=channel).order_by("-began_at")[:OUTAGES_SHOWN])


def _calls(channel: Channel, now: datetime) -> tuple[Calls, ...]:
    hour = now.replace(minute=0, second=0, microsecond=0)
    columns = ("calls", "cost", "throttled", "paced", "rested", "unanswered", "server_errors", "waited_seconds")
    sums = {f"sum_{column}": Sum(column) for column in columns}
    recent = CallHour.objects.filter(channel=channel, hour__gte=hour - timedelta(hours=1))
    rows = recent.values("urgency").order_by("urgency").annotate(**sums).values_list("urgency", *sums)
    return tuple(Calls(Urgency(urgent).name.lower(), *counts) for urgent, *counts in rows)
