"""Whom to tell when something is wrong: made, changed and switched by people.

Addresses that merchants type in are public https or an origin the operator named (`merchants.posting`). The address of an
incoming webhook is a secret: who has it can write into the channel. It is sealed, and only its host is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, time
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from merchants import notices, posting, sealing, trail
from merchants.models import (
    Member,
    Merchant,
    MessageState,
    NoticeKind,
    Notification,
    NotificationTarget,
    Severity,
    TargetState,
    TargetWay,
    User,
)
from synctec.lib.secret import Secret
from synctec.lib.signing import new_webhook_secret

#: What a merchant's target is told of unless somebody chooses otherwise.
USUAL_KINDS = (NoticeKind.STOCK, NoticeKind.SYNC, NoticeKind.CHANNELS)


class TargetRefused(ValueError):
    """An address or a choice that cannot be; the text says why, `field` where."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a target wants to hear, and when."""

    minimum_severity: str = Severity.WARNING
    kinds: Sequence[str] = USUAL_KINDS
    quiet_from: time | None = None
    quiet_until: time | None = None
    hourly_max: int = 12

    def check(self) -> None:
        """Raises TargetRefused."""
        if not self.kinds:
            raise TargetRefused("kinds", "Choose at least one thing to be told of, or switch the target off.")
        if (self.quiet_from is None) != (self.quiet_until is None):
            raise TargetRefused("quiet_until", "Give both ends of the quiet hours, or none.")
        if not 1 <= self.hourly_max <= 60:
            raise TargetRefused("hourly_max", "Give a number from 1 to 60.")


@transaction.atomic
def create(
    *, merchant: Merchant, name: str, way: str, address: str, wishes: Wishes, user: User | None
) -> tuple[NotificationTarget, Secret | None]:
    """A new target, and the secret that signs what is posted to it (for a signed webhook).

    Raises:
        TargetRefused: the name, the address or a wish.
    """
    wishes.check()
    if NotificationTarget.objects.filter(merchant=merchant, name=name).exists():
        raise TargetRefused("name", "There is a target of this name.")
    _check_address(way, address)
    target = NotificationTarget.objects.create(
        merchant=merchant, name=name, way=way, address=_shown(way, address), **_columns(wishes)
    )
    secret = None
    if way == TargetWay.SLACK:
        sealing.seal(target, "address", address)
    elif way == TargetWay.WEBHOOK:
        secret = new_webhook_secret()
        sealing.seal(target, "secret", secret)
    target.save(update_fields=["sealed_address", "sealed_secret"])
    _record(target, "create", user, after={"way": way, "address": target.address})
    return target, secret


@transaction.atomic
def tell_member(member: Member, *, wishes: Wishes, user: User | None, now: datetime) -> NotificationTarget:
    """Have a member told by e-mail, as they wish; again as they wish now. Raises TargetRefused."""
    wishes.check()
    target, is_new = NotificationTarget.objects.select_for_update().get_or_create(
        member=member,
        defaults={"merchant_id": member.merchant_id, "name": _name_of(member), "way": TargetWay.EMAIL}
        | _columns(wishes),
    )
    if is_new:
        _record(target, "create", user, after={"way": TargetWay.EMAIL})
        return target
    if target.state != TargetState.ACTIVE:
        target.state, target.state_reason, target.failing_since, target.failures = TargetState.ACTIVE, "", None, 0
        target.save()
    change(target, wishes=wishes, user=user, now=now)
    return target


def _name_of(member: Member) -> str:
    taken = set(NotificationTarget.objects.filter(merchant_id=member.merchant_id).values_list("name", flat=True))
    name = member.user.email[:80]
    return name if name not in taken else f"{name[:60]} ({member.pk})"


@transaction.atomic
def change(target: NotificationTarget, *, wishes: Wishes, user: User | None, now: datetime) -> None:
    """What it wants to hear, and when; one that fails is tried again at once. Raises TargetRefused."""
    wishes.check()
    locked = _lock(target)
    before, after = {name: getattr(locked, name) for name in _columns(wishes)}, _columns(wishes)
    for name, value in after.items():
        setattr(locked, name, value)
    locked.save(update_fields=list(after))
    notices.try_again([locked.pk], now=now)
    _record(locked, "change", user, before=_as_json(before), after=_as_json(after))


@transaction.atomic
def switch_off(target: NotificationTarget, *, user: User | None, reason: str = "") -> None:
    """Tell it nothing more, until it is switched on again."""
    locked = _lock(target)
    locked.state, locked.state_reason, locked.lease = TargetState.OFF, reason[:300], None
    locked.failures, locked.failing_since = 0, None
    locked.save()
    _record(locked, "switch_off", user, after={"state": locked.state}, reason=reason)


@transaction.atomic
def switch_on(target: NotificationTarget, *, user: User | None, now: datetime) -> None:
    """Tell it again, of what comes from now on: what waited for it is old news."""
    locked = _lock(target)
    Notification.objects.filter(target=locked, message=None).delete()
    locked.messages.filter(state=MessageState.OPEN).update(state=MessageState.FAILED, settled_at=now)
    locked.state, locked.state_reason, locked.lease = TargetState.ACTIVE, "", None
    locked.failures, locked.failing_since, locked.next_attempt_at = 0, None, now
    locked.save()
    _record(locked, "switch_on", user, after={"state": locked.state})


@transaction.atomic
def renew_secret(target: NotificationTarget, *, user: User | None, now: datetime) -> Secret:
    """A new secret for a signed webhook. The one before ends at once, and what was refused under it is sent again."""
    locked = _lock(target)
    assert locked.way == TargetWay.WEBHOOK, "only signed webhooks have a secret"
    secret = new_webhook_secret()
    sealing.seal(locked, "secret", secret)
    locked.save(update_fields=["sealed_secret"])
    notices.try_again([locked.pk], now=now)
    _record(locked, "renew_secret", user)
    return secret


def reseal_all() -> tuple[int, list[tuple[int, str]]]:
    """Seal every secret with the first key of the ring (see `merchants.sealing`)."""
    return sealing.reseal_all(NotificationTarget, ("address", "secret"))


def _check_address(way: str, address: str) -> None:
    """Raises TargetRefused for an address that this way cannot have."""
    if way == TargetWay.EMAIL:
        try:
            validate_email(address)
        except ValidationError:
            raise TargetRefused("address", "Give an e-mail address, such as shop@example.com.") from None
        return
    try:
        posting.check_url(address)
    except posting.PostRefused as refused:
        raise TargetRefused("address", str(refused)) from None


def _shown(way: str, address: str) -> str:
    """What people are shown of an address."""
    if way != TargetWay.SLACK:
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}/…{address[-4:]}"


def _columns(wishes: Wishes) -> dict[str, Any]:
    return asdict(wishes) | {"kinds": list(wishes.kinds)}


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, time) else value for name, value in values.items()}


def _lock(target: NotificationTarget) -> NotificationTarget:
    return NotificationTarget.objects.select_for_update(no_key=True).get(pk=target.pk)


def _record(
    target: NotificationTarget,
    deed: str,
    user: User | None,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    trail.record(
        merchant_id=target.merchant_id,
        action=f"notificationtarget.{deed}",
        subject=target,
        user=user,
        before=before,
        after=after,
        reason=reason,
    )
