"""Questions about changes by hand, and what their answers do."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from channels.models import Channel, Edits
from inventory import counts, stock
from inventory.models import Shortage
from inventory.movements import Reporter
from inventory.stock import InsufficientReason
from merchants.models import AuditEvent, User
from sync import answers
from sync.invariants import violations
from sync.models import DirtySku, Drift, DriftAction
from sync.reconcile import poll_orders
from tests.engine import engine, ref
from tests.factories import Shop, Trade, add_warehouse, later, make_trade
from tests.fakes import FakeChannel
from tests.sync.test_check import check, suspect

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture
def north(alder: Trade) -> Shop:
    Channel.objects.update(on_loss=Edits.ASK, on_gain=Edits.ASK)
    return alder.shops["north"]


def find(north: Shop, shown: int) -> Drift:
    """Let a check find that the store shows `shown` mugs instead of 10."""
    store = FakeChannel.of(north)
    store.levels[store.where(north, "MUG")] = shown
    suspect(north, "MUG")
    check(north, store)
    poll_orders(engine(later(100), {north.channel: store}), channel=ref(north.channel))
    check(north, store, later(101))
    DirtySku.objects.all().delete()
    return Drift.objects.get()


def test_missing_units_stay_out_of_the_pool_until_somebody_decides(alder: Trade, north: Shop) -> None:
    drift = find(north, shown=7)

    assert (drift.action, drift.held) == (DriftAction.ASKED, 3)
    assert north.level("MUG").suspect_since is None
    assert (alder.stock("MUG").on_hand, alder.stock("MUG").available) == (10, 7)
    assert list(violations(when_quiet=False)) == []


@pytest.mark.parametrize(("adopt", "on_hand"), [(True, 7), (False, 10)])
def test_an_answer_gives_missing_units_up_or_back(alder: Trade, north: Shop, adopt: bool, on_hand: int) -> None:
    drift = find(north, shown=7)

    answers.answer(drift_id=drift.pk, adopt=adopt, reason="counted", user=None, now=later(200))

    stock = alder.stock("MUG")
    assert (stock.on_hand, stock.held, stock.available) == (on_hand, 0, on_hand)
    assert DirtySku.objects.filter(sku=alder.skus["MUG"]).exists()
    assert AuditEvent.objects.filter(reason="counted").count() == 1
    assert list(violations(when_quiet=False)) == []


def test_an_answer_takes_what_is_missing_from_all_warehouses_that_have_units(alder: Trade, north: Shop) -> None:
    loft = add_warehouse(alder, "LOFT", {"MUG": 3})
    drift = find(north, shown=1)
    stock.adjust(
        merchant_id=alder.merchant.pk,
        sku_id=alder.skus["MUG"].pk,
        warehouse_id=alder.warehouse.pk,
        delta=-3,
        reason="given away meanwhile",
        user=None,
        now=later(150),
    )

    answers.answer(drift_id=drift.pk, adopt=True, reason="counted", user=None, now=later(200))

    assert [alder.stock("MUG", warehouse).on_hand for warehouse in (alder.warehouse, loft)] == [0, 1]
    assert not Shortage.objects.exists()
    assert list(violations(when_quiet=False)) == []


def test_found_units_are_counted_only_if_somebody_says_so(alder: Trade, north: Shop) -> None:
    drift = find(north, shown=12)
    assert (drift.action, drift.held, alder.stock("MUG").on_hand) == (DriftAction.ASKED, 0, 10)

    answers.answer(drift_id=drift.pk, adopt=True, reason="a box was found", user=None, now=later(200))

    assert alder.stock("MUG").on_hand == 12
    assert list(violations(when_quiet=False)) == []


def test_a_question_is_answered_once(alder: Trade, north: Shop) -> None:
    drift = find(north, shown=7)
    answers.answer(drift_id=drift.pk, adopt=True, reason="counted", user=None, now=later(200))

    with pytest.raises(answers.AlreadyAnswered):
        answers.answer(drift_id=drift.pk, adopt=False, reason="no", user=None, now=later(201))
    assert alder.stock("MUG").on_hand == 7


def test_an_answer_needs_a_reason(alder: Trade, north: Shop) -> None:
    drift = find(north, shown=7)

    with pytest.raises(InsufficientReason):
        answers.answer(drift_id=drift.pk, adopt=True, reason=" ", user=None, now=later(200))


def test_the_admin_asks_and_takes_the_answer(alder: Trade, north: Shop, client: Client) -> None:
    drift = find(north, shown=7)
    client.force_login(
        User.objects.create_superuser(username="ops", email="ops@example.com", password="a long password")
    )
    address = reverse("admin:sync_drift_answer", args=[drift.pk])

    page = client.get(address)
    answer = client.post(address, {"answer": "override", "reason": "they were in the back"})

    assert "3 fewer than expected" in page.content.decode()
    assert answer.status_code == 302
    assert alder.stock("MUG").available == 10


def test_a_count_taken_before_the_answer_has_seen_what_was_missing(alder: Trade, north: Shop) -> None:
    """Three broke and somebody wrote it into the store; the shelf was counted; a day later somebody answered."""
    drift = find(north, shown=7)
    counts.take(
        merchant_id=alder.merchant.pk,
        counts=[counts.Counted("c", "MUG", "MAIN", 7, later(150))],
        reporter=Reporter(),
        all_or_nothing=True,
        now=later(150),
    )

    answers.answer(drift_id=drift.pk, adopt=True, reason="broken", user=None, now=later(86400))

    assert (alder.stock("MUG").on_hand, alder.stock("MUG").available) == (7, 7)
    assert list(violations(when_quiet=False)) == []


def test_a_count_between_the_reading_and_its_audit_has_seen_it_too(alder: Trade, north: Shop) -> None:
    Channel.objects.update(on_loss=Edits.ADOPT)
    store = FakeChannel.of(north)
    store.levels[store.where(north, "MUG")] = 7
    suspect(north, "MUG")
    check(north, store)
    counts.take(
        merchant_id=alder.merchant.pk,
        counts=[counts.Counted("c", "MUG", "MAIN", 7, later(50))],
        reporter=Reporter(),
        all_or_nothing=True,
        now=later(50),
    )
    poll_orders(engine(later(100), {north.channel: store}), channel=ref(north.channel))
    check(north, store, later(101))

    assert (alder.stock("MUG").on_hand, alder.stock("MUG").available) == (7, 7)
    assert list(violations(when_quiet=False)) == []
