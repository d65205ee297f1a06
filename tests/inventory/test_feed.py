"""The feed of changes: nothing is left out, whatever the order in which transactions end."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.db import connection

from inventory import feed, stock
from inventory.models import Movement
from merchants.api import encode_cursor
from tests.factories import NOON, Trade, make_trade
from tests.inventory.conftest import Program

pytestmark = pytest.mark.django_db(transaction=True)


def adjust(trade: Trade, delta: int, code: str = "MUG") -> None:
    stock.adjust(
        merchant_id=trade.merchant.pk,
        sku_id=trade.skus[code].pk,
        warehouse_id=trade.warehouse.pk,
        delta=delta,
        reason="test",
        user=None,
        now=NOON,
    )


def another_connection() -> psycopg.Connection[Any]:
    parameters = {name: value for name, value in connection.get_connection_params().items() if name in _PARAMETERS}
    return psycopg.connect(**parameters)


_PARAMETERS = ("host", "port", "user", "password", "dbname")

_WRITE = """
    INSERT INTO inventory_movement (merchant_id, stock_level_id, seq, account, delta, balance_after, cause, idempotency_key,
        reference, correlation_id, effective_at)
    VALUES (%s, %s, %s, 'on_hand', 1, 11, 'adjustment', %s, '', gen_random_uuid(), now()) RETURNING id
"""


def everything(trade: Trade, *, limit: int = 500) -> list[int]:
    """The sequence numbers a follower sees who reads on and on, per movement."""
    position, seen = feed.START, []
    while True:
        page = feed.read(merchant_id=trade.merchant.pk, after=position, limit=limit)
        seen += [movement["seq"] for change in page.changes for movement in change.movements]
        position = page.position
        if not page.has_more:
            return seen


def test_a_row_written_earlier_and_committed_later_is_not_lost(alder: Trade) -> None:
    level, start = alder.stock("MUG").pk, feed.end_of(alder.merchant.pk)
    merchant = alder.merchant.pk
    with another_connection() as early, another_connection() as late:
        (early_id,) = early.execute(_WRITE, [merchant, level, 101, "early"]).fetchone() or (0,)
        (late_id,) = late.execute(_WRITE, [merchant, level, 102, "late"]).fetchone() or (0,)
        late.commit()

        # The later row is there for everybody to see; a reader by ids would take it and pass the other for ever.
        assert early_id < late_id
        assert Movement.objects.filter(pk=late_id).exists()
        held_up = feed.read(merchant_id=merchant, after=start)
        early.commit()

    assert held_up.changes == ()
    assert held_up.position == start
    (change,) = feed.read(merchant_id=merchant, after=held_up.position).changes
    assert [movement["seq"] for movement in change.movements] == [101, 102]


def test_a_transaction_that_began_earlier_and_writes_later_is_not_lost(alder: Trade) -> None:
    merchant, level, start = alder.merchant.pk, alder.stock("MUG").pk, feed.end_of(alder.merchant.pk)
    with another_connection() as slow:
        slow.execute(_WRITE, [merchant, level, 101, "slow-1"])
        adjust(alder, 1, "TEE")
        slow.execute(_WRITE, [merchant, level, 102, "slow-2"])
        adjust(alder, 1, "TEE")
        assert feed.read(merchant_id=merchant, after=start).changes == ()
        slow.commit()

    page = feed.read(merchant_id=merchant, after=start)
    assert {change.sku: len(change.movements) for change in page.changes} == {"MUG": 2, "TEE": 2}
    assert feed.read(merchant_id=merchant, after=page.position).changes == ()


def test_what_is_rolled_back_holds_nothing_up(alder: Trade) -> None:
    start = feed.end_of(alder.merchant.pk)
    with another_connection() as failed:
        failed.execute(_WRITE, [alder.merchant.pk, alder.stock("MUG").pk, 101, "failed"])
        failed.rollback()
    adjust(alder, 1)

    assert len(feed.read(merchant_id=alder.merchant.pk, after=start).changes) == 1


def test_a_page_tells_of_a_level_once_with_its_numbers_of_now(alder: Trade) -> None:
    start = feed.end_of(alder.merchant.pk)
    for delta in (1, 2, -4):
        adjust(alder, delta)
    adjust(alder, 5, "TEE")

    page = feed.read(merchant_id=alder.merchant.pk, after=start, limit=2)

    (change,) = page.changes
    assert (change.sku, change.warehouse, change.on_hand, change.available, change.seq) == ("MUG", "MAIN", 9, 9, 4)
    assert [movement["delta"] for movement in change.movements] == [1, 2]
    assert page.has_more
    rest = feed.read(merchant_id=alder.merchant.pk, after=page.position)
    assert [(change.sku, len(change.movements)) for change in rest.changes] == [("MUG", 1), ("TEE", 1)]


@pytest.mark.parametrize("limit", [1, 3, 500])
def test_pages_of_any_size_tell_everything_once(alder: Trade, limit: int) -> None:
    for delta in (1, 2, -1, 3):
        adjust(alder, delta)

    assert sorted(everything(alder, limit=limit)) == sorted(Movement.objects.values_list("seq", flat=True))


def test_a_place_ahead_of_everything_is_refused(alder: Trade) -> None:
    with pytest.raises(feed.CursorOfAnotherTime):
        feed.read(merchant_id=alder.merchant.pk, after=feed.Position(2**50, 1))


# --- through the API ----------------------------------------------------------------------------------------


def test_a_follower_reads_on_from_its_cursor(alder: Trade) -> None:
    wms = Program(alder.merchant)
    first = wms.get("changes").json()
    assert {change["sku"] for change in first["changes"]} == {"MUG", "TEE"}
    assert first["changes"][0]["movements"][0]["cause"] == "opening"
    assert not first["has_more"]

    nothing = wms.get("changes", cursor=first["next"]).json()
    adjust(alder, 3)
    (change,) = wms.get("changes", cursor=nothing["next"]).json()["changes"]

    assert nothing["changes"] == []
    assert (change["sku"], change["on_hand"], change["seq"]) == ("MUG", 13, 2)


def test_an_integration_can_leave_out_its_own_echo(alder: Trade) -> None:
    wms, other = Program(alder.merchant), Program(alder.merchant)
    start = wms.get("changes").json()["next"]
    line = {"type": "receipt", "sku": "MUG", "warehouse": "MAIN", "quantity": 1}
    wms.post_lines("movements", line | {"key": "mine"})

    own = wms.get("changes", cursor=start, skip_own="true").json()
    heard = other.get("changes", cursor=start, skip_own="true").json()
    other.post_lines("movements", line | {"key": "theirs"})

    assert own["changes"] == []
    assert heard["changes"][0]["movements"][0]["source"] == wms.key.prefix
    assert len(wms.get("changes", cursor=own["next"], skip_own="true").json()["changes"]) == 1


def test_holds_of_its_own_are_left_out_too(alder: Trade) -> None:
    till, other = Program(alder.merchant), Program(alder.merchant)
    start = till.get("changes").json()["next"]
    for acts in (("commit", "cancel"), ("commit", "fulfil"), ("release",)):
        hold_id = till.post("holds", {"sku": "MUG", "quantity": 1}).json()["id"]
        assert [till.post(f"holds/{hold_id}/{act}", {}).status_code for act in acts] == [200] * len(acts)

    assert till.get("changes", cursor=start, skip_own="true").json()["changes"] == []
    assert other.get("changes", cursor=start, skip_own="true").json()["changes"] != []


def test_a_bad_cursor_is_refused_and_one_from_before_a_restore_too(alder: Trade) -> None:
    wms = Program(alder.merchant)

    assert wms.get("changes", cursor="nonsense").status_code == 400
    ahead = wms.get("changes", cursor=encode_cursor(2**50, 1))
    assert (ahead.status_code, ahead.json()["type"]) == (410, "urn:synctec:problem:cursor-gone")


def test_nobody_hears_of_another_merchant(alder: Trade) -> None:
    birch = make_trade("Birch", stock_of={"CUP": 3})
    adjust(birch, 1, "CUP")

    skus = {change["sku"] for change in Program(alder.merchant).get("changes").json()["changes"]}

    assert skus == {"MUG", "TEE"}
