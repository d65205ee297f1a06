"""The pages, the admin and the API of alerts: who sees what, and what they can do about it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail as outbox
from django.test import Client
from django.utils import timezone

from merchants import keys, notices, targets
from merchants.models import (
    AuditEvent,
    Member,
    Merchant,
    NoticeKind,
    NotificationMessage,
    NotificationTarget,
    Role,
    Scope,
    Severity,
    TargetState,
    TargetWay,
    User,
)
from merchants.targets import Wishes
from sync.models import Alert, AlertState, Heartbeat, RuleOverride
from tests.factories import NOON, Trade, later, make_trade
from tests.merchants.receivers import receiving

pytestmark = pytest.mark.django_db


@pytest.fixture
def trade() -> Trade:
    return make_trade()


def person_at(merchant: Merchant, role: Role, *, is_staff: bool = False, is_superuser: bool = False) -> Client:
    name = f"{role}{uuid.uuid4().hex[:6]}"
    user = User.objects.create_user(username=name, email=f"{name}@alder.test", password="x", is_staff=is_staff)
    User.objects.filter(pk=user.pk).update(is_superuser=is_superuser)
    Member.objects.create(merchant=merchant, user=user, role=role)
    client = Client()
    client.force_login(user)
    return client


def raised(merchant: Merchant | None, rule: str = "dead_letters", **more: Any) -> Alert:
    facts: dict[str, Any] = {
        "merchant": merchant,
        "rule": rule,
        "subject": f"channel:{uuid.uuid4()}",
        "severity": Severity.WARNING,
        "state": AlertState.FIRING,
        "title": f"{rule} of {merchant or 'us'}",
        "value": 3,
        "worst": 3,
        "since": NOON,
        "raised_at": NOON,
        "told_at": NOON,
    }
    return Alert.objects.create(**{**facts, **more})


class TestSeeing:
    def test_all_is_well(self, trade: Trade) -> None:
        page = person_at(trade.merchant, Role.VIEWER).get("/alerts/").content.decode()

        assert "Nothing is wrong" in page
        assert "Nobody is told of alerts" in page
        assert "Events or writes were given up" in page  # the rules

    def test_the_gravest_comes_first_and_what_follows_from_it_below(self, trade: Trade) -> None:
        raised(trade.merchant, title="Small")
        grave = raised(trade.merchant, "channel_outage", severity=Severity.CRITICAL, subject="channel:1", title="Grave")
        raised(trade.merchant, "queue_lag", cause=f"channel_outage {grave.subject}", title="Follows")

        page = person_at(trade.merchant, Role.VIEWER).get("/alerts/").content.decode()

        assert page.index("Grave") < page.index("Follows") < page.index("Small")
        assert "1 more follows from it" in page

    def test_nobody_sees_another_merchants(self, trade: Trade) -> None:
        birch = make_trade("Birch").merchant
        other = raised(birch, title="Canary of Birch")
        raised(None, "beat_silent", title="Beat is silent")
        viewer = person_at(trade.merchant, Role.OWNER)

        page = viewer.get("/alerts/").content.decode()

        assert "Canary" not in page
        assert "Beat is silent" in page
        assert viewer.get(f"/alerts/{other.pk}/").status_code == 404
        assert viewer.post(f"/alerts/{other.pk}/acknowledge/").status_code == 404
        other.refresh_from_db()
        assert other.state == AlertState.FIRING

    def test_one_alert_says_what_to_do(self, trade: Trade) -> None:
        alert = raised(trade.merchant, "low_stock", members=[["MUG", "MUG: <b>2</b> available"]])

        page = person_at(trade.merchant, Role.VIEWER).get(f"/alerts/{alert.pk}/").content.decode()

        assert "Order them, or lower the threshold" in page
        assert "MUG: &lt;b&gt;2" in page
        assert "Acknowledge" not in page  # a viewer only looks

    def test_what_is_not_raised_yet_is_nobodys_business(self, trade: Trade) -> None:
        alert = raised(trade.merchant, state=AlertState.PENDING, raised_at=None, title="Perhaps")
        viewer = person_at(trade.merchant, Role.VIEWER)

        assert viewer.get(f"/alerts/{alert.pk}/").status_code == 404
        assert "Perhaps" not in viewer.get("/alerts/").content.decode()

    def test_what_is_over_is_listed(self, trade: Trade) -> None:
        raised(trade.merchant, state=AlertState.RECOVERED, recovered_at=later(60), title="It is over")

        assert "It is over" in person_at(trade.merchant, Role.VIEWER).get("/alerts/").content.decode()

    def test_the_board_says_how_many_there_are(self, trade: Trade) -> None:
        raised(trade.merchant)
        raised(None, "beat_silent", severity=Severity.CRITICAL)
        raised(trade.merchant, cause="channel_outage channel:1")
        raised(trade.merchant, state=AlertState.ACKNOWLEDGED, acknowledged_at=NOON)
        target, _ = targets.create(
            merchant=trade.merchant, name="x", way="email", address="a@b.test", wishes=Wishes(), user=None
        )
        NotificationTarget.objects.filter(pk=target.pk).update(failing_since=NOON)

        page = person_at(trade.merchant, Role.VIEWER).get("/").content.decode()

        assert "2 alerts, 1 critical" in page
        assert "1 notification target cannot be told" in page
        assert 'href="/alerts/"' in page

    def test_the_board_says_so_when_nobody_looks_for_trouble(self, trade: Trade) -> None:
        viewer = person_at(trade.merchant, Role.VIEWER)
        Heartbeat.objects.create(name="alerts", beat_at=timezone.now() - timedelta(minutes=1))
        assert "Nobody looks for trouble" not in viewer.get("/").content.decode()

        Heartbeat.objects.update(beat_at=timezone.now() - timedelta(minutes=6))

        assert "Nobody looks for trouble" in viewer.get("/").content.decode()


class TestActing:
    def test_a_manager_says_that_they_are_at_it(self, trade: Trade) -> None:
        alert = raised(trade.merchant)
        manager = person_at(trade.merchant, Role.MANAGER)

        answer = manager.post(f"/alerts/{alert.pk}/acknowledge/", {"note": "Calling the store"}, follow=True)

        alert.refresh_from_db()
        assert (alert.state, alert.note) == (AlertState.ACKNOWLEDGED, "Calling the store")
        assert alert.acknowledged_by is not None
        assert "You are at it" in answer.content.decode()
        assert AuditEvent.objects.get(action="alert.acknowledge").reason == "Calling the store"

    def test_a_manager_puts_it_off(self, trade: Trade) -> None:
        alert = raised(trade.merchant)

        person_at(trade.merchant, Role.MANAGER).post(f"/alerts/{alert.pk}/snooze/", {"for": "8h"})

        alert.refresh_from_db()
        assert alert.snoozed_until is not None
        assert 7.9 < (alert.snoozed_until - timezone.now()).total_seconds() / 3600 < 8.1

    @pytest.mark.parametrize("data", [{}, {"for": "100y"}])
    def test_nonsense_is_answered_in_words(self, trade: Trade, data: dict[str, str]) -> None:
        alert = raised(trade.merchant)
        manager = person_at(trade.merchant, Role.MANAGER)

        assert "Choose for how long" in manager.post(f"/alerts/{alert.pk}/snooze/", data, follow=True).content.decode()
        long = manager.post(f"/alerts/{alert.pk}/acknowledge/", {"note": "x" * 501}, follow=True)
        assert "500 characters" in long.content.decode()

    def test_a_viewer_may_not(self, trade: Trade) -> None:
        alert = raised(trade.merchant)

        assert person_at(trade.merchant, Role.VIEWER).post(f"/alerts/{alert.pk}/acknowledge/").status_code == 403

    def test_of_the_installation_decides_a_superuser(self, trade: Trade) -> None:
        alert = raised(None, "beat_silent")
        assert person_at(trade.merchant, Role.OWNER).post(f"/alerts/{alert.pk}/acknowledge/").status_code == 403

        root = person_at(trade.merchant, Role.OWNER, is_superuser=True)
        assert root.post(f"/alerts/{alert.pk}/acknowledge/").status_code == 302

        alert.refresh_from_db()
        assert alert.state == AlertState.ACKNOWLEDGED

    def test_what_is_over_is_left_alone(self, trade: Trade) -> None:
        alert = raised(trade.merchant, state=AlertState.RECOVERED, recovered_at=NOON)

        answer = person_at(trade.merchant, Role.MANAGER).post(f"/alerts/{alert.pk}/acknowledge/", follow=True)

        assert "This alert is over" in answer.content.decode()

    def test_a_person_is_told_by_e_mail_as_they_wish_and_tries_it(self, trade: Trade, settings: Any) -> None:
        viewer = person_at(trade.merchant, Role.VIEWER)
        viewer.post("/alerts/me/", {"tell_from": "critical"})
        target = NotificationTarget.objects.get()
        assert (target.minimum_severity, target.state) == ("critical", TargetState.ACTIVE)
        assert "Set EMAIL_HOST" in viewer.post("/alerts/me/", {"test": "1"}, follow=True).content.decode()

        settings.EMAIL_HOST = "mail.test"
        assert "taken by the mail server" in viewer.post("/alerts/me/", {"test": "1"}, follow=True).content.decode()
        assert outbox.outbox[0].to == [User.objects.get().email]

        viewer.post("/alerts/me/", {"tell_from": ""})
        target.refresh_from_db()
        assert target.state == TargetState.OFF
        viewer.post("/alerts/me/", {"tell_from": "info"})
        target.refresh_from_db()
        assert (target.minimum_severity, target.state) == ("info", TargetState.ACTIVE)


class TestAdmin:
    def test_a_target_is_added_tried_out_and_switched_off(self, trade: Trade, settings: Any) -> None:
        manager = person_at(trade.merchant, Role.MANAGER, is_staff=True)
        with receiving(settings) as receiver:
            answer = manager.post(
                "/admin/merchants/notificationtarget/new-target/",
                {
                    "merchant": trade.merchant.pk,
                    "name": "Till",
                    "way": "webhook",
                    "address": receiver.url,
                    "minimum_severity": "warning",
                    "kinds": ["stock", "sync"],
                    "hourly_max": "5",
                    "quiet_from": "22:00",
                    "quiet_until": "07:00",
                },
                follow=True,
            )
            assert "whsec_" in answer.content.decode()
            target = NotificationTarget.objects.get()
            place = f"/admin/merchants/notificationtarget/{target.pk}"
            assert "answered 204" in manager.post(f"{place}/test/", follow=True).content.decode()
            receiver.answers = [500]
            assert "was not taken: answered 500" in manager.post(f"{place}/test/", follow=True).content.decode()
        assert NotificationMessage.objects.filter(is_test=True).count() == 2

        manager.post(f"{place}/off/", {"reason": "moved"})
        target.refresh_from_db()
        assert target.state == TargetState.OFF

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("address", "http://10.0.0.1/x", "Give an address that begins with https://"),
            ("kinds", [], "This field is required"),
            ("kinds", ["machine"], "not one of the available choices"),
            ("quiet_until", "", "Give both ends"),
            ("hourly_max", "1000", "less than or equal to 60"),
        ],
    )
    def test_what_cannot_be_is_said_beside_its_field(self, trade: Trade, field: str, value: Any, says: str) -> None:
        data = {
            "merchant": trade.merchant.pk,
            "name": "x",
            "way": "slack",
            "address": "https://hooks.slack.com/services/x",
            "minimum_severity": "warning",
            "kinds": ["stock"],
            "hourly_max": "5",
            "quiet_from": "22:00",
            "quiet_until": "07:00",
        }

        answer = person_at(trade.merchant, Role.MANAGER, is_staff=True).post(
            "/admin/merchants/notificationtarget/new-target/", {**data, field: value}
        )

        assert says in answer.content.decode()
        assert not NotificationTarget.objects.exists()

    def test_a_rule_is_changed_for_one_merchant_with_a_trace(self, trade: Trade) -> None:
        manager = person_at(trade.merchant, Role.MANAGER, is_staff=True)
        manager.get("/admin/sync/ruleoverride/add/?rule=dead_letters")

        answer = manager.post(
            "/admin/sync/ruleoverride/add/", {"rule": "dead_letters", "is_on": "on", "raise_at": "5", "clear_at": "7"}
        )
        assert "Give a number below 5" in answer.content.decode()
        manager.post("/admin/sync/ruleoverride/add/", {"rule": "dead_letters", "is_on": "on", "raise_at": "5"})

        assert RuleOverride.objects.get().merchant == trade.merchant
        assert AuditEvent.objects.filter(action="ruleoverride.create").exists()
        page = manager.get("/alerts/").content.decode()
        assert "From 5 for 1.0 min" in page.replace("60.0 s", "1.0 min")

    def test_rules_of_the_installation_are_a_superusers(self, trade: Trade) -> None:
        manager = person_at(trade.merchant, Role.MANAGER, is_staff=True)
        answer = manager.post("/admin/sync/ruleoverride/add/", {"rule": "beat_silent", "is_on": "on"})
        assert "about the installation" in answer.content.decode()
        assert not RuleOverride.objects.exists()

        root = person_at(trade.merchant, Role.OWNER, is_staff=True, is_superuser=True)
        root.post("/admin/sync/ruleoverride/add/", {"rule": "beat_silent", "raise_at": "90", "is_on": "on"})
        assert RuleOverride.objects.get().merchant is None
        assert manager.get("/admin/sync/ruleoverride/").content.decode().count("beat_silent") == 0

    def test_another_merchants_targets_are_not_there(self, trade: Trade) -> None:
        birch = make_trade("Birch").merchant
        target, _ = targets.create(
            merchant=birch, name="Canary", way="email", address="a@b.test", wishes=Wishes(), user=None
        )
        manager = person_at(trade.merchant, Role.OWNER, is_staff=True)

        assert "Canary" not in manager.get("/admin/merchants/notificationtarget/").content.decode()
        assert manager.post(f"/admin/merchants/notificationtarget/{target.pk}/test/").status_code == 404
        assert not NotificationMessage.objects.exists()


class TestApi:
    @pytest.fixture
    def program(self, trade: Trade) -> Client:
        _, secret = keys.create(
            merchant=trade.merchant,
            name="pager",
            scopes=[Scope.ALERTS_READ, Scope.ALERTS_WRITE],
            expires_at=None,
            user=None,
        )
        return Client(headers={"authorization": f"Bearer {secret.reveal()}", "idempotency-key": str(uuid.uuid4())})

    def test_lists_the_merchants_alerts(self, trade: Trade, program: Client) -> None:
        raised(make_trade("Birch").merchant)
        raised(None, "beat_silent")
        old = raised(trade.merchant, state=AlertState.RECOVERED, recovered_at=NOON)
        alert = raised(trade.merchant, "low_stock", members=[["MUG", "MUG: 2 available"]])

        page = program.get("/api/v1/alerts?limit=1").json()
        assert [shown["id"] for shown in page["alerts"]] == [alert.pk]
        assert page["alerts"][0]["members"] == ["MUG: 2 available"]
        assert page["alerts"][0]["what_next"].startswith("Order them")
        rest = program.get(f"/api/v1/alerts?cursor={page['next']}").json()
        assert ([shown["id"] for shown in rest["alerts"]], rest["next"]) == ([old.pk], None)
        assert len(program.get("/api/v1/alerts?state=firing").json()["alerts"]) == 1
        assert program.get("/api/v1/alerts?state=pending").status_code == 400

    def test_acknowledges_once(self, trade: Trade, program: Client) -> None:
        alert = raised(trade.merchant)
        place = f"/api/v1/alerts/{alert.pk}/acknowledgement"

        first = program.post(place, {"note": "pager"}, content_type="application/json")
        again = program.post(place, {"note": "pager"}, content_type="application/json")

        assert (first.status_code, first.json()["state"]) == (200, "acknowledged")
        assert again.headers["Idempotency-Replayed"] == "true"
        alert.refresh_from_db()
        assert (alert.note, alert.acknowledged_with[:3]) == ("pager", "st_")

    def test_refuses_in_words(self, trade: Trade, program: Client) -> None:
        other = raised(make_trade("Birch").merchant)
        over = raised(trade.merchant, state=AlertState.RECOVERED, recovered_at=NOON)

        answers = {
            place: program.post(
                f"/api/v1/alerts/{place}",
                body,
                content_type="application/json",
                headers={"idempotency-key": str(uuid.uuid4())},
            ).status_code
            for place, body in {
                f"{other.pk}/acknowledgement": {},
                f"{over.pk}/acknowledgement": {},
                f"{over.pk}/snooze": {"minutes": 0},
                f"{other.pk}/snooze": {"minutes": 5},
                "99999999/snooze": {"minutes": 5},
            }.items()
        }

        assert list(answers.values()) == [404, 409, 400, 404, 404]

    def test_puts_off(self, trade: Trade, program: Client) -> None:
        alert = raised(trade.merchant)

        answer = program.post(f"/api/v1/alerts/{alert.pk}/snooze", {"minutes": 30}, content_type="application/json")

        assert answer.status_code == 200
        assert answer.json()["snoozed_until"] is not None


def test_a_target_of_a_kind_hears_of_it_through_slack(trade: Trade, settings: Any) -> None:
    with receiving(settings) as receiver:
        target, _ = targets.create(
            merchant=trade.merchant,
            name="#stock",
            way=TargetWay.SLACK,
            address=receiver.url,
            wishes=Wishes(kinds=[NoticeKind.STOCK]),
            user=None,
        )
        assert notices.send_test(target, user=None, now=timezone.now).says == "answered 204"
    assert b"This is a test" in receiver.got[0][1]
