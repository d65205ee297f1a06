"""The simulator's second tier: the same worlds with their books in PostgreSQL."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from django.db import connection

from sync.simulator.postgres import PostgresWorld, virtual_database
from sync.simulator.run import run_many, run_one
from sync.simulator.world import Setting

pytestmark = pytest.mark.django_db(transaction=True)

SMALL = Setting(policy="split", stores=3, shoppers=24, shopping_seconds=60.0, bundles=1)


@pytest.fixture(autouse=True)
def _virtual(transactional_db: None) -> Iterator[None]:
    with virtual_database():
        yield


@pytest.mark.parametrize(("policy", "warehouses"), [("split", 1), ("shared", 1), ("split", 3)])
def test_without_faults_both_tiers_live_the_same_history(policy: str, warehouses: int) -> None:
    setting = replace(SMALL, policy=policy, warehouses=warehouses, faults="none")

    real, played = run_one(setting, 1, tier=PostgresWorld), run_one(setting, 1)

    assert replace(real, seconds=0.0) == replace(played, seconds=0.0)
    assert real.units_sold > 0
    assert not real.violation


def test_fixed_seeds_hold_under_all_faults() -> None:
    summary = run_many(SMALL, range(3), tier=PostgresWorld)

    assert not summary.bad, summary.bad
    assert summary.total("oversold_units") == summary.total("undeclared_units") == 0
    assert summary.total("units_sold") > 0


def test_a_seed_is_a_run_to_the_last_event() -> None:
    first, again = (run_one(SMALL, 7, tier=PostgresWorld) for _ in range(2))

    assert replace(first, seconds=0.0) == replace(again, seconds=0.0)


def test_the_auditor_asks_the_tables() -> None:
    world = PostgresWorld(replace(SMALL, faults="none"), 1)
    world.run()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE channels_listinglevel SET base = base - 1, pushed = pushed + 1 WHERE id = 1")

    world.auditor.audit_end()

    assert [found.invariant for found in world.auditor.violations] == ["pushes_add_up"]
