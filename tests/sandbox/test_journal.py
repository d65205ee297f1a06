"""What was answered survives SIGKILL; what was written is read again exactly."""

from __future__ import annotations

import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from channels.sandbox.journal import DataError, Journal
from channels.sandbox.mall import Mall
from channels.sandbox.store import Refusal
from tests.sandbox.clients import Receiver, StoreClient, call, codes, wait_until


def trade(mall: Mall) -> None:
    """A bit of everything."""
    mall.make_store(handle="north", name="North", seed=7)
    do: Callable[..., Any] = lambda command, **arguments: mall.perform("north", command, arguments)  # noqa: E731
    do("install", client_id="id", client_secret="secret", access_token="token")
    do("add_location", name="Main")
    made = do("add_variants", variants=[{"sku": "A", "levels": {"Main": 9}}, {"sku": "B"}])
    fields = {"uri": "http://127.0.0.1:1/hooks"}
    do("create_subscription", topic="INVENTORY_LEVELS_UPDATE", fields=fields, api_version="2026-10")
    order = do("place_order", lines=[{"sku": "A", "quantity": 2}])
    do("fulfill_order", order_id=order["id"])
    do("adjust", sku="A", delta=-1)
    row = {
        "inventoryItemId": f"gid://shopify/InventoryItem/{made[0]['inventory_item_id']}",
        "locationId": f"gid://shopify/Location/{next(iter(mall.store('north').locations))}",
        "quantity": 4,
        "changeFromQuantity": None,
    }
    do("set_quantities", input={"name": "available", "reason": "correction", "quantities": [row]}, key="k")
    do("set_faults", switches={"error_rate": 0.5})


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """A function that opens the journal of the test's folder; each opening closes the one before."""
    opened: list[Journal] = []

    def open_again() -> Journal:
        for journal in opened:
            journal.close()
        opened.append(Journal(tmp_path))
        return opened[-1]

    yield open_again
    for journal in opened:
        journal.close()


def test_replaying_the_journal_gives_the_same_stores(open_journal: Callable[[], Journal]) -> None:
    mall = Mall(open_journal())
    trade(mall)

    again = Mall(open_journal())

    assert again.stores == mall.stores


def test_a_picture_gives_the_same_stores_and_goes_on(open_journal: Callable[[], Journal], tmp_path: Path) -> None:
    mall = Mall(open_journal())
    trade(mall)
    mall.take_picture()
    mall.perform("north", "adjust", {"sku": "A", "delta": 5})

    again = Mall(open_journal())

    assert again.stores == mall.stores
    assert len(list(tmp_path.glob("picture-*.bin"))) == 1
    assert len(list(tmp_path.glob("commands-*.jsonl"))) == 1


def test_a_line_torn_in_the_middle_is_dropped(open_journal: Callable[[], Journal], tmp_path: Path) -> None:
    mall = Mall(open_journal())
    trade(mall)
    (log,) = tmp_path.glob("commands-*.jsonl")
    whole = log.read_bytes()
    log.write_bytes(whole + b'["north",99,"adj')

    again = Mall(open_journal())

    assert again.stores == mall.stores
    assert log.read_bytes() == whole


def test_a_refused_command_leaves_no_trace(open_journal: Callable[[], Journal]) -> None:
    mall = Mall(open_journal())
    trade(mall)
    before = (mall.store("north").next_id, len(mall.store("north").changes))

    with pytest.raises(Refusal, match="sold out"):
        mall.perform("north", "place_order", {"lines": [{"sku": "A", "quantity": 99}]})

    assert (mall.store("north").next_id, len(mall.store("north").changes)) == before
    assert Mall(open_journal()).stores == mall.stores


def test_moments_of_a_store_never_repeat(open_journal: Callable[[], Journal]) -> None:
    mall = Mall(open_journal(), clock_us=lambda: 1_000_000)
    trade(mall)

    moments = [change.at_us for change in mall.store("north").changes]

    assert len(moments) > 3
    assert moments == sorted(set(moments))


def test_a_folder_serves_one_sandbox_at_a_time(open_journal: Callable[[], Journal], tmp_path: Path) -> None:
    open_journal()

    with pytest.raises(DataError, match="another sandbox uses"):
        Journal(tmp_path)


def test_a_picture_of_something_else_is_refused(open_journal: Callable[[], Journal], tmp_path: Path) -> None:
    (tmp_path / "picture-000001.bin").write_bytes(pickle.dumps(subprocess.Popen))

    with pytest.raises(DataError, match="does not belong"):
        Mall(open_journal())


class Process:
    """A sandbox in a process of its own, to be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "channels.sandbox",
            "--port",
            str(self.port),
            "--data",
            str(self.folder),
        ]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(self._answers, seconds=30)

    def _answers(self) -> bool:
        try:
            return call("GET", f"{self.url}/_control/health")[0] == 200
        except OSError:
            return False

    def end(self, with_signal: int = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(with_signal)
        return self._process.wait(20)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    running = Process(tmp_path / "data")
    running.start()
    yield running
    running.end()


@pytest.mark.slow
def test_a_killed_sandbox_comes_back_with_everything_it_answered(process: Process, receiver: Receiver) -> None:
    recipe = {"handle": "north", "retry_scale": 0.0001}
    store = StoreClient(process.url, call("POST", f"{process.url}/_control/stores", recipe)[1])
    store.add_variants([{"sku": "A", "levels": {"Main": 50}}])
    store.subscribe("ORDERS_CREATE", receiver.url)
    store.set_faults(webhook_delay_ms=60_000)
    names = [store.buy("A")["name"] for _ in range(20)]
    rows = [store.row("A", 10, 30)]
    answered = store.set(rows, key="once")
    shelf, changes = store.shelf()["variants"], store.changes()
    process.end()

    process.start()

    assert store.shelf()["variants"] == shelf
    assert store.changes() == changes
    assert [o["name"] for o in call("GET", f"{store.url}/shop/orders")[1]] == names[::-1]
    assert store.set(rows, key="once") == answered
    assert codes(store.set([store.row("A", 9, 30)], key="once")) == ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]
    assert call("GET", f"{store.control}/faults")[1]["webhook_delay_ms"] == [60_000, 60_000]
    wait_until(lambda: len(receiver.deliveries) == 20)
    assert {one.json["name"] for one in receiver.deliveries} == set(names)


@pytest.mark.slow
def test_a_terminated_sandbox_saves_a_picture_and_ends_well(process: Process) -> None:
    store = StoreClient(process.url, call("POST", f"{process.url}/_control/stores", {"handle": "north"})[1])
    store.add_variants([{"sku": "A", "levels": {"Main": 50}}])

    status = process.end(signal.SIGTERM)
    process.start()

    assert status == 0
    assert store.available("A") == 50
    assert len(list(process.folder.glob("picture-*.bin"))) == 1
