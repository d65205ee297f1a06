"""The auditor: each invariant that nothing else tests is broken once, and the offender is named."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models import F

from channels.models import Channel, ChannelState, Edits, ListingLevel
from channels.protocol import Unavailable
from inventory import stock
from inventory.ledger import Entry
from inventory.models import BomLine, Cause, Sku, SkuKind, StockLevel
from merchants import trail
from sync import invariants, quiet
from sync.invariants import stores_that_differ, violations
from sync.models import DirtySku, Drift, DriftAction
from tests.factories import NOON, Shop, Trade, make_trade
from tests.fakes import FakeChannel
from tests.sync.test_answers import find

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture
def north(alder: Trade) -> Shop:
    return alder.shops["north"]


def broken() -> dict[str, tuple[dict[str, Any], ...]]:
    """The offending rows of what must hold at any moment, by invariant."""
    return {violation.name: violation.rows for violation in violations(when_quiet=False)}


# --- what a store shows -------------------------------------------------------------------------------------------


class TestNoReadingRaisesThePool:
    def book(self, alder: Trade, *, cause: Cause, units: int) -> None:
        level = alder.stock("MUG").pk
        entry = Entry(
            stock_level_id=level,
            cause=cause,
            key=f"check:{uuid.uuid4()}:{level}",
            reference="",
            correlation_id=uuid.uuid4(),
            effective_at=NOON,
            on_hand=units,
        )
        balances = stock.lock_balances([level])
        stock.post(merchant_id=alder.merchant.pk, balances=balances, entries=[entry], now=NOON)

    @pytest.mark.parametrize("cause", [Cause.CHANNEL_EDIT, Cause.CHECK])
    def test_units_that_nobody_decided_on_are_found(self, alder: Trade, cause: Cause) -> None:
        self.book(alder, cause=cause, units=2)

        [row] = broken()["no_reading_raises_the_pool"]

        assert (row["merchant"], row["cause"], row["delta"]) == (alder.merchant.pk, cause, 2)

    def test_units_that_are_missing_may_be_taken_out(self, alder: Trade) -> None:
        self.book(alder, cause=Cause.CHANNEL_EDIT, units=-2)

        assert broken() == {}

    def test_gains_are_taken_over_where_the_channel_is_set_so(self, alder: Trade, north: Shop) -> None:
        Channel.objects.update(on_gain=Edits.ADOPT)

        drift = find(north, shown=12)

        assert (drift.action, alder.stock("MUG").on_hand) == (DriftAction.ADOPTED, 12)
        assert broken() == {}

    def test_gains_that_the_channel_was_not_set_to_take_over_are_found(self, alder: Trade, north: Shop) -> None:
        Channel.objects.update(on_gain=Edits.ADOPT)
        find(north, shown=12)

        Channel.objects.update(on_gain=Edits.OVERRIDE)

        assert broken().keys() == {"no_reading_raises_the_pool"}

    def test_a_setting_that_was_changed_since_counts_as_it_was(self, alder: Trade, north: Shop) -> None:
        Channel.objects.update(on_gain=Edits.ADOPT)
        find(north, shown=12)

        Channel.objects.update(on_gain=Edits.OVERRIDE)
        trail.record(
            merchant_id=alder.merchant.pk,
            action="channel.change",
            subject=north.channel,
            user=None,
            before={"on_gain": Edits.ADOPT},
            after={"on_gain": Edits.OVERRIDE},
        )

        assert broken() == {}

    def test_what_may_have_been_a_write_of_ours_is_no_gain(self, alder: Trade, north: Shop) -> None:
        Channel.objects.update(on_gain=Edits.ADOPT)
        find(north, shown=12)

        Drift.objects.update(is_ambiguous=True)

        assert broken().keys() == {"no_reading_raises_the_pool"}


# --- units that are split -----------------------------------------------------------------------------------------


class TestSplitPromisesNoUnitTwice:
    @pytest.fixture
    def split(self) -> Trade:
        """Ten mugs: five for each of two shops that show all ten, until they are told."""
        return make_trade(policy="split")

    def levels(self, split: Trade, shop: str) -> Any:
        return ListingLevel.objects.filter(pk=split.shops[shop].level("MUG").pk)

    def test_shares_of_what_there_is_are_fine_before_and_after_the_stores_have_them(self, split: Trade) -> None:
        assert [split.shops[shop].level("MUG").desired for shop in ("north", "south")] == [5, 5]
        assert broken() == {}

        ListingLevel.objects.update(base=F("desired"))

        assert broken() == {}

    def test_a_unit_too_many_is_found(self, split: Trade) -> None:
        self.levels(split, "north").update(desired=6)

        [row] = broken()["split_promises_no_unit_twice"]

        assert (row["merchant"], row["sku"]) == (split.merchant.pk, split.skus["MUG"].pk)
        assert (row["told"], row["available"]) == (11, 10)

    def test_a_raise_before_the_other_has_let_go_is_found(self, split: Trade) -> None:
        self.levels(split, "south").update(base=0)

        [row] = broken()["split_promises_no_unit_twice"]

        assert (row["told"], row["may_sell"], row["available"]) == (10, 15, 10)

    def test_units_that_holds_may_take_are_promised_too(self, split: Trade) -> None:
        StockLevel.objects.filter(pk=split.stock("MUG").pk).update(quota=1)

        [row] = broken()["split_promises_no_unit_twice"]

        assert (row["told"], row["quota"], row["available"]) == (10, 1, 10)

    def test_a_bundle_claims_the_units_of_its_parts(self, split: Trade) -> None:
        pair = Sku.objects.create(merchant=split.merchant, code="PAIR", title="Pair", kind=SkuKind.BUNDLE)
        BomLine.objects.create(merchant=split.merchant, bundle=pair, component=split.skus["MUG"], quantity=2)
        north = split.shops["north"]
        listing = north.listings["TEE"]
        listing.sku = pair
        listing.save()
        ListingLevel.objects.filter(listing=listing).update(base=1, desired=1)

        rows = {row["sku"]: row["told"] for row in broken()["split_promises_no_unit_twice"]}

        assert rows == {split.skus["MUG"].pk: 12}

    def test_numbers_that_are_about_to_be_computed_are_waited_for(self, split: Trade) -> None:
        self.levels(split, "north").update(desired=6)

        DirtySku.objects.create(
            merchant=split.merchant, sku=split.skus["MUG"], correlation_id=uuid.uuid4(), caused_at=NOON
        )

        assert broken() == {}

    @pytest.mark.parametrize("policy", ["shared", "guard"])
    def test_other_policies_promise_less(self, split: Trade, policy: str) -> None:
        self.levels(split, "north").update(desired=10)

        split.group.policy = policy
        split.group.save()

        assert broken() == {}


# --- stores, asked ------------------------------------------------------------------------------------------------


class TestStoresThatDiffer:
    @pytest.fixture
    def store(self, alder: Trade, monkeypatch: pytest.MonkeyPatch) -> FakeChannel:
        """North's own; South shows what we believe."""
        stores = {shop.channel.pk: FakeChannel.of(shop) for shop in alder.shops.values()}
        monkeypatch.setattr(invariants, "connector_for", lambda channel: stores[channel.pk])
        return stores[alder.shops["north"].channel.pk]

    def test_a_store_that_shows_what_is_reported_is_fine(self, store: FakeChannel) -> None:
        assert list(stores_that_differ()) == []

    def test_another_number_is_found(self, north: Shop, store: FakeChannel) -> None:
        store.levels[store.where(north, "MUG")] = 9

        [violation] = stores_that_differ()

        assert [(row["shown"], row["reported"]) for row in violation.rows] == [(9, 10)]

    def test_a_level_that_the_store_does_not_return_is_found(self, north: Shop, store: FakeChannel) -> None:
        del store.levels[store.where(north, "MUG")]

        [violation] = stores_that_differ()

        assert [(row["shown"], row["reported"]) for row in violation.rows] == [(None, 10)]

    def test_a_level_that_the_store_counts_and_we_do_not_is_found(self, north: Shop, store: FakeChannel) -> None:
        ListingLevel.objects.filter(pk=north.level("MUG").pk).update(is_stocked=False, desired=None)

        [violation] = stores_that_differ()

        assert [(row["shown"], row["reported"]) for row in violation.rows] == [(10, None)]

    def test_a_store_that_cannot_be_asked_is_named(self, store: FakeChannel) -> None:
        def is_away() -> None:
            raise Unavailable("no answer")

        store.while_reading = is_away

        [violation] = stores_that_differ()

        assert violation.rows == ({"channel": "North", "error": "no answer"},)


# --- the command --------------------------------------------------------------------------------------------------


class TestAudit:
    @pytest.fixture(autouse=True)
    def _stores(self, alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
        stores = {shop.channel.pk: FakeChannel.of(shop) for shop in alder.shops.values()}
        monkeypatch.setattr(invariants, "connector_for", lambda channel: stores[channel.pk])

    def audit(self, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
        """The exit status and the report."""
        status = 0
        try:
            call_command("audit", "--json", *options)
        except SystemExit as ended:
            status = int(str(ended.code))
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return status, report

    def test_all_is_well_when_all_is_quiet(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, report = self.audit(capsys)

        assert (status, report["ok"], report["quiet"], report["violations"]) == (0, True, True, [])

    def test_work_that_never_ends_fails_it(self, alder: Trade, capsys: pytest.CaptureFixture[str]) -> None:
        DirtySku.objects.create(
            merchant=alder.merchant, sku=alder.skus["MUG"], correlation_id=uuid.uuid4(), caused_at=NOON
        )

        status, report = self.audit(capsys, "--timeout=0.1")

        assert (status, report["ok"], report["quiet"]) == (1, False, False)

    def test_passes_that_do_not_end_fail_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        # No worker is there to answer the bell, while all is quiet.
        status, report = self.audit(capsys, "--settle", "--timeout=1.5")

        assert (status, report["ok"], report["passes_done"], report["quiet"]) == (1, False, False, True)
        assert report["violations"] == []

    def test_both_passes_must_end(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        ends = iter([True, False])
        monkeypatch.setattr(quiet, "reconcile_all_now", lambda *, timeout_seconds: next(ends))

        status, report = self.audit(capsys, "--settle", "--timeout=1.5")

        assert (status, report["passes_done"]) == (1, False)

    def test_channels_that_are_not_compared_are_named(self, north: Shop, capsys: pytest.CaptureFixture[str]) -> None:
        Channel.objects.filter(pk=north.channel.pk).update(state=ChannelState.NEEDS_AUTH, state_reason="refused")

        status, report = self.audit(capsys)

        assert report["channels_left_out"] == [{"channel": "North", "state": "needs_auth", "reason": "refused"}]
        assert status == 0
