"""Telling people and their systems what is wrong, without a storm.

- What is to be told is a row per target, written in the transaction of what it tells of. Nobody is waited for.
- Several things told within a minute go out as one message. A message is committed before it is sent, under an id that it
  keeps until it is taken: it is at-least-once.
- A target gets so many messages an hour; what is beyond waits for the next one, which says how much more there is. A
  critical alert is told whatever the hour, but no more often than once a minute, together with all that waits.
- Each target is told by itself, under a lease and within a time limit: one that hangs holds up nobody.
- A target that does not take its message is tried again after 15 seconds, then ever more seldom up to half an hour; at
  once when somebody has changed it, or a test was taken. After a day its message is given up and what came since is told in
  its place. A target that says 410 is switched off.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from merchants import mail, posting, sealing, trail, wording
from merchants.models import (
    MessageState,
    NoticeKind,
    Notification,
    NotificationMessage,
    NotificationTarget,
    Severity,
    TargetState,
    TargetWay,
    User,
)
from merchants.posting import PostAnswer
from merchants.quiet_hours import is_quiet
from synctec.lib import sql
from synctec.lib.backoff import redelivery_seconds
from synctec.lib.crypto import CryptoError
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)

#: What is told within this time goes out together.
GATHER: Final = timedelta(seconds=60)
#: Nobody else tries for so long; longer than an attempt can take.
LEASE: Final = timedelta(seconds=60)
#: The pauses between attempts.
RETRY_SECONDS: Final = (15, 60, 300, 900, 1_800)
#: A message that nobody took for so long is given up.
GIVE_UP_AFTER: Final = timedelta(hours=24)
HOUR: Final = timedelta(hours=1)
#: Things one message stands for at most.
_TOLD_AT_ONCE: Final = 1_000
_LOGGED_ATTEMPTS: Final = 20
#: Settled messages are kept so long, for people to look at.
KEPT_FOR: Final = timedelta(days=30)
_FORGOTTEN_AT_ONCE: Final = 5_000
#: The page that shows all of it.
ALERTS_PATH: Final = "/alerts/"

#: Called after a commit that left something to tell; filled where the tasks are known.
on_told: list[Callable[[], object]] = []


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. The same key is told a target once."""

    kind: NoticeKind
    severity: Severity
    key: str
    title: str
    text: str = ""
    path: str = ALERTS_PATH
    is_recovery: bool = False


def tell(
    merchant_id: int | None, notice: Notice, *, now: datetime, follows: str = "", not_to: int | None = None
) -> int:
    """Have everybody told who wants to hear of it, in the caller's transaction; how many targets those are.

    Without a merchant it is about the installation: told to those who want to hear of it; where there are none, to all.
    `follows`: only to targets that were told something whose key begins so. `not_to`: a target that would not get it.
    """
    targets = NotificationTarget.objects.filter(
        Q(member=None) | Q(member__user__is_active=True), state=TargetState.ACTIVE, merchant__is_active=True
    )
    if not_to is not None:
        targets = targets.exclude(pk=not_to)
    if merchant_id is not None:
        targets = targets.filter(merchant_id=merchant_id, kinds__contains=[notice.kind])
    elif (of_machine := targets.filter(kinds__contains=[NoticeKind.MACHINE])).exists():
        targets = of_machine
    if follows:
        before = Notification.objects.filter(target=OuterRef("pk"), key__startswith=follows)
        targets = targets.filter(Exists(before))
    ranks = list(Severity)
    hearers = [t for t in targets if ranks.index(Severity(t.minimum_severity)) <= ranks.index(notice.severity)]
    Notification.objects.bulk_create(
        [
            Notification(
                merchant_id=target.merchant_id,
                target=target,
                key=notice.key,
                severity=notice.severity,
                is_recovery=notice.is_recovery,
                title=notice.title[:200],
                text=notice.text,
                path=notice.path,
                created_at=now,
            )
            for target in hearers
        ],
        ignore_conflicts=True,
    )
    if hearers:
        transaction.on_commit(_ring)
    return len(hearers)


def _ring() -> None:
    for ring in on_told:
        ring()


# --- whose turn it is ---------------------------------------------------------------------------------------


def due(now: datetime, *, late_by: timedelta = timedelta(0)) -> list[int]:
    """The targets to be told something now; with `late_by` those that should have been told that long ago."""
    waiting = Notification.objects.filter(target=OuterRef("pk"), message=None)
    opened = NotificationMessage.objects.filter(target=OuterRef("pk"), state=MessageState.OPEN, is_test=False)
    targets = (
        NotificationTarget.objects.filter(state=TargetState.ACTIVE, next_attempt_at__lte=now - late_by)
        .annotate(has_open=Exists(opened))
        .filter(Q(has_open=True) | Exists(waiting))
        .select_related("merchant")
        .order_by("next_attempt_at")
    )
    return [target.pk for target in targets if target.has_open or _is_ready(target, now - late_by)]


def _is_ready(target: NotificationTarget, now: datetime) -> bool:
    """Whether what waits for a target is to go out: gathered, within its hour, and not in its quiet hours."""
    waiting = Notification.objects.filter(target=target, message=None, created_at__lte=now)
    is_urgent = waiting.filter(severity=Severity.CRITICAL, is_recovery=False).exists()
    messages = NotificationMessage.objects.filter(target=target, is_test=False)
    if messages.filter(created_at__gt=now - GATHER).exists():
        return False
    if is_urgent:
        return True
    oldest = waiting.order_by("pk").first()
    if oldest is None or now < oldest.created_at + GATHER:
        return False
    if is_quiet(target.quiet_from, target.quiet_until, now, target.merchant.timezone):
        return False
    return messages.filter(created_at__gt=now - HOUR).count() < target.hourly_max


def try_again(target_ids: Collection[int], *, now: datetime) -> int:
    """Have those of the targets that fail tried at once, since somebody has mended them; in the caller's transaction.

    An attempt that is under way was begun before that: it has nothing to say any more.
    """
    failing = NotificationTarget.objects.filter(
        pk__in=target_ids, state=TargetState.ACTIVE, failing_since__isnull=False
    )
    mended = failing.update(failures=0, next_attempt_at=now, lease=None)
    if mended:
        transaction.on_commit(_ring)
    return mended


# --- an attempt ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A message about to be sent, committed with its lease."""

    target: NotificationTarget
    message: NotificationMessage


def deliver(target_id: int, *, now: Callable[[], datetime], rng: random.Random) -> PostAnswer | None:
    """Make one attempt, if it is the target's turn; what came of it. It takes 20 seconds at most.

    Must not be called inside a transaction: what is sent has been committed.
    """
    attempt = _claim(target_id, now())
    if attempt is None:
        return None
    began = time.monotonic()
    answer = _send(attempt.target, attempt.message, now())
    _settle(attempt, answer, now(), rng, seconds=time.monotonic() - began)
    return answer


def _claim(target_id: int, now: datetime) -> _Attempt | None:
    """Take the lease and compose the message, or find that there is nothing to tell."""
    with transaction.atomic(durable=True):
        target = (
            NotificationTarget.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
            .select_related("merchant", "member__user")
            .filter(pk=target_id, state=TargetState.ACTIVE, next_attempt_at__lte=now)
            .first()
        )
        message = None if target is None else _open_message(target, now) or _compose(target, now)
        if target is None or message is None:
            return None
        target.lease, target.next_attempt_at = uuid7(), now + LEASE
        target.save(update_fields=["lease", "next_attempt_at"])
    return _Attempt(target, message)


def _open_message(target: NotificationTarget, now: datetime) -> NotificationMessage | None:
    """The message that is on its way, if it is still worth sending."""
    message = NotificationMessage.objects.filter(target=target, state=MessageState.OPEN, is_test=False).first()
    if message is None or now - message.created_at < GIVE_UP_AFTER:
        return message
    message.state, message.settled_at = MessageState.FAILED, now
    message.save(update_fields=["state", "settled_at"])
    return None


def _compose(target: NotificationTarget, now: datetime) -> NotificationMessage | None:
    """A message of all that waits; None when nothing is to go out yet."""
    if not _is_ready(target, now):
        return None
    waiting = list(Notification.objects.filter(target=target, message=None).order_by("pk")[:_TOLD_AT_ONCE])
    items = [
        wording.Item(notice.severity, notice.is_recovery, notice.title, notice.text, settings.PUBLIC_URL + notice.path)
        for notice in waiting
    ]
    content = wording.compose(items, merchant=target.merchant.name, url=settings.PUBLIC_URL + ALERTS_PATH)
    message = NotificationMessage.objects.create(
        merchant_id=target.merchant_id,
        target=target,
        message_id=f"msg_{uuid7().hex}",
        subject=wording.subject(content),
        content=content,
        severity=max((notice.severity for notice in waiting), key=lambda said: list(Severity).index(Severity(said))),
        created_at=now,
    )
    Notification.objects.filter(pk__in=[notice.pk for notice in waiting]).update(message=message)
    return message


def _send(target: NotificationTarget, message: NotificationMessage, now: datetime) -> PostAnswer:
    """Send a message its target's way. Whatever goes wrong is an answer."""
    try:
        if target.way == TargetWay.SLACK:
            address = sealing.unseal(target, "address").reveal()
            return posting.post(address, wording.as_slack(message.content), headers={}, now=now)
        if target.way == TargetWay.WEBHOOK:
            body = wording.as_webhook(message.content, at=message.created_at.isoformat(), is_test=message.is_test)
            secrets = [sealing.unseal(target, "secret")]
            return posting.post_signed(target.address, body, message_id=message.message_id, secrets=secrets, now=now)
        mail.send(
            [address_of(target)],
            subject=message.subject,
            text=wording.as_text(message.content),
            message_id=message.message_id,
        )
    except CryptoError as error:
        return PostAnswer(False, f"The secret does not open: {error}")
    except mail.MailNotSent as error:
        return PostAnswer(False, str(error))
    return PostAnswer(True, "taken by the mail server")


def address_of(target: NotificationTarget) -> str:
    """Where a target of e-mail is written to: a member at the address they sign in with."""
    return target.member.user.email if target.member else target.address


def _settle(attempt: _Attempt, answer: PostAnswer, now: datetime, rng: random.Random, *, seconds: float) -> bool:
    """Write down what came of it; False when the lease was lost meanwhile."""
    with transaction.atomic(durable=True):
        target = (
            NotificationTarget.objects.select_for_update(no_key=True)
            .filter(pk=attempt.target.pk, lease=attempt.target.lease)
            .first()
        )
        if target is None:
            return False
        _note_answer(attempt.message, answer, now, seconds)
        target.lease = None
        if answer.is_acknowledged:
            _note_success(target, now)
        else:
            _note_failure(target, answer, now, rng)
        target.save()
    return True


def _note_answer(message: NotificationMessage, answer: PostAnswer, now: datetime, seconds: float) -> None:
    message.attempts += 1
    message.answer = answer.says[:300]
    tried = {"at": now.isoformat(), "answer": message.answer, "seconds": round(seconds, 2)}
    message.log = [*message.log, tried][-_LOGGED_ATTEMPTS:]
    if answer.is_acknowledged:
        message.state, message.settled_at = MessageState.SENT, now
    message.save(update_fields=["state", "settled_at", "attempts", "answer", "log"])


def _note_success(target: NotificationTarget, now: datetime) -> None:
    target.failures, target.failing_since = 0, None
    target.last_delivered_at = target.next_attempt_at = now


def _note_failure(target: NotificationTarget, answer: PostAnswer, now: datetime, rng: random.Random) -> None:
    """Try again later; or, where there is nobody any more, never."""
    target.failures += 1
    target.failing_since = target.failing_since or now
    pause = timedelta(seconds=redelivery_seconds(target.failures, rng, schedule=RETRY_SECONDS))
    target.next_attempt_at = now + max(pause, answer.retry_after)
    log.warning("notice.not_taken", target_id=target.pk, merchant_id=target.merchant_id, answer=answer.says)
    if answer.is_gone:
        target.state, target.state_reason = TargetState.GONE, "It said that it is gone for good (410)."
        trail.record(
            merchant_id=target.merchant_id,
            action="notificationtarget.give_up",
            subject=target,
            after={"state": target.state},
            reason=target.state_reason,
        )


# --- trying it out ------------------------------------------------------------------------------------------


def send_test(target: NotificationTarget, *, user: User | None, now: Callable[[], datetime]) -> PostAnswer:
    """Send a test message at once and say what really came of it. It counts for nothing else, unless it is taken."""
    item = wording.Item(Severity.INFO, False, "This is a test", f"{target.name} is told of alerts from SyncTec here.")
    content = wording.compose([item], merchant=target.merchant.name, url=settings.PUBLIC_URL + ALERTS_PATH)
    message = NotificationMessage.objects.create(
        merchant_id=target.merchant_id,
        target=target,
        message_id=f"msg_{uuid7().hex}",
        subject=wording.subject(content),
        content=content,
        severity=Severity.INFO,
        is_test=True,
        created_at=now(),
    )
    began = time.monotonic()
    answer = _send(target, message, now())
    with transaction.atomic():
        _note_answer(message, answer, now(), time.monotonic() - began)
        if not answer.is_acknowledged:
            message.state, message.settled_at = MessageState.FAILED, now()
            message.save(update_fields=["state", "settled_at"])
        elif try_again([target.pk], now=now()):
            NotificationTarget.objects.filter(pk=target.pk).update(failing_since=None)
        trail.record(
            merchant_id=target.merchant_id,
            action="notificationtarget.test",
            subject=target,
            user=user,
            after={"answer": answer.says[:300]},
        )
    return answer


def forget_old(*, now: datetime) -> int:
    """Delete settled messages nobody will look for any more, with what they told, so many at a time; returns how many."""
    old = sql.rows(
        """
        SELECT id FROM merchants_notificationmessage WHERE state <> 'open' AND created_at < %s
        ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        [now - KEPT_FOR, _FORGOTTEN_AT_ONCE],
    )
    deleted, _ = NotificationMessage.objects.filter(pk__in=[pk for (pk,) in old]).delete()
    return deleted
