"""Messages that fail, in either direction, are sent again until they arrive, and count once."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.journeys.town import Market, Town, say
from tests.local.conftest import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("stack")]

#: Webhooks are tried again after 0.1, 0.3, 0.9, 3, 9, 18 ... seconds (the real ones: after 10, 30, 90 ...).
RETRY_SCALE = 0.01


def failed_webhooks(town: Town) -> int:
    """Deliveries that met nobody, or were answered with an error, by the stores' own count."""
    return sum(town.stores.stats(handle).get("webhooks_failed", 0) for handle in town.handles)


def buy_one_everywhere(town: Town, market: Market) -> Counter[str]:
    """One unit of each SKU of the market in every store; what was sold."""
    for handle in town.handles:
        for sku in market.units:
            town.stores.buy(handle, sku)
    return Counter(dict.fromkeys(market.units, len(town.handles)))


def test_webhooks_that_fail_while_the_database_is_away_are_delivered_again_by_the_stores(town: Town) -> None:
    market = town.open_market(dict.fromkeys(town.plain_skus[:3], 40))
    failed_before = failed_webhooks(town)
    ((passes_before,),) = town.rows("SELECT count(*) FROM sync_reconcilerun")
    for handle in town.handles:
        town.stores.configure(handle, {"retry_scale": RETRY_SCALE})

    town.stack.kill("postgres", down_seconds=5)
    sold = buy_one_everywhere(town, market)
    until(lambda: failed_webhooks(town) - failed_before >= sold.total(), timeout_seconds=60)
    until(town.is_ready, timeout_seconds=60)
    town.until_calm()

    failed = failed_webhooks(town) - failed_before
    say(f"{failed} deliveries failed while the database was away; {sold.total()} orders arrived all the same")
    assert market.sold() == sold
    assert market.wrong() == []
    # It was the stores that told of them again, not we who asked.
    assert town.rows("SELECT count(*) FROM sync_reconcilerun") == [(passes_before,)]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"error_rate": 1.0}, id="answered with an error"),
        pytest.param({"timeout_before_rate": 1.0}, id="never answered, not carried out"),
        pytest.param({"timeout_after_rate": 1.0}, id="never answered, but carried out"),
    ],
)
def test_a_push_that_fails_is_sent_again_until_the_store_takes_it_and_counts_once(
    town: Town, fault: dict[str, object]
) -> None:
    sku = town.plain_skus[0]
    market = town.open_market({sku: 40})
    seller, troubled, *others = town.handles
    calls_before = failing_calls(town, troubled)

    town.set_faults(fault, handle=troubled)
    town.stores.buy(seller, sku, 3)
    until(lambda: failing_calls(town, troubled) - calls_before >= 2, timeout_seconds=60)
    until(lambda: all(town.stores.goods(other)[sku].available == 37 - town.buffers[other] for other in others))
    town.set_faults({}, handle=troubled)
    town.until_calm()

    writes = [
        change.delta
        for change in town.stores.changes(troubled, after=market.changes_before[troubled])
        if change.sku == sku
    ]
    tried = failing_calls(town, troubled) - calls_before
    say(f"{tried} calls failed, then the store took {writes}")
    assert market.wrong() == []
    assert writes == [-3]


def failing_calls(town: Town, handle: str) -> int:
    """Calls of ours that a store spoiled, by its own count."""
    counted = town.stats_since_start(handle)
    return sum(counted.get(name, 0) for name in ("api_errors", "answers_lost_before", "answers_lost_after"))
