"""The database's own guard over bundles, whoever writes to it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from inventory.models import BomLine, Sku, SkuKind
from synctec.lib import sql
from tests.factories import Trade, make_trade

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    alder = make_trade(shops=())
    for code in "ABCDEFG":
        alder.skus[code] = Sku.objects.create(merchant=alder.merchant, code=code, kind=SkuKind.BUNDLE)
    return alder


def line(trade: Trade, way: str) -> BomLine:
    """A line such as "AB": B goes into A."""
    bundle, component = (trade.skus[code] for code in way)
    return BomLine(merchant=trade.merchant, bundle=bundle, component=component, quantity=1)


def test_a_cycle_is_refused_with_the_way_round(alder: Trade) -> None:
    line(alder, "AB").save()
    line(alder, "BC").save()

    with pytest.raises(IntegrityError, match="the bundle would contain itself: C > A > B > C"):
        line(alder, "CA").save()

    assert BomLine.objects.count() == 2


def test_a_cycle_within_one_statement_or_by_a_change_is_refused_too(alder: Trade) -> None:
    with pytest.raises(IntegrityError, match="contain itself"):
        BomLine.objects.bulk_create([line(alder, "AB"), line(alder, "BA")])
    BomLine.objects.bulk_create([line(alder, "AB"), line(alder, "BC"), line(alder, "CD")])

    with pytest.raises(IntegrityError, match="contain itself: C > A > B > C"):
        BomLine.objects.filter(component=alder.skus["D"]).update(component=alder.skus["A"])


def test_shared_parts_are_no_cycle(alder: Trade) -> None:
    BomLine.objects.bulk_create([line(alder, way) for way in ("AB", "AC", "BD", "CD")])

    assert BomLine.objects.count() == 4


def test_bundles_are_nested_five_levels_deep_and_no_deeper_wherever_the_new_line_is(alder: Trade) -> None:
    BomLine.objects.bulk_create([line(alder, way) for way in ("AB", "BC", "DE", "EF")])

    with pytest.raises(IntegrityError, match="more than 5 levels deep"):
        BomLine.objects.bulk_create([line(alder, "CD"), line(alder, "FG")])
    line(alder, "CD").save()

    with pytest.raises(IntegrityError, match="more than 5 levels deep"):
        line(alder, "FG").save()


def test_of_two_halves_of_a_cycle_added_at_once_one_is_refused(alder: Trade) -> None:
    both_have_begun = Barrier(2)

    def add(way: str) -> bool:
        try:
            with transaction.atomic():
                sql.rows("SELECT 1")
                both_have_begun.wait(20)
                line(alder, way).save()
                sql.rows("SELECT pg_sleep(0.1)")
            return True
        except IntegrityError:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as threads:
        added = list(threads.map(add, ["AB", "BA"]))

    assert sorted(added) == [False, True]
    assert BomLine.objects.count() == 1


def test_where_the_past_is_all_that_is_seen_bundles_cannot_be_changed(alder: Trade) -> None:
    with transaction.atomic():
        sql.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(OperationalError, match="REPEATABLE READ"):
            line(alder, "AB").save()
        transaction.set_rollback(True)

    assert not BomLine.objects.exists()
