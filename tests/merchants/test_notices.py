"""Telling people: gathered, counted, quiet at night, tried again, and never twice the same."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.core import mail as outbox
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from merchants import mail, notices, targets, wording
from merchants.models import (
    AuditEvent,
    Member,
    Merchant,
    MessageState,
    NoticeKind,
    Notification,
    NotificationMessage,
    NotificationTarget,
    Role,
    Severity,
    TargetState,
    TargetWay,
    User,
)
from merchants.notices import GATHER, Notice
from merchants.posting import PostAnswer
from merchants.quiet_hours import is_quiet
from merchants.targets import Wishes
from synctec.lib.http import AddressRule, GuardedSession, Limits
from synctec.lib.signing import sign_webhook
from tests.factories import NOON, later
from tests.merchants.receivers import Receiver, receiving

pytestmark = pytest.mark.django_db

EVERYTHING = Wishes(minimum_severity=Severity.INFO, kinds=NoticeKind.values)


@pytest.fixture
def alder() -> Merchant:
    return Merchant.objects.create(name="Alder", slug="alder")


@pytest.fixture
def mail_server(settings: Any) -> None:
    settings.EMAIL_HOST = "mail.test"


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    with receiving(settings) as known:
        yield known


def target_of(
    merchant: Merchant,
    *,
    way: str = TargetWay.EMAIL,
    address: str = "shop@alder.test",
    name: str = "Shop",
    wishes: Wishes = EVERYTHING,
) -> NotificationTarget:
    target, _ = targets.create(merchant=merchant, name=name, way=way, address=address, wishes=wishes, user=None)
    NotificationTarget.objects.filter(pk=target.pk).update(next_attempt_at=NOON)
    return target


def tell(
    merchant: Merchant | None,
    title: str,
    *,
    at: float = 0,
    severity: Severity = Severity.WARNING,
    kind: NoticeKind = NoticeKind.SYNC,
    **more: Any,
) -> int:
    notice = Notice(kind=kind, severity=severity, key=title, title=title, text="Do this.", **more)
    return notices.tell(merchant.pk if merchant else None, notice, now=later(at))


def run(*, at: float) -> list[str]:
    """Tell all whose turn it is, as the tasks do; what came of it."""
    said = []
    for target_id in notices.due(later(at)):
        answer = notices.deliver(target_id, now=lambda: later(at), rng=random.Random(1))
        said.append(answer.says if answer else "")
    return said


@pytest.mark.usefixtures("mail_server")
class TestGathering:
    def test_what_is_told_within_a_minute_is_one_message(self, alder: Merchant) -> None:
        target_of(alder)
        for second in range(0, 50, 10):
            tell(alder, f"Thing {second}", at=second)
            assert run(at=second) == []

        assert run(at=60) == ["taken by the mail server"]
        assert len(outbox.outbox) == 1
        assert outbox.outbox[0].subject == "[Alder] ▲ Warning: Thing 0 and 4 more"
        assert all(f"Thing {second}" in outbox.outbox[0].body for second in range(0, 50, 10))

    def test_a_critical_one_goes_at_once_with_all_that_waits(self, alder: Merchant) -> None:
        target_of(alder)
        tell(alder, "Small", at=0)
        tell(alder, "Grave", at=5, severity=Severity.CRITICAL)

        assert len(run(at=5)) == 1
        assert outbox.outbox[0].subject == "[Alder] ◆ Critical: Grave and 1 more"

    def test_but_there_is_no_more_than_a_message_a_minute(self, alder: Merchant) -> None:
        target_of(alder)
        for second in range(60):
            tell(alder, f"Grave {second}", at=second, severity=Severity.CRITICAL)
            run(at=second)

        assert len(outbox.outbox) == 1
        assert len(run(at=60)) == 1
        assert "and 39 more." in outbox.outbox[1].body

    def test_a_thing_is_told_once(self, alder: Merchant) -> None:
        target_of(alder)
        tell(alder, "Thing")
        tell(alder, "Thing", at=10)
        run(at=60)
        tell(alder, "Thing", at=100)

        assert run(at=1000) == []
        assert outbox.outbox[0].subject == "[Alder] ▲ Warning: Thing"

    def test_an_hour_has_so_many_messages_and_the_rest_comes_together(self, alder: Merchant) -> None:
        target_of(alder, wishes=Wishes(kinds=NoticeKind.values, hourly_max=3))
        for second in range(0, 3600, 30):
            tell(alder, f"Thing {second}", at=second)
            run(at=second)

        assert len(outbox.outbox) == 3
        tell(alder, "Grave", at=3590, severity=Severity.CRITICAL)
        assert len(run(at=3590)) == 1
        assert "◆ Critical: Grave" in outbox.outbox[3].subject
        assert "more." in outbox.outbox[3].body

    def test_in_quiet_hours_only_critical_things_are_told(self, alder: Merchant) -> None:
        Merchant.objects.update(timezone="Europe/Berlin")
        target_of(alder, wishes=Wishes(kinds=NoticeKind.values, quiet_from=time(22), quiet_until=time(7)))
        night = (datetime(2026, 11, 20, 21, 30, tzinfo=UTC) - NOON).total_seconds()  # half past ten in Berlin
        tell(alder, "Small", at=night)

        assert run(at=night + 600) == []
        tell(alder, "Grave", at=night + 700, severity=Severity.CRITICAL)
        assert len(run(at=night + 700)) == 1
        tell(alder, "Small too", at=night + 800)
        assert run(at=night + 7 * 3600) == []
        assert len(run(at=night + 9 * 3600)) == 1
        assert [letter.subject for letter in outbox.outbox] == [
            "[Alder] ◆ Critical: Grave and 1 more",
            "[Alder] ▲ Warning: Small too",
        ]


class TestWhoIsTold:
    def test_only_of_what_it_wants_to_hear(self, alder: Merchant) -> None:
        target_of(alder, wishes=Wishes(minimum_severity=Severity.CRITICAL, kinds=[NoticeKind.STOCK]))

        assert tell(alder, "a", severity=Severity.WARNING, kind=NoticeKind.STOCK) == 0
        assert tell(alder, "b", severity=Severity.CRITICAL, kind=NoticeKind.SYNC) == 0
        assert tell(alder, "c", severity=Severity.CRITICAL, kind=NoticeKind.STOCK) == 1

    def test_nobody_hears_of_another_merchant(self, alder: Merchant) -> None:
        target_of(Merchant.objects.create(name="Birch", slug="birch"))

        assert tell(alder, "Thing") == 0

    def test_of_the_installation_hear_those_who_asked_and_else_everybody(self, alder: Merchant) -> None:
        birch = Merchant.objects.create(name="Birch", slug="birch")
        usual = Wishes()
        target_of(alder, wishes=usual)
        target_of(birch, wishes=usual)
        assert tell(None, "Beat", kind=NoticeKind.MACHINE) == 2

        target_of(birch, name="Operator", wishes=EVERYTHING)
        assert tell(None, "Workers", kind=NoticeKind.MACHINE) == 1

    def test_of_a_recovery_only_those_who_heard_of_the_trouble(self, alder: Merchant) -> None:
        early = target_of(alder)
        tell(alder, "alert 7 1")
        target_of(alder, name="Late")
        notice = Notice(NoticeKind.SYNC, Severity.WARNING, "alert 7 recovered", "Over", is_recovery=True)

        assert notices.tell(alder.pk, notice, now=later(100), follows="alert 7 ") == 1
        assert Notification.objects.get(is_recovery=True).target == early

    def test_not_a_person_who_may_not_sign_in_any_more(self, alder: Merchant) -> None:
        user = User.objects.create_user(username="m", email="m@alder.test", password="x")
        member = Member.objects.create(merchant=alder, user=user, role=Role.MANAGER)
        targets.tell_member(member, wishes=EVERYTHING, user=user, now=NOON)
        assert tell(alder, "a") == 1

        User.objects.update(is_active=False)
        assert tell(alder, "b") == 0


class TestFailing:
    def test_a_message_is_committed_before_it_is_sent_and_keeps_its_id(
        self, alder: Merchant, receiver: Receiver
    ) -> None:
        target_of(alder, way=TargetWay.WEBHOOK, address=receiver.url)
        receiver.answers = [500, 204]
        tell(alder, "Thing")

        assert run(at=60) == ["answered 500"]
        message = NotificationMessage.objects.get()
        assert (message.state, message.attempts, message.answer) == (MessageState.OPEN, 1, "answered 500")
        assert run(at=62) == []
        assert run(at=80) == ["answered 204"]
        (first, first_body), (second, second_body) = receiver.got
        assert first["webhook-id"] == second["webhook-id"] == message.message_id
        assert first_body == second_body
        message.refresh_from_db()
        assert (message.state, len(message.log)) == (MessageState.SENT, 2)

    def test_what_is_posted_is_signed(self, alder: Merchant, receiver: Receiver) -> None:
        target, secret = targets.create(
            merchant=alder, name="W", way=TargetWay.WEBHOOK, address=receiver.url, wishes=EVERYTHING, user=None
        )
        assert secret is not None
        assert notices.send_test(target, user=None, now=timezone.now).is_acknowledged

        headers, body = receiver.got[0]
        signature = sign_webhook(
            message_id=headers["webhook-id"], timestamp=int(headers["webhook-timestamp"]), body=body, keys=[secret]
        )
        assert headers["webhook-signature"] == signature
        assert json.loads(body)["type"] == "alerts.test"

    def test_a_mail_server_that_is_down_is_noticed_and_tried_again(self, alder: Merchant, settings: Any) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
            settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_USE_TLS = (
                "127.0.0.1",
                taken.getsockname()[1],
                False,
            )
            target = target_of(alder)
            tell(alder, "Thing")
            assert run(at=60) == ["The mail server did not take it: ConnectionRefusedError"]

        target.refresh_from_db()
        assert (target.failures, target.failing_since) == (1, later(60))
        settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
        assert run(at=80) == ["taken by the mail server"]
        target.refresh_from_db()
        assert (target.failures, target.failing_since, target.last_delivered_at) == (0, None, later(80))

    def test_without_a_mail_server_it_says_what_to_set(self, alder: Merchant) -> None:
        target_of(alder)
        tell(alder, "Thing")

        assert run(at=60) == ["No mail server is set. Set EMAIL_HOST."]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("mail_server")
    def test_one_that_hangs_is_cut_off_and_holds_nobody_up(
        self, alder: Merchant, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with receiving(settings, hangs=True) as hanging:
            limits = Limits(read_timeout_seconds=2.0, deadline_seconds=2.0)
            session = GuardedSession(AddressRule.exact_origin(hanging.origin), limits=limits)
            monkeypatch.setattr("merchants.posting._session", lambda _: session)
            slack = target_of(alder, way=TargetWay.SLACK, address=hanging.url, name="Slack")
            target_of(alder)
            tell(alder, "Thing")
            deliverer = threading.Thread(target=_deliver, args=(slack.pk,))
            deliverer.start()
            assert hanging.arrived.wait(10)

            # While it hangs its lease keeps others away, and the letter goes.
            assert run(at=61) == ["taken by the mail server"]
            deliverer.join()

        slack.refresh_from_db()
        assert slack.failures == 1
        assert NotificationMessage.objects.get(target=slack).state == MessageState.OPEN

    def test_what_nobody_took_for_a_day_makes_room_for_what_came_since(
        self, alder: Merchant, receiver: Receiver
    ) -> None:
        target_of(alder, way=TargetWay.SLACK, address=receiver.url)
        receiver.answers = [500] * 100
        tell(alder, "Old")
        second = 60.0
        while second < 24 * 3600:
            run(at=second)
            second += 1800 * 1.2
        tell(alder, "New", at=second)
        receiver.answers = []

        run(at=second + 3600)

        assert [message.state for message in NotificationMessage.objects.order_by("pk")] == [
            MessageState.FAILED,
            MessageState.SENT,
        ]
        assert b"New" in receiver.got[-1][1]
        # Tried about every half hour.
        assert len(receiver.got) < 60

    def test_one_that_says_it_is_gone_is_switched_off(self, alder: Merchant, receiver: Receiver) -> None:
        target = target_of(alder, way=TargetWay.SLACK, address=receiver.url)
        receiver.answers = [410]
        tell(alder, "Thing")
        run(at=60)

        target.refresh_from_db()
        assert target.state == TargetState.GONE
        assert AuditEvent.objects.filter(action="notificationtarget.give_up").exists()
        assert tell(alder, "Another", at=100) == 0

    @pytest.mark.parametrize("mend", ["a change", "a new secret", "a test that was taken"])
    def test_one_that_was_mended_is_tried_at_once(self, alder: Merchant, receiver: Receiver, mend: str) -> None:
        target = target_of(alder, way=TargetWay.WEBHOOK, address=receiver.url)
        receiver.answers = [500] * 6
        tell(alder, "Thing")
        for second in (60, 80, 150, 460, 1400):
            run(at=second)
        target.refresh_from_db()
        assert target.failures == 5
        assert run(at=1500) == []
        receiver.answers = []

        match mend:
            case "a change":
                targets.change(target, wishes=EVERYTHING, user=None, now=later(1500))
            case "a new secret":
                targets.renew_secret(target, user=None, now=later(1500))
            case _:
                notices.send_test(target, user=None, now=lambda: later(1500))

        assert run(at=1500) == ["answered 204"]
        target.refresh_from_db()
        assert (target.failures, target.failing_since) == (0, None)

    def test_one_that_was_mended_while_it_was_being_tried_is_tried_again(self, alder: Merchant) -> None:
        target = target_of(alder)
        tell(alder, "Thing")
        run(at=60)
        attempt = notices._claim(target.pk, later(80))
        assert attempt is not None

        targets.change(target, wishes=EVERYTHING, user=None, now=later(81))

        assert not notices._settle(attempt, PostAnswer(False, "no"), later(82), random.Random(1), seconds=2)
        assert notices.due(later(82)) == [target.pk]

    def test_a_test_that_was_not_taken_and_one_that_is_switched_off_change_nothing(
        self, alder: Merchant, receiver: Receiver
    ) -> None:
        target = target_of(alder, way=TargetWay.SLACK, address=receiver.url)
        receiver.answers = [500] * 3
        tell(alder, "Thing")
        run(at=60)
        target.refresh_from_db()
        due_at = target.next_attempt_at

        notices.send_test(target, user=None, now=lambda: later(61))
        target.refresh_from_db()
        assert (target.next_attempt_at, target.failures) == (due_at, 1)
        targets.switch_off(target, user=None)
        assert notices.try_again([target.pk], now=later(62)) == 0

    def test_a_lease_that_was_lost_settles_nothing(self, alder: Merchant) -> None:
        target = target_of(alder)
        tell(alder, "Thing")
        attempt = notices._claim(target.pk, later(60))
        assert attempt is not None
        again = notices._claim(target.pk, later(60 + 61))
        assert again is not None
        assert again.message == attempt.message

        late = notices._settle(attempt, PostAnswer(False, "too late"), later(125), random.Random(1), seconds=1)

        assert late is False
        assert NotificationMessage.objects.get().attempts == 0


def _deliver(target_id: int) -> None:
    try:
        notices.deliver(target_id, now=lambda: later(60), rng=random.Random(1))
    finally:
        connection.close()


class TestTargets:
    @pytest.mark.parametrize(
        ("way", "address", "field"),
        [
            (TargetWay.EMAIL, "nobody", "address"),
            (TargetWay.EMAIL, "a@b.test\nBcc: c@d.test", "address"),
            (TargetWay.SLACK, "http://hooks.slack.test/x", "address"),
            (TargetWay.WEBHOOK, "https://127.0.0.1/x", "address"),
            (TargetWay.WEBHOOK, "https://u:p@hooks.test/x", "address"),
        ],
    )
    def test_an_address_that_cannot_be_is_refused(self, alder: Merchant, way: str, address: str, field: str) -> None:
        with pytest.raises(targets.TargetRefused) as refused:
            targets.create(merchant=alder, name="x", way=way, address=address, wishes=EVERYTHING, user=None)

        assert refused.value.field == field
        assert not NotificationTarget.objects.exists()

    def test_the_address_of_a_slack_channel_is_kept_secret(self, alder: Merchant) -> None:
        url = "https://hooks.slack.com/services/T000/B000/canarycanary"
        target, secret = targets.create(
            merchant=alder, name="x", way=TargetWay.SLACK, address=url, wishes=EVERYTHING, user=None
        )

        assert secret is None
        assert target.address == "https://hooks.slack.com/…nary"
        assert "canarycanary" not in str(NotificationTarget.objects.values().get())
        assert "canarycanary" not in str(list(AuditEvent.objects.values()))
        assert targets.reseal_all() == (0, [])

    @pytest.mark.usefixtures("mail_server")
    def test_what_waited_is_old_news_once_it_is_switched_on_again(self, alder: Merchant) -> None:
        target = target_of(alder)
        tell(alder, "Old")
        targets.switch_off(target, user=None)
        assert run(at=60) == []

        targets.switch_on(target, user=None, now=later(100))
        tell(alder, "New", at=100)
        run(at=200)

        assert [letter.subject for letter in outbox.outbox] == ["[Alder] ▲ Warning: New"]

    @pytest.mark.usefixtures("mail_server")
    def test_old_messages_are_forgotten_with_what_they_told(self, alder: Merchant) -> None:
        target_of(alder)
        tell(alder, "Thing")
        run(at=60)

        assert notices.forget_old(now=later(86_400)) == 0
        assert notices.forget_old(now=later(31 * 86_400)) > 0
        assert not Notification.objects.exists()


class TestWords:
    def test_nothing_in_a_title_becomes_a_mention_or_a_link(self) -> None:
        content = wording.compose(
            [wording.Item("warning", False, "<!channel> & <http://evil|here>")], merchant="A", url="http://x/"
        )

        text = json.loads(wording.as_slack(content))["text"]
        assert "<!channel>" not in text
        assert "<http://evil" not in text

    def test_many_things_are_counted(self) -> None:
        items = [wording.Item("info", False, f"Thing {number}") for number in range(1000)]
        items.append(wording.Item("critical", False, "Grave"))

        content = wording.compose(items, merchant="Alder", url="http://x/")

        assert wording.subject(content) == "[Alder] ◆ Critical: Grave and 1000 more"
        assert len(wording.as_text(content)) < 3000

    @pytest.mark.parametrize(
        ("start", "end", "hour", "quiet"),
        [
            (time(22), time(7), 23, True),
            (time(22), time(7), 6, True),
            (time(22), time(7), 7, False),
            (time(9), time(17), 9, True),
            (time(9), time(17), 17, False),
            (time(9), time(9), 9, False),
            (None, None, 9, False),
        ],
    )
    def test_quiet_hours(self, start: time | None, end: time | None, hour: int, quiet: bool) -> None:
        assert is_quiet(start, end, datetime(2026, 11, 20, hour, tzinfo=UTC), "UTC") is quiet


@pytest.mark.usefixtures("mail_server")
def test_a_letter_goes_to_each_of_a_merchants_people_of_a_role_and_above(alder: Merchant) -> None:
    for role in Role:
        user = User.objects.create_user(username=role, email=f"{role}@alder.test", password="x")
        Member.objects.create(merchant=alder, user=user, role=role)

    sent = mail.send_to_members(
        alder.pk, subject="Report\nBcc: x@y.test", text="Hello", attachments=[mail.Attachment("a.csv", "1,2")]
    )

    assert sent == 2
    assert [letter.to for letter in outbox.outbox] == [["manager@alder.test"], ["owner@alder.test"]]
    assert outbox.outbox[0].subject == "Report Bcc: x@y.test"


def test_tasks_wake_whoever_is_due(alder: Merchant, monkeypatch: pytest.MonkeyPatch) -> None:
    from merchants import tasks

    target = target_of(alder)
    NotificationTarget.objects.update(next_attempt_at=timezone.now() - timedelta(minutes=5))
    rung: list[int] = []
    monkeypatch.setattr(tasks.tell_target, "delay", rung.append)
    notice = Notice(NoticeKind.SYNC, Severity.WARNING, "k", "Thing")
    notices.tell(alder.pk, notice, now=timezone.now() - GATHER - timedelta(seconds=1))

    tasks.sweep_targets()
    tasks.sweep_targets()

    assert rung == [target.pk]


@pytest.mark.django_db(transaction=True)
def test_a_thousand_things_to_tell_are_one_ring(alder: Merchant, monkeypatch: pytest.MonkeyPatch) -> None:
    from merchants import tasks

    rung: list[str] = []
    monkeypatch.setattr(tasks.sweep_targets, "delay", lambda: rung.append("sweep"))
    target_of(alder)

    for number in range(100):
        tell(alder, f"Thing {number}")

    assert rung == ["sweep"]


@pytest.mark.django_db(transaction=True)
def test_who_mends_a_target_wakes_whoever_tells_it(
    alder: Merchant, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merchants import tasks

    rung: list[str] = []
    monkeypatch.setattr(tasks.sweep_targets, "delay", lambda: rung.append("sweep"))
    boss = User.objects.create_superuser(username="boss", email="boss@alder.test", password="x")
    person = User.objects.create_user(username="ann", email="an@alder.test", password="x")
    member = Member.objects.create(merchant=alder, user=person, role=Role.VIEWER)
    target = targets.tell_member(member, wishes=EVERYTHING, user=None, now=NOON)
    NotificationTarget.objects.update(
        failures=5, failing_since=NOON, next_attempt_at=timezone.now() + timedelta(hours=1)
    )
    client.force_login(boss)

    said = {"email": "ann@alder.test", "username": "ann", "is_active": "on"}
    client.post(reverse("admin:merchants_user_change", args=[person.pk]), said)

    target.refresh_from_db()
    assert (target.failures, target.next_attempt_at <= timezone.now()) == (0, True)
    assert rung == ["sweep"]
