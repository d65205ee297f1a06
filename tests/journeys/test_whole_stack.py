"""The whole stack, as `make run` starts it, through the troubles that real ones have.

Shoppers buy while things are killed and channels fail. Afterwards nothing may be lost and every store must show the right
number.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psycopg
import pytest

from synctec.lib import failpoints
from synctec.local.datafolder import PROJECT
from tests.journeys.town import Town
from tests.local.conftest import is_gone, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000), pytest.mark.xdist_group("stack")]

FAULTS = {
    "webhook_double_rate": 0.3,
    "webhook_reorder_rate": 0.3,
    "webhook_lost_rate": 0.2,
    "webhook_delay_ms": [0, 800],
    "timeout_after_rate": 0.1,
    "timeout_before_rate": 0.05,
    "error_rate": 0.05,
    "throttle_rate": 0.05,
}


def test_one_sale_reaches_every_other_store(town: Town) -> None:
    report = town.manage("sell_one")

    assert report["converged"] is True
    assert report["stores"] == len(town.handles)


def test_workers_that_are_told_to_stop_note_the_answers_to_their_writes_first(town: Town, armed: Path) -> None:
    stack = town.stack
    workers = [child for child in stack.children() if child.name.startswith("worker-")]
    seller = town.handles[0]
    with psycopg.connect(stack.environment["DATABASE_URL"], autocommit=True) as books:
        [(began_at,)] = books.execute("SELECT now()")
        failpoints.arm(armed, "push.after_send", "pause:3")
        # One of them at least is not divided among the stores, so that its sale is pushed to the others.
        for sku in town.stores.skus(seller):
            town.stores.buy(seller, sku)
        # A store has answered, and its answer is in the memory of a worker alone.
        until((lambda: not (armed / "push.after_send").exists()), timeout_seconds=60)

        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGTERM)
        until(lambda: all(worker.pid is not None and is_gone(worker.pid) for worker in workers), timeout_seconds=60)

        writes = books.execute(
            "SELECT state, attempts FROM channels_pushbatch WHERE created_at > %s ORDER BY id", [began_at]
        ).fetchall()
    assert len(writes) > 0
    assert set(writes) == {("done", 1)}
    # The supervisor notices a moment later.
    ended = [f"{worker.name} ended (exit status 0)" for worker in workers]
    until(lambda: all(says in stack.folder.log_file.read_text() for says in ended))
    assert town.manage("audit")["ok"] is True


def test_nothing_is_lost_when_channels_fail_and_workers_are_killed(town: Town) -> None:
    buyers = town.shoppers(8, max_quantity=3, return_share=0.1)
    town.set_faults(FAULTS)
    buyers.start()
    for victim in ("worker-1", "valkey-3", "worker-2", "worker-1"):
        time.sleep(3)
        town.stack.kill(victim)
    time.sleep(3)
    tally = buyers.stop()
    town.set_faults({})

    report = town.manage("audit", "--settle")

    assert report["violations"] == []
    assert report["quiet"] is True
    assert tally.orders > 50


@pytest.mark.parametrize("victims", [("valkey-1", "valkey-2", "valkey-3"), ("postgres",)])
def test_nothing_is_lost_when_servers_are_away(town: Town, victims: tuple[str, ...]) -> None:
    buyers = town.shoppers(4, max_quantity=3, return_share=0.1)
    buyers.start()
    time.sleep(2)
    for victim in victims:
        town.stack.kill(victim, down_seconds=10)
    time.sleep(12)
    tally = buyers.stop()

    # Without anyone's help: no reconciliation is asked for. A webhook that met nobody is tried again after up to 36 s.
    until(town.has_told_all, timeout_seconds=120)
    report = town.manage("audit")

    assert report["violations"] == []
    assert report["quiet"] is True
    assert tally.orders > 20


def test_every_acknowledged_webhook_is_in_the_inbox(town: Town) -> None:
    report = town.manage("audit")

    assert "acknowledged_webhooks_are_stored" in report["checks"]
    assert report["violations"] == []


def test_the_data_folder_is_of_this_test_alone(town: Town) -> None:
    assert town.stack.folder.path != Path(PROJECT / ".local")
