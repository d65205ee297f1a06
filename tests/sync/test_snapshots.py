"""The daily full sync: from a snapshot where the channel makes one, page by page where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from django.db.models import Q
from django.db.models.functions import Now
from pytest_django.fixtures import Settings

from channels.models import Channel, EventState, ListingLevel
from channels.protocol import LevelState, Snapshot, SnapshotState, Throttled, Unavailable
from sync import due, passes
from sync.apply import apply_batch
from sync.models import Difference, ReconcileRun, RunKind, RunState
from sync.snapshots import ASK_AGAIN, PATIENCE, full_sync
from sync.tables import differences
from synctec.lib import clock
from tests.engine import engine
from tests.factories import NOON, Shop, Trade, deliver, later, make_trade, order_body
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)

CODES = [f"MUG-{number}" for number in range(12)]


@dataclass
class Bulky(FakeChannel):
    """A store that can write down all its levels: as of when it was asked to."""

    state: SnapshotState = SnapshotState.READY
    begun: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    read_items: list[str] = field(default_factory=list)
    kept: dict[tuple[str, str], int] = field(default_factory=dict)
    changed_at: datetime | None = None
    before_page: Callable[[], None] | None = None
    is_busy: bool = False

    def begin_snapshot(self) -> str:
        if self.is_busy:
            raise Throttled("five are under way", retry_after=60.0)
        self.begun.append(f"snapshot-{len(self.begun)}")
        self.kept = dict(self.levels)
        return self.begun[-1]

    def read_snapshot(self, snapshot_id: str) -> Snapshot:
        return Snapshot(snapshot_id, self.state, "TIMEOUT" if self.state is SnapshotState.FAILED else "")

    def snapshot_levels(self, snapshot_id: str) -> Iterator[tuple[LevelState, ...]]:
        rows = [
            LevelState(item, place, available, is_stocked=True, source_at=self.changed_at)
            for (item, place), available in reversed(self.kept.items())
        ]
        for start in range(0, len(rows), 5):
            if self.before_page is not None:
                self.before_page()
            yield tuple(rows[start : start + 5])

    def cancel_snapshot(self, snapshot_id: str) -> None:
        self.cancelled.append(snapshot_id)

    def read_levels(self, inventory_item_ids: object) -> tuple[LevelState, ...]:
        assert isinstance(inventory_item_ids, list)
        self.read_items += inventory_item_ids
        return super().read_levels(inventory_item_ids)


@pytest.fixture(autouse=True)
def _lag(settings: Settings) -> None:
    settings.AUDIT_LAG_SECONDS = 60


@pytest.fixture
def trade() -> Trade:
    made = make_trade(stock_of=dict.fromkeys(CODES, 10))
    Channel.objects.update(drift_alarm_levels=100)
    return made


@pytest.fixture
def north(trade: Trade) -> Shop:
    return trade.shops["north"]


@pytest.fixture
def store(north: Shop) -> Bulky:
    return Bulky.of(north)


def go_on(shop: Shop, store: FakeChannel, now: datetime | None = None) -> ReconcileRun:
    ReconcileRun.objects.update(leased_until=Now())
    run = full_sync(engine(now or later(1), {shop.channel: store}), channel=shop.channel)
    assert run is not None
    return run


def suspects() -> list[str]:
    levels = ListingLevel.objects.filter(suspect_since__isnull=False).select_related("listing")
    return sorted(level.listing.remote_sku for level in levels)


def test_a_full_sync_compares_all_levels_with_a_snapshot_and_reads_none_singly(north: Shop, store: Bulky) -> None:
    store.levels[store.where(north, "MUG-3")] = 4
    store.levels[store.where(north, "MUG-7")] = 12

    begun = go_on(north, store)
    run = go_on(north, store, later(5))

    assert (begun.state, begun.snapshot_id, begun.levels_read) == (RunState.RUNNING, "snapshot-0", 0)
    assert (run.pk, run.kind, run.state) == (begun.pk, RunKind.FULL, RunState.DONE)
    assert (run.levels_read, run.levels_suspect, run.levels_total) == (12, 2, 12)
    assert suspects() == ["MUG-3", "MUG-7"]
    assert sorted(Difference.objects.values_list("expected", "actual")) == [(10, 4), (10, 12)]
    assert store.read_items == []


def test_an_older_value_never_beats_a_newer_event(trade: Trade, north: Shop, store: Bulky) -> None:
    """After the snapshot was begun: a sale is booked, a write is under way, and a webhook has told of a later change."""
    go_on(north, store)
    store.kept = dict.fromkeys(store.kept, 8)
    store.changed_at = later(1)
    sold, told, confirmed = "MUG-1", "MUG-2", "MUG-3"
    store.sell(north, sold)
    deliver(north, "orders/create", order_body(north, 1, (sold, 1)))
    apply_batch(engine(later(2)), merchant_id=trade.merchant.pk)
    ListingLevel.objects.filter(pk=north.level(told).pk).update(source_at=later(2))
    ListingLevel.objects.filter(pk=north.level(confirmed).pk).update(confirmed_at=later(2))

    run = go_on(north, store, later(5))

    assert suspects() == sorted(set(CODES) - {sold, told, confirmed})
    assert (run.levels_read, run.levels_suspect) == (9, 9)


def test_what_is_missing_in_a_snapshot_is_read_singly(north: Shop, store: Bulky) -> None:
    go_on(north, store)
    for code in ("MUG-0", "MUG-11"):
        del store.kept[store.where(north, code)]
    del store.levels[store.where(north, "MUG-11")]

    run = go_on(north, store, later(5))

    assert sorted(store.read_items) == sorted(north.listings[code].inventory_item_id for code in ("MUG-0", "MUG-11"))
    assert (run.state, run.levels_read, suspects()) == (RunState.DONE, 12, ["MUG-11"])


def test_a_part_of_a_snapshot_is_used_and_the_rest_read_singly(north: Shop, store: Bulky) -> None:
    go_on(north, store)
    store.state = SnapshotState.PARTIAL
    store.kept = dict(list(store.kept.items())[:8])

    run = go_on(north, store, later(5))

    assert (run.state, run.levels_read, len(store.read_items)) == (RunState.DONE, 12, 4)


@pytest.mark.parametrize("state", [SnapshotState.FAILED, SnapshotState.GONE])
def test_without_its_snapshot_all_is_read_page_by_page(north: Shop, store: Bulky, state: SnapshotState) -> None:
    go_on(north, store)
    store.state = state

    run = go_on(north, store, later(5))

    assert (run.state, run.levels_read, len(store.read_items)) == (RunState.DONE, 12, 12)
    assert len(store.begun) == 1


def test_a_channel_that_makes_no_snapshots_is_read_page_by_page(north: Shop) -> None:
    store = FakeChannel.of(north)
    store.levels[store.where(north, "MUG-3")] = 4

    run = go_on(north, store)

    assert (run.kind, run.state, run.levels_read, suspects()) == (RunKind.FULL, RunState.DONE, 12, ["MUG-3"])


def test_while_the_store_writes_its_snapshot_the_pass_rests_ever_longer_and_then_gives_it_up(
    north: Shop, store: Bulky
) -> None:
    go_on(north, store)
    store.state = SnapshotState.UNDER_WAY
    rests = []
    for waited in (timedelta(seconds=2), timedelta(seconds=200), timedelta(minutes=30)):
        run = go_on(north, store, later(1) + waited)
        rests.append(round((run.leased_until - clock.now()).total_seconds()))
        assert run.state == RunState.RUNNING

    run = go_on(north, store, later(1) + PATIENCE)

    assert rests == [ASK_AGAIN.total_seconds(), 20, 60]
    assert (run.state, run.levels_read, store.cancelled) == (RunState.DONE, 12, ["snapshot-0"])


def test_the_stores_own_word_that_its_snapshot_is_ready_ends_the_rest(trade: Trade, north: Shop, store: Bulky) -> None:
    go_on(north, store)
    waiting = Q(leased_until__gt=Now())
    ReconcileRun.objects.update(leased_until=Now() + timedelta(minutes=1), snapshot_id="720")
    body: dict[str, object] = {"admin_graphql_api_id": "gid://shopify/BulkOperation/720", "status": "completed"}
    event = deliver(north, "bulk_operations/finish", body)
    another = deliver(north, "bulk_operations/finish", body | {"admin_graphql_api_id": "gid://shopify/BulkOperation/7"})
    assert ReconcileRun.objects.filter(waiting).exists()

    apply_batch(engine(later(5)), merchant_id=trade.merchant.pk)

    event.refresh_from_db()
    another.refresh_from_db()
    assert (event.state, another.state) == (EventState.APPLIED, EventState.IGNORED)
    assert not ReconcileRun.objects.filter(waiting).exists()


def test_a_store_with_too_many_snapshots_under_way_is_asked_again_later(north: Shop, store: Bulky) -> None:
    store.is_busy = True
    with pytest.raises(Throttled):
        go_on(north, store)

    run = passes.under_way(north.channel.pk)

    assert run is not None
    assert run.leased_until - clock.now() > timedelta(seconds=50)
    store.is_busy = False
    go_on(north, store)
    assert go_on(north, store, later(5)).state == RunState.DONE


def test_whoever_takes_over_after_a_kill_reads_the_same_snapshot_from_its_beginning(north: Shop, store: Bulky) -> None:
    store.levels[store.where(north, "MUG-11")] = 4  # in the first page
    go_on(north, store)
    pages: list[int] = []

    def dies() -> None:
        pages.append(1)
        if len(pages) == 2:
            raise KeyboardInterrupt

    store.before_page = dies
    with pytest.raises(KeyboardInterrupt):
        go_on(north, store, later(5))

    run = go_on(north, store, later(200))

    assert (run.state, run.levels_read, run.levels_suspect) == (RunState.DONE, 12, 1)
    assert store.begun == ["snapshot-0"]
    assert Difference.objects.count() == 1


def test_a_snapshot_nobody_waits_for_any_more_is_cancelled(north: Shop, store: Bulky) -> None:
    begun = go_on(north, store)
    store.state = SnapshotState.UNDER_WAY
    ReconcileRun.objects.update(leased_until=Now() + timedelta(minutes=1))
    passes.cancel(run_id=begun.pk, user=None, now=NOON)

    run = go_on(north, store, later(5))

    assert (run.state, store.cancelled) == (RunState.CANCELLED, ["snapshot-0"])


def test_a_snapshot_that_breaks_off_fails_the_pass_which_says_so(north: Shop, store: Bulky) -> None:
    go_on(north, store)

    def breaks() -> None:
        raise Unavailable("The file of the bulk operation cannot be read (HTTP 500).", code="BULK_FILE")

    store.before_page = breaks
    with pytest.raises(Unavailable):
        go_on(north, store, later(5))

    run = ReconcileRun.objects.get()
    assert (run.state, run.error) == (RunState.FAILED, "The file of the bulk operation cannot be read (HTTP 500).")


def test_the_nightly_full_sync_is_due_in_the_quiet_hours(trade: Trade, north: Shop) -> None:
    night = NOON.replace(hour=4, minute=5)
    for shop in trade.shops.values():
        ReconcileRun.objects.create(
            merchant=trade.merchant,
            channel=shop.channel,
            state=RunState.DONE,
            started_at=night - timedelta(minutes=1),
            finished_at=night,
        )

    assert {found.kind for found in due.due(now=night)} == {RunKind.FULL}
    trade.merchant.quiet_hour = None
    trade.merchant.save()
    assert all(found.kind == RunKind.PASS for found in due.due(now=night))


def test_a_snapshots_levels_are_found_by_item_and_location(north: Shop) -> None:
    where = FakeChannel.where(north, "MUG-1")
    states = [
        LevelState(*where, 10, is_stocked=True, source_at=NOON),
        LevelState(where[0], "elsewhere", 3, is_stocked=True, source_at=NOON),
        LevelState("404", where[1], 3, is_stocked=True, source_at=NOON),
    ]

    (shown,) = differences.shown(channel_id=north.channel.pk, states=states, begun_at=later(1))

    assert (shown.level_id, shown.expected, shown.actual, shown.is_outdated) == (north.level("MUG-1").pk, 10, 10, False)
