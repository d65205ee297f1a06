"""The whole stack, as `make run` starts it, through the troubles that real ones have.

Real processes and servers on free ports, in a folder of their own; shoppers buy while things are killed and channels
fail. Afterwards nothing may be lost and every store must show the right number.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from channels.shoppers import Shoppers
from sync.store_books import PracticeStores
from synctec.lib import failpoints
from synctec.local.datafolder import PROJECT
from synctec.local.stack import LocalStack
from tests.local.conftest import is_gone, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000), pytest.mark.xdist_group("stack")]

STORES = 4
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


@pytest.fixture(scope="session")
def armed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of failpoints that the stack obeys."""
    return tmp_path_factory.mktemp("failpoints")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, armed: Path) -> Iterator[LocalStack]:
    local = LocalStack(
        tmp_path_factory.mktemp("stack") / "data",
        demo_options=(f"--stores={STORES}", "--skus=40"),
        variables={"FAILPOINTS": str(armed)},
    )
    with local:
        # These are about messages and crashes. What a policy divides among the stores is the short chaos's affair.
        with psycopg.connect(local.environment["DATABASE_URL"], autocommit=True) as books:
            books.execute("UPDATE locations_locationgroup SET policy = 'shared'")
        yield local
    local.remove_data()


def manage(stack: LocalStack, *arguments: str) -> dict[str, Any]:
    """What a command prints as JSON when it is run against the stack."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments, "--json"],
        cwd=PROJECT,
        env={**os.environ, **stack.environment},
        capture_output=True,
        text=True,
        timeout=900,  # a write in doubt keeps a level from its number for 200 s
        check=False,
    )
    assert done.stdout.strip(), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def handles(stack: LocalStack) -> list[str]:
    answer: list[str] = requests.get(f"{stack.urls['sandbox']}/_control/health", timeout=5).json()["stores"]
    return answer


def set_faults(stack: LocalStack, faults: dict[str, object]) -> None:
    requests.put(f"{stack.urls['sandbox']}/_control/faults", json=faults, timeout=5).raise_for_status()


def until_all_is_told(stack: LocalStack) -> None:
    """Wait until the stores have delivered every webhook: one that met nobody is tried again after up to 36 s."""
    control = f"{stack.urls['sandbox']}/_control/stores"
    until(
        lambda: (
            not any(requests.get(f"{control}/{name}/webhooks", timeout=5).json()["waiting"] for name in handles(stack))
        ),
        timeout_seconds=120,
    )


def shoppers(stack: LocalStack, rate: float) -> Shoppers:
    return Shoppers(stack.urls["sandbox"], handles(stack), rate, random.Random(7), max_quantity=3, return_share=0.1)


def test_one_sale_reaches_every_other_store(stack: LocalStack) -> None:
    report = manage(stack, "sell_one")

    assert report["converged"] is True
    assert report["stores"] == STORES


def test_workers_that_are_told_to_stop_note_the_answers_to_their_writes_first(stack: LocalStack, armed: Path) -> None:
    workers = [child for child in stack.children() if child.name.startswith("worker-")]
    stores = PracticeStores(stack.urls["sandbox"])
    seller = handles(stack)[0]
    with psycopg.connect(stack.environment["DATABASE_URL"], autocommit=True) as books:
        [(began_at,)] = books.execute("SELECT now()")
        failpoints.arm(armed, "push.after_send", "pause:3")
        # One of them at least is not divided among the stores, so that its sale is pushed to the others.
        for sku in stores.skus(seller):
            stores.buy(seller, sku)
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
    assert manage(stack, "audit")["ok"] is True


def test_nothing_is_lost_when_channels_fail_and_workers_are_killed(stack: LocalStack) -> None:
    buyers = shoppers(stack, rate=8)
    set_faults(stack, FAULTS)
    buyers.start()
    for victim in ("worker-1", "valkey-3", "worker-2", "worker-1"):
        time.sleep(3)
        stack.kill(victim)
    time.sleep(3)
    tally = buyers.stop()
    set_faults(stack, {})

    report = manage(stack, "audit", "--settle")

    assert report["violations"] == []
    assert report["quiet"] is True
    assert tally.orders > 50


@pytest.mark.parametrize("victims", [("valkey-1", "valkey-2", "valkey-3"), ("postgres",)])
def test_nothing_is_lost_when_servers_are_away(stack: LocalStack, victims: tuple[str, ...]) -> None:
    buyers = shoppers(stack, rate=4)
    buyers.start()
    time.sleep(2)
    for victim in victims:
        stack.kill(victim, down_seconds=10)
    time.sleep(12)
    tally = buyers.stop()

    # Without anyone's help: no reconciliation is asked for.
    until_all_is_told(stack)
    report = manage(stack, "audit")

    assert report["violations"] == []
    assert report["quiet"] is True
    assert tally.orders > 20


def test_every_acknowledged_webhook_is_in_the_inbox(stack: LocalStack) -> None:
    report = manage(stack, "audit")

    assert "acknowledged_webhooks_are_stored" in report["checks"]
    assert report["violations"] == []


def test_the_data_folder_is_of_this_test_alone(stack: LocalStack) -> None:
    assert stack.folder.path != Path(PROJECT / ".local")
