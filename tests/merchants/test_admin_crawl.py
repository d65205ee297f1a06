"""No page of the admin fails: every list, every form, every page of one object, every page behind a button."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from channels.models import CallHour, Outage, OutageCause, WritingStop
from inventory import delivery, holding, holds, transfers
from inventory.models import Warehouse
from locations.models import PublishingRule
from merchants import notices, targets
from merchants.models import Member, Merchant, Role, User
from sync.models import (
    Alert,
    AuditResult,
    DeadLetter,
    Drift,
    DriftAction,
    FailureCause,
    Job,
    ProcessBeat,
    ReconcileRun,
    RuleCheck,
    RuleOverride,
    SizeSample,
)
from tests.factories import NOON, Trade, make_trade
from tests.merchants.test_admin_lists import grow

pytestmark = pytest.mark.django_db


@pytest.fixture
def alder(settings: Any) -> Trade:
    """A merchant with something in nearly every table."""
    trade = make_trade("Alder")
    grow(trade, 1)
    merchant, channel = trade.merchant, trade.shops["north"].channel
    Drift.objects.update(action=DriftAction.ASKED)
    AuditResult.objects.create(name="pushes_add_up", checked_at=NOON, seconds=1, offender={"merchant": merchant.pk})
    ReconcileRun.objects.create(merchant=merchant, channel=channel, started_at=NOON)
    Job.objects.create(merchant=merchant, kind="retry_letters", correlation_id=uuid.uuid4())
    DeadLetter.objects.create(
        merchant=merchant,
        channel=channel,
        listing_level=trade.shops["north"].level("MUG"),
        cause=FailureCause.REFUSED,
        said="NON_MUTABLE_INVENTORY_ITEM: the store computes it",
    )
    PublishingRule.objects.create(merchant=merchant, channel=channel, buffer_units=1)
    Outage.objects.create(merchant=merchant, channel=channel, began_at=NOON, cause=OutageCause.NO_ANSWER)
    CallHour.objects.create(merchant=merchant, channel=channel, hour=NOON, urgency=3, calls=1)
    WritingStop.objects.create(merchant=merchant, reason="a bad import")
    user = User.objects.create_user(username="m", email="m@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=merchant, user=user, role=Role.MANAGER)
    settings.WEBHOOK_PRIVATE_ORIGINS = ["http://127.0.0.1:9"]
    delivery.create(merchant=merchant, url="http://127.0.0.1:9/x", user=user)
    Warehouse.objects.create(merchant=merchant, code="SECOND", name="Second")
    transfers.send(
        merchant_id=merchant.pk,
        origin="MAIN",
        destination="SECOND",
        units=[transfers.Units("MUG", 1)],
        reference="",
        allow_shortage=False,
        actor=transfers.Actor(user),
        now=NOON,
    )
    holding.hold([holds.Ask("TEE", 1)], merchant_id=merchant.pk, now=NOON)
    _alerts(merchant)
    return trade


def _alerts(merchant: Merchant) -> None:
    """An alert, who was told of it, and what else is known of the installation."""
    target, _ = targets.create(
        merchant=merchant, name="x", way="webhook", address="http://127.0.0.1:9/x", wishes=targets.Wishes(), user=None
    )
    notices.send_test(target, user=None, now=lambda: NOON)
    facts = {"severity": "warning", "value": 1, "worst": 1, "since": NOON, "raised_at": NOON, "state": "firing"}
    Alert.objects.create(merchant=merchant, rule="low_stock", subject="x", title="Low", **facts)
    RuleOverride.objects.create(merchant=merchant, rule="low_stock", raise_at=2)
    RuleCheck.objects.create(name="low_stock", first_asked_at=NOON, asked_at=NOON)
    ProcessBeat.objects.create(name="worker-1@here", started_at=NOON, progressed_at=NOON)
    SizeSample.objects.create(taken_at=NOON, database_bytes=1, inbox_waiting=0, outbox_waiting=0)


@pytest.fixture
def superuser(client: Client) -> User:
    user = User.objects.create_superuser(username="root", email="root@synctec.test", password="x")
    client.force_login(user)
    return user


def pages(model: type[Model]) -> Iterator[str]:
    """The address of every page of a model's admin: for its list, and for one object where there is one."""
    one = model._default_manager.order_by("pk").first()
    for pattern in admin.site._registry[model].get_urls():
        parameters = list(pattern.pattern.converters) or list(pattern.pattern.regex.groupindex)
        if pattern.name is not None and (one is not None or not parameters):
            yield reverse(f"admin:{pattern.name}", kwargs=dict.fromkeys(parameters, one.pk if one else None))


def test_no_page_fails(client: Client, superuser: User, alder: Trade) -> None:
    answers = {page: client.get(page).status_code for model in admin.site._registry for page in pages(model)}

    # Nobody adds or deletes what the engine wrote; an action that does not fit the object leads back to it.
    assert {page: status for page, status in answers.items() if status not in {200, 302, 403}} == {}
    assert all(answers[page] == 200 for page in answers if page.endswith("/change/"))
    objects = sum(page.endswith("/change/") for page in answers)
    assert objects >= 28
