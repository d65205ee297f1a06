"""A warehouse system reports the counts of hundreds and of thousands of products: every store shows every new number."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import psycopg
import pytest

from synctec.local.stack import LocalStack
from tests.journeys.town import Town, say
from tests.local.conftest import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("stack")]

PRODUCTS = 10_000
STORES = 2


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A stack of its own with a catalogue of thousands; the fewer stores, the sooner it is there."""
    local = LocalStack(
        tmp_path_factory.mktemp("wide") / "data",
        demo_options=(f"--stores={STORES}", f"--skus={PRODUCTS}", "--bundles=0"),
    )
    began = time.monotonic()
    with local:
        say(f"{PRODUCTS} products in {STORES} stores were there after {time.monotonic() - began:.0f} s")
        with psycopg.connect(local.environment["DATABASE_URL"], autocommit=True) as books:
            books.execute("UPDATE locations_locationgroup SET policy = 'shared'")
        town = Town(local)
        town.until_calm(timeout_seconds=300)
        yield town
    local.remove_data()


@pytest.mark.parametrize("products", [500, PRODUCTS])
def test_counts_of_many_products_reach_every_store_and_none_is_lost(wide: Town, products: int) -> None:
    rng = random.Random(products)
    # No number changes by more than half: so big a change of so many is somebody's slip, as a rule.
    counted = {sku: rng.randint(40, 70) for sku in wide.plain_skus[:products]}

    began = time.monotonic()
    batches = wide.stock_up(counted)
    acknowledged = time.monotonic() - began
    until(wide.is_at_rest, timeout_seconds=600)
    shown = time.monotonic() - began

    lost = [
        (handle, sku)
        for handle in wide.handles
        for sku, good in wide.stores.goods(handle).items()
        if sku in counted and good.available != counted[sku] - wide.buffers[handle]
    ]
    say(
        f"{len(counted)} products: {len(batches)} batches acknowledged after {acknowledged:.1f} s "
        f"({max(batches):.2f} s at most for one), shown by {len(wide.handles)} stores after {shown:.1f} s"
    )
    assert len(counted) == products
    assert lost == []
