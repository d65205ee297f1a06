"""Sales reach every other store: many of them within a minute, and many of one SKU at the same moment."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.journeys.town import EXPECTED_MS, PROMISED_MS, Town, say, within

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("stack")]

ORDERS = 50
#: They come faster than in the minute they may take: that asks for more, and waits for less.
ORDERS_SECONDS = 15.0


@pytest.fixture
def divided(town: Town) -> Iterator[Town]:
    """The stack with its stock divided among the stores: what is shown is nowhere shown a second time."""
    town.set_policy("split")
    yield town
    town.set_policy("shared")


def test_fifty_orders_within_a_minute_reach_every_other_store(town: Town) -> None:
    market = town.open_market(dict.fromkeys(town.plain_skus, 60))
    rng = random.Random(1)

    for _ in range(ORDERS):
        town.stores.buy(rng.choice(town.handles), rng.choice(town.plain_skus), rng.randint(1, 2))
        time.sleep(ORDERS_SECONDS / ORDERS)
    town.until_calm()

    measured = market.measured()
    say(
        f"{measured.sales} orders in {ORDERS_SECONDS:.0f} s over {len(town.handles)} stores: "
        f"p50 {measured.percentile(0.5)} ms, p99 {measured.percentile(0.99)} ms until every store showed it"
    )
    assert (measured.sales, measured.unreflected) == (ORDERS, 0)
    assert market.wrong() == []
    assert within(measured.percentile(0.5), EXPECTED_MS)
    assert within(measured.percentile(1.0), PROMISED_MS)


def test_a_sku_sold_at_the_same_moment_in_every_store_ends_exact_with_each_unit_too_many_in_a_shortage(
    town: Town,
) -> None:
    sku, other = town.plain_skus[:2]
    stock = 7
    market = town.open_market({sku: stock, other: 60})

    sold = town.buy_at_once([(handle, sku, 2) for handle in town.handles for _ in range(2)])
    town.until_calm()

    short = town.rows(
        """
        SELECT shortage.quantity - shortage.quantity_covered, shortage.cause, shortage.reference
        FROM inventory_shortage shortage
        JOIN inventory_stocklevel level ON level.id = shortage.stock_level_id
        JOIN inventory_sku sku ON sku.id = level.sku_id WHERE sku.code = %s AND shortage.covered_at IS NULL
        """,
        [sku],
    )
    say(f"{sold} units of {stock} were sold at the same moment, {sold - stock} too many")
    names = {order["name"] for handle in town.handles for order in town.stores.orders(handle, limit=10)}
    assert market.sold() == Counter({sku: sold, other: 0})
    # Each store serves its first buyer before it can know of the others.
    assert sold > stock
    assert market.wrong() == []
    assert sum(units for units, _, _ in short) == sold - stock
    assert {cause for _, cause, _ in short} == {"sale"}
    assert {reference for _, _, reference in short} <= names


def test_a_sku_sold_at_the_same_moment_in_every_store_is_never_oversold_where_stock_is_divided(divided: Town) -> None:
    town, sku = divided, divided.plain_skus[0]
    stock = 12
    town.stock_up({sku: stock})
    town.until_calm()
    shown = {handle: town.stores.goods(handle)[sku].available for handle in town.handles}
    before = town.rows("SELECT count(*) FROM inventory_shortage")

    sold = town.buy_at_once([(handle, sku, 1) for handle in town.handles for _ in range(stock // 2)])
    town.until_calm()

    say(f"of {stock} units the stores showed {shown}; {sold} were sold")
    left = {handle: town.stores.goods(handle)[sku].available for handle in town.handles}
    assert sum(shown.values()) <= stock
    assert sold == sum(shown.values())
    assert sum(left.values()) == stock - sold
    assert town.rows("SELECT count(*) FROM inventory_shortage") == before
