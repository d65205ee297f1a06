"""The scorecard's facts: from rows, of the right span, channel and merchant, and at a price that follows the span."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from channels.models import Channel, EventState, ListingLevel, PushState
from inventory.models import Account, Cause, Movement, Shortage, StockLevel
from sync import scorecard
from sync.models import BufferUse, DirtySku, Drift, DriftAction, ReconcileRun, RunState
from sync.models import Cause as DriftCause
from sync.score import Facts, Standing, Waits, latency_class
from synctec.lib import sql
from tests.factories import Trade, make_trade
from tests.sync.happened import event, id_of, push

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.fixture
def now() -> datetime:
    return timezone.now()


@pytest.fixture
def trade() -> Trade:
    return make_trade(shops=("north", "south", "west"))


def facts(trade: Trade, now: datetime, *, span: timedelta = HOUR, shop: str = "") -> Facts:
    card = scorecard.facts([trade.merchant.pk], since=now - span, until=now)
    return card.get(trade.shops[shop].channel.pk if shop else None, Facts())


class TestLatency:
    def test_of_a_sale_is_until_its_last_store_was_lowered(self, trade: Trade, now: datetime) -> None:
        sale = event(trade.shops["north"], now - seconds(600))
        push(trade.shops["south"], "MUG", sale, after=seconds(1))
        push(trade.shops["west"], "MUG", sale, after=seconds(4))

        assert facts(trade, now).latency == {latency_class(4): 1}
        assert facts(trade, now, shop="south").latency == {latency_class(1): 1}
        assert facts(trade, now, shop="west").latency == {latency_class(4): 1}

    def test_counts_what_is_still_on_its_way_with_its_age(self, trade: Trade, now: datetime) -> None:
        sale = event(trade.shops["north"], now - seconds(120))
        push(trade.shops["south"], "MUG", sale, after=seconds(1))
        push(trade.shops["west"], "MUG", sale, after=None)

        found = facts(trade, now)

        assert found.still_waiting == 1
        assert min(found.latency) >= latency_class(120)

    def test_counts_a_level_that_was_not_even_tried(self, trade: Trade, now: datetime) -> None:
        sale = event(trade.shops["north"], now - seconds(120))
        level = trade.shops["west"].level("MUG")
        ListingLevel.objects.filter(pk=level.pk).update(
            desired=9, waiting_since=sale.received_at, waiting_correlation_ids=[sale.correlation_id]
        )

        assert facts(trade, now).still_waiting == 1
        Channel.objects.update(state="paused")
        assert facts(trade, now).still_waiting == 0

    def test_leaves_out_raises_refusals_and_what_was_no_sale(self, trade: Trade, now: datetime) -> None:
        sale, edit = (
            event(trade.shops["north"], now - seconds(60), topic=topic)
            for topic in ("orders/create", "inventory_levels/update")
        )
        push(trade.shops["south"], "MUG", sale, after=seconds(1), by=+1)
        push(trade.shops["south"], "MUG", sale, after=seconds(1), state=PushState.REJECTED, error_code="X")
        push(trade.shops["south"], "TEE", edit, after=seconds(2))

        assert facts(trade, now).latency == {}
        assert facts(trade, now, shop="south").latency == {latency_class(2): 1}

    def test_is_of_the_span_and_the_merchant(self, trade: Trade, now: datetime) -> None:
        stranger = make_trade("Birch")
        for shop, at in (
            (trade.shops["north"], now - HOUR - seconds(1)),
            (trade.shops["north"], now),
            (stranger.shops["north"], now - seconds(60)),
        ):
            push(shop, "MUG", event(shop, at), after=seconds(1))

        assert facts(trade, now).latency == {}
        everybody = scorecard.facts(scorecard.every_merchant(), since=now - HOUR, until=now)
        assert everybody[None].latency == {latency_class(1): 1}


def test_errors_are_dead_letters_and_levels_that_a_store_refuses(trade: Trade, now: datetime) -> None:
    north, south = trade.shops["north"], trade.shops["south"]
    sale = event(north, now - seconds(60))
    event(north, now - seconds(50), state=EventState.DEAD)
    push(south, "MUG", sale, after=seconds(1))
    for _ in range(3):
        push(south, "TEE", sale, after=seconds(1), state=PushState.REJECTED, error_code="INVALID_LOCATION")
    for passing in ("CHANGE_FROM_QUANTITY_STALE", "HTTP_503", "THROTTLED", "NOT_FOUND_APPLIED", ""):
        push(south, "MUG", sale, after=seconds(1), state=PushState.REJECTED, error_code=passing)

    found = facts(trade, now)

    assert (found.events, found.events_dead, found.writes, found.writes_refused) == (2, 1, 1, 1)
    assert facts(trade, now, shop="north").events_dead == 1
    assert facts(trade, now, shop="south").writes_refused == 1


def test_accuracy_and_mismatches_come_from_passes_and_their_findings(trade: Trade, now: datetime) -> None:
    shop = trade.shops["north"]
    for started_at, levels in ((now - seconds(60), 100), (now - seconds(30), 50), (now - HOUR * 2, 999)):
        ReconcileRun.objects.create(
            merchant=trade.merchant,
            channel=shop.channel,
            state=RunState.DONE,
            started_at=started_at,
            finished_at=started_at + seconds(1),
            levels_read=levels,
            levels_suspect=levels // 50,
        )
    for action, cause in ((DriftAction.EXPLAINED, DriftCause.LATE_WRITE), (DriftAction.ADOPTED, "")):
        Drift.objects.create(
            cause=cause,
            merchant=trade.merchant,
            channel=shop.channel,
            listing_level=shop.level("MUG"),
            expected=10,
            actual=9,
            action=action,
            correlation_id=uuid.uuid4(),
            found_at=now - seconds(10),
        )

    for found in (facts(trade, now), facts(trade, now, shop="north")):
        assert (found.levels_compared, found.levels_differing) == (150, 3)
        assert (found.drifts, found.drifts_unexplained) == (2, 1)


def sell(level: StockLevel, units: int, at: datetime, correlation_id: uuid.UUID) -> None:
    seq = (Movement.objects.filter(stock_level=level).order_by("-seq").values_list("seq", flat=True).first() or 0) + 1
    Movement.objects.create(
        merchant_id=level.merchant_id,
        stock_level=level,
        seq=seq,
        account=Account.COMMITTED,
        delta=units,
        balance_after=units,
        cause=Cause.SALE,
        idempotency_key=str(uuid.uuid4()),
        correlation_id=correlation_id,
        effective_at=at,
    )


def short(level: StockLevel, units: int, at: datetime, correlation_id: uuid.UUID, *, covered: int = 0) -> Shortage:
    made = Shortage.objects.create(
        merchant_id=level.merchant_id,
        stock_level=level,
        quantity=units,
        quantity_covered=covered,
        cause=Cause.SALE,
        reference="#1",
        correlation_id=correlation_id,
        occurred_at=at,
        covered_at=at if covered == units else None,
    )
    Shortage.objects.filter(pk=made.pk).update(created_at=at)
    return made


def test_overselling_is_units_short_of_units_sold_with_cause_and_story(trade: Trade, now: datetime) -> None:
    level, at = trade.stock("MUG"), now + seconds(1)
    sale = event(trade.shops["north"], now - seconds(5))
    sell(level, 20, now, sale.correlation_id)
    sell(level, 5, now, id_of(now))
    short(level, 2, now - seconds(1), sale.correlation_id, covered=1)
    short(level, 1, now - seconds(1), uuid.uuid4(), covered=1)
    short(level, 7, now - HOUR * 2, sale.correlation_id)

    found, of_north = facts(trade, at), facts(trade, at, shop="north")

    assert (found.units_sold, found.units_short, found.units_short_open, found.shortages) == (25, 3, 1, 2)
    assert (of_north.units_sold, of_north.units_short, of_north.shortages) == (20, 2, 1)
    told = scorecard.shortages([trade.merchant.pk], since=now - HOUR, until=at)
    assert [(one.sku, one.quantity, one.open_units, one.cause, one.channel) for one in told] == [
        ("MUG", 1, 0, "sale", ""),
        ("MUG", 2, 1, "sale", "North"),
    ]
    of_channel = scorecard.shortages(
        [trade.merchant.pk], channel_id=trade.shops["north"].channel.pk, since=now - HOUR, until=at
    )
    assert [one.correlation_id for one in of_channel] == [sale.correlation_id]


def test_what_waits_is_told_by_channel_and_as_a_whole(trade: Trade, now: datetime) -> None:
    north, south = trade.shops["north"], trade.shops["south"]
    event(north, now - seconds(30), state=EventState.PENDING)
    event(south, now - seconds(50), state=EventState.PENDING)
    event(south, now - HOUR * 30, state=EventState.DEAD)
    DirtySku.objects.create(
        merchant=trade.merchant, sku=trade.skus["MUG"], correlation_id=uuid.uuid4(), caused_at=now - seconds(70)
    )
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(desired=9, waiting_since=now - seconds(20))

    found = scorecard.waits([trade.merchant.pk], now=now)

    assert found[north.channel.pk] == Waits(30.0, None, 20.0, 1, 0)
    assert found[south.channel.pk] == Waits(50.0, None, None, 1, 1)
    assert found[None] == Waits(50.0, 70.0, 20.0, 2, 1)
    assert scorecard.waits([make_trade("Birch").merchant.pk], now=now)[None] == Waits()


def test_buffers_add_up_over_hours(trade: Trade, now: datetime) -> None:
    shop = trade.shops["north"]
    for hour, used, size in ((now - HOUR, 1, 5), (now - HOUR / 2, 3, 4), (now - HOUR * 3, 9, 9)):
        BufferUse.objects.create(
            merchant=trade.merchant,
            channel=shop.channel,
            hour=hour,
            levels=2,
            entered=1,
            below_zero=1,
            used=used,
            size=size,
        )

    found = facts(trade, now, shop="north")

    assert (found.buffer_hours, found.buffer_levels, found.buffer_entered, found.buffer_below_zero) == (2, 2, 2, 2)
    assert (found.buffer_used, found.buffer_size) == (3, 4)


def test_figures_are_judged_for_a_merchant_a_channel_and_everybody(trade: Trade, now: datetime) -> None:
    event(trade.shops["north"], now - seconds(60), state=EventState.DEAD)
    span: dict[str, Any] = {"since": now - HOUR, "until": now, "now": now}

    def errors(merchant_id: int | None, channel_id: int | None = None) -> Standing:
        figures = scorecard.figures(merchant_id=merchant_id, channel_id=channel_id, **span)
        return next(one.standing for one in figures if one.key == "errors")

    assert errors(trade.merchant.pk) is Standing.BAD
    assert errors(trade.merchant.pk, trade.shops["north"].channel.pk) is Standing.BAD
    assert errors(trade.merchant.pk, trade.shops["south"].channel.pk) is Standing.UNKNOWN
    assert errors(None) is Standing.BAD
    assert errors(make_trade("Birch").merchant.pk) is Standing.UNKNOWN


# --- what it costs --------------------------------------------------------------------------------------------

DAYS_KEPT, A_DAY = 60, 400
BIG = {
    "channels_inboxevent",
    "channels_push",
    "inventory_movement",
    "inventory_shortage",
    "sync_drift",
    "sync_reconcilerun",
}

_ID = """(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
    || substr(md5(number::text), 1, 3) || '8' || substr(md5(number::text), 4, 15))::uuid"""


def grow(trade: Trade, now: datetime) -> None:
    """Two months of history, evenly spread."""
    north = trade.shops["north"]
    rows = (
        "SELECT number, " + _ID + " AS id, at FROM (SELECT number, %s - number * interval '1 day' / %s AS at"
        " FROM generate_series(1, %s) AS number) AS made"
    )
    moments: list[Any] = [now, A_DAY, DAYS_KEPT * A_DAY]
    level, stock = north.level("MUG").pk, trade.stock("MUG").pk
    ids: list[Any] = [trade.merchant.pk, north.channel.pk]
    for statement, parameters in (
        (
            "INSERT INTO channels_inboxevent (merchant_id, channel_id, topic, webhook_id, body_kept_on, body_sha256,"
            " hlc, received_at, correlation_id, state, settled_at) SELECT %s, %s, 'orders/create', id, at,"
            " '', 0, at, id, 'applied', at",
            ids,
        ),
        (
            "INSERT INTO channels_pushbatch (id, merchant_id, channel_id, state, lease_token, created_at)"
            " SELECT id, %s, %s, 'done', 1, at",
            ids,
        ),
        (
            "INSERT INTO channels_push (merchant_id, channel_id, batch_id, position, listing_level_id, from_quantity,"
            " to_quantity, state, correlation_ids, caused_at, created_at, settled_at)"
            " SELECT %s, %s, id, 0, %s, 10, 9, 'confirmed', ARRAY[id], at, at, at",
            [*ids, level],
        ),
        (
            "INSERT INTO inventory_movement (merchant_id, stock_level_id, seq, account, delta, balance_after, cause,"
            " idempotency_key, reference, source, correlation_id, effective_at, created_at)"
            " SELECT %s, %s, 10 + number, 'committed', 1, 1, 'sale', id, '', '', id, at, at",
            [trade.merchant.pk, stock],
        ),
        (
            "INSERT INTO inventory_shortage (merchant_id, stock_level_id, quantity, cause, reference, correlation_id,"
            " occurred_at, created_at) SELECT %s, %s, 1, 'sale', '', id, at, at",
            [trade.merchant.pk, stock],
        ),
        (
            "INSERT INTO sync_drift (merchant_id, channel_id, listing_level_id, expected, actual, action, explanation,"
            " correlation_id, found_at) SELECT %s, %s, %s, 1, 2, 'adopted', '', id, at",
            [*ids, level],
        ),
        (
            "INSERT INTO sync_reconcilerun (merchant_id, channel_id, state, started_at, finished_at)"
            " SELECT %s, %s, 'done', at, at",
            ids,
        ),
    ):
        with connection.cursor() as cursor:
            cursor.execute(f"{statement} FROM ({rows}) AS told", [*parameters, *moments])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(table, how it is read, rows read) of every node that reads a table."""
    if "Relation Name" in plan:
        read = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
        yield plan["Relation Name"], plan["Node Type"], round(read)
    for part in plan.get("Plans", []):
        yield from scans(part)


@pytest.mark.slow
def test_a_day_reads_a_day_whatever_was_kept_before(
    trade: Trade, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(trade, now)
    found: list[tuple[str, str, int]] = []
    rows = sql.rows

    def explained(statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        told = rows(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        found.extend(scans(told[0][0][0]["Plan"]))
        return rows(statement, parameters)

    monkeypatch.setattr(sql, "rows", explained)

    of_a_day = facts(trade, now, span=timedelta(days=1))

    assert of_a_day.events == of_a_day.units_short == of_a_day.drifts == A_DAY
    assert {table for table, _, _ in found} >= BIG
    # The margins around the ids are some minutes; writes are followed for two days, which lie ahead.
    greedy = [scan for scan in found if scan[0] in BIG and (scan[1] == "Seq Scan" or scan[2] > 2 * A_DAY)]
    assert greedy == []
