"""What people do about alerts: say that they are at it, or that they want to hear nothing for a while."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Q

from merchants import trail
from merchants.models import ApiKey, User
from sync.models import Alert, AlertState

#: How long an alert can be put off.
SNOOZE_MAX: Final = timedelta(days=7)


class DeedRefused(ValueError):
    """What cannot be done to an alert; the text says why."""


@transaction.atomic
def acknowledge(
    alert_id: int,
    *,
    merchant_id: int | None,
    note: str,
    now: datetime,
    user: User | None,
    api_key: ApiKey | None = None,
) -> Alert:
    """Somebody is at it: it is not told again, unless it becomes critical. Its recovery is told.

    Raises:
        Alert.DoesNotExist: the merchant has no such alert (None: the installation).
        DeedRefused: it is over.
    """
    alert = _open(alert_id, merchant_id)
    before = {"state": alert.state}
    if alert.state != AlertState.ACKNOWLEDGED:
        alert.state, alert.acknowledged_at = AlertState.ACKNOWLEDGED, now
        alert.acknowledged_by, alert.acknowledged_with = user, api_key.prefix if api_key else ""
    alert.note = note[:500]
    alert.save()
    _record(alert, "acknowledge", user, api_key, before=before, after={"state": alert.state}, reason=alert.note)
    return alert


@transaction.atomic
def snooze(
    alert_id: int,
    *,
    merchant_id: int | None,
    until: datetime,
    now: datetime,
    user: User | None,
    api_key: ApiKey | None = None,
) -> Alert:
    """Tell nobody of it until then. If it is still there, it is told then.

    Raises:
        Alert.DoesNotExist: the merchant has no such alert (None: the installation).
        DeedRefused: it is over, or the time is in the past or more than a week away.
    """
    if not now < until <= now + SNOOZE_MAX:
        raise DeedRefused("Put it off until some time within the next seven days.")
    alert = _open(alert_id, merchant_id)
    before = {"snoozed_until": alert.snoozed_until.isoformat() if alert.snoozed_until else None}
    alert.snoozed_until = until
    alert.save()
    _record(alert, "snooze", user, api_key, before=before, after={"snoozed_until": until.isoformat()})
    return alert


def _open(alert_id: int, merchant_id: int | None) -> Alert:
    whose = Q(merchant=None) if merchant_id is None else Q(merchant_id=merchant_id)
    told = Alert.objects.filter(whose).exclude(state=AlertState.PENDING)
    alert = told.select_for_update(no_key=True).get(pk=alert_id)
    if alert.state == AlertState.RECOVERED:
        raise DeedRefused("This alert is over. There is nothing to do about it any more.")
    return alert


def _record(
    alert: Alert,
    deed: str,
    user: User | None,
    api_key: ApiKey | None,
    *,
    before: Mapping[str, str | None],
    after: Mapping[str, str | None],
    reason: str = "",
) -> None:
    """In the merchant's trail. An alert about the installation is nobody's: its own row says who did what."""
    if alert.merchant_id is not None:
        trail.record(
            merchant_id=alert.merchant_id,
            action=f"alert.{deed}",
            subject=alert,
            user=user,
            api_key=api_key,
            before=before,
            after=after,
            reason=reason,
        )
