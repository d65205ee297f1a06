"""After a restore from a backup: the procedure of docs/runbook.md gives every store the right number again."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection

from channels.protocol import PolledOrder
from sync import apply, check, passes, publish, push
from sync.models import Drift
from synctec.local.datafolder import PROJECT
from tests.engine import engine, ref
from tests.factories import Trade, later, make_trade, polled_body
from tests.fakes import FakeChannel
from tests.journeys.doorstep import broken_invariants

pytestmark = pytest.mark.django_db(transaction=True)

PASSES = 4


def run_procedure() -> None:
    """What the runbook has the operator type into psql, to the letter."""
    runbook = (PROJECT / "docs" / "runbook.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sql\n(.*?)```", runbook, re.DOTALL)
    (block,) = [block for block in blocks if "channels_listinglevel" in block]
    with connection.cursor() as cursor:
        cursor.execute(block)


def run_engine(trade: Trade, stores: dict[str, FakeChannel]) -> None:
    """Reconcile, apply, publish, check and push, several times and far enough apart for any doubt to be settled."""
    for turn in range(PASSES):
        now = later(1000) + turn * timedelta(seconds=90)
        for name, shop in trade.shops.items():
            passes.reconcile(engine(now, {shop.channel: stores[name]}), channel=shop.channel)
        while apply.apply_batch(engine(now), merchant_id=trade.merchant.pk).claimed:
            pass
        publish.publish_batch(engine(now), merchant_id=trade.merchant.pk)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE channels_listinglevel SET next_check_at = now() WHERE suspect_since IS NOT NULL")
        for name, shop in trade.shops.items():
            check.check_channel(engine(now, {shop.channel: stores[name]}), channel=ref(shop.channel))
        publish.publish_batch(engine(now), merchant_id=trade.merchant.pk)
        for name, shop in trade.shops.items():
            push.push_channel(engine(stores={shop.channel: stores[name]}), channel=ref(shop.channel))


def test_a_sale_and_its_pushes_since_the_backup_are_counted_once() -> None:
    trade = make_trade(shops=("north", "south", "west"), stock_of={"MUG": 10})
    stores = {name: FakeChannel.of(shop) for name, shop in trade.shops.items()}
    # Of this the backup knows nothing: South sold 3, and the others were lowered for it.
    south = trade.shops["south"]
    stores["south"].orders.append(PolledOrder("555", later(10), polled_body(south, 555, "MUG", 3)))
    for name, shop in trade.shops.items():
        stores[name].levels[stores[name].where(shop, "MUG")] = 7

    run_procedure()
    run_engine(trade, stores)

    assert trade.stock("MUG").available == 7
    assert {quantity for store in stores.values() for quantity in store.levels.values()} == {7}
    assert not Drift.objects.exists()
    assert broken_invariants() == []
