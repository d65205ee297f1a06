"""What a chaos run plays on: a throw-away stack behind proxies, its stores, and the people who come to them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import redis

from channels.shoppers import Shoppers
from sync.management.demo_goods import bundles, demo_stores, goods
from sync.store_books import PracticeStores
from synctec.lib import failpoints
from synctec.lib.http import HttpError
from synctec.local.datafolder import PROJECT
from synctec.local.process import LogStream
from synctec.local.stack import LocalStack

Answer = TypeVar("Answer")

GOODS, BUNDLES = 40, 2
#: Of goods that are in no bundle: those for probes, and those the staff counts anew. Shoppers leave both alone.
PROBES, COUNTED = 2, 3
ORDERS_PER_SECOND = 4.0
UNITS_MAX = 3
#: Acts of the staff, and of shoppers who change their minds, per second.
CHANGES_PER_SECOND = 1.0
#: A webhook that failed is tried again for half a minute instead of four hours.
RETRY_SCALE = 0.002
#: Reconciliation is for every few hours; a run has minutes.
VARIABLES = {"RECONCILE_EVERY_SECONDS": "30"}


class Scene:
    """The stack with everything around it, between `open` and leaving it."""

    def __init__(self, folder: Path, *, stores: int, minutes: float, seed: int) -> None:
        carried = goods(GOODS)
        in_bundles = {code for bundle in bundles(BUNDLES, carried) for code, _ in bundle.parts}
        plain = [good.code for good in carried if good.code not in in_bundles]
        self.probes, self.counted, self.plain = (
            plain[:PROBES],
            plain[PROBES : PROBES + COUNTED],
            plain[PROBES + COUNTED :],
        )
        self.handles = [store.handle for store in demo_stores(stores)]
        # Enough for a while, and not to the end: the last units are what is fought over.
        wanted_units = ORDERS_PER_SECOND * 60 * minutes * (1 + UNITS_MAX) / 2
        self.opening_units = max(20, int(0.7 * wanted_units / GOODS))
        self._orders = folder / "orders.jsonl"
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir()
        self._for_sale = [*self.plain, *in_bundles, *(bundle.code for bundle in bundles(BUNDLES, carried))]
        self._seed = seed
        self._probes_made = 0
        self._probes_shown: dict[tuple[str, str], int] = {}
        self._stopping = threading.Event()
        self.changes: Counter[str] = Counter()
        self.stack = LocalStack(
            folder / "data",
            demo_options=(
                f"--stores={stores}",
                f"--skus={GOODS}",
                f"--bundles={BUNDLES}",
                f"--units={self.opening_units}",
            ),
            variables={**VARIABLES, "FAILPOINTS": str(self.failpoints)},
            behind_proxies=True,
            log=LogStream((folder / "stack.log").open("w"), colour=False),
        )

    @contextmanager
    def open(self) -> Iterator[Scene]:
        """Start everything, let people in, and leave nothing behind."""
        try:
            self.stack.start()
            self.environment = self.stack.direct_environment
            self.stores = PracticeStores(self.environment["SANDBOX_URL"])
            for handle in self.handles:
                self.stores.configure(handle, {"retry_scale": RETRY_SCALE})
                on_shelf = self.stores.goods(handle)
                self._probes_shown |= {(handle, sku): on_shelf[sku].available for sku in self.probes}
            self.shoppers = Shoppers(
                self.environment["SANDBOX_URL"],
                self.handles,
                ORDERS_PER_SECOND,
                random.Random(self._seed),
                max_quantity=UNITS_MAX,
                return_share=0.1,
                skus=self._for_sale,
            )
            self._staff = threading.Thread(target=self._change_minds, name="staff", daemon=True)
            self.shoppers.start()
            self._staff.start()
            yield self
        finally:
            self._stopping.set()
            self.stack.discard()

    def close_stores(self) -> None:
        """Nobody buys and nobody changes anything any more."""
        self._stopping.set()
        self._staff.join()
        self.shoppers.stop()

    # --- people who change what was sold ------------------------------------------------------------------------------

    def _change_minds(self) -> None:
        rng = random.Random(self._seed + 1)
        while not self._stopping.wait(rng.expovariate(CHANGES_PER_SECOND)):
            change = rng.choice((self.refund, self.edit, self.fulfil, self.count_anew))
            if succeeds(partial(change, rng)):
                self.changes[change.__name__] += 1

    def refund(self, rng: random.Random) -> None:
        handle, order, line = self._some_line(rng)
        kind = "return" if line["fulfilled"] else rng.choice(("cancel", "no_restock"))
        body = {"lines": [{"line_id": line["id"], "quantity": 1, "restock_type": kind}]}
        self.stores.act(handle, f"shop/orders/{order['id']}/refund", body)

    def edit(self, rng: random.Random) -> None:
        handle, order, line = self._some_line(rng)
        if rng.random() < 0.5:
            body = {"removals": [{"line_id": line["id"], "quantity": 1}]}
        else:
            body = {"additions": [{"sku": rng.choice(self.plain), "quantity": 1}]}
        self.stores.act(handle, f"shop/orders/{order['id']}/edit", body)

    def fulfil(self, rng: random.Random) -> None:
        handle, order, _ = self._some_line(rng)
        self.stores.act(handle, f"shop/orders/{order['id']}/fulfill", {})

    def count_anew(self, rng: random.Random) -> None:
        """The staff of a store finds a unit more or less than the store shows."""
        body = {"sku": rng.choice(self.counted), "delta": rng.choice((-1, 1))}
        self.stores.act(rng.choice(self.handles), "admin-ui/adjust", body)

    def _some_line(self, rng: random.Random) -> tuple[str, dict[str, Any], dict[str, Any]]:
        handle = rng.choice(self.handles)
        order = rng.choice(self.stores.orders(handle, limit=20))
        return handle, order, rng.choice(order["lines"])

    # --- is it at work? -----------------------------------------------------------------------------------------------

    def seconds_to_sync(self, *, patience_seconds: float) -> float | None:
        """Sell a unit, and tell how long it took until every store stopped offering it; None when it takes too long.

        From the moment of the call, so that a kill just before it is part of the time.
        """
        began = time.monotonic()
        self._probes_made += 1
        sku = self.probes[self._probes_made % len(self.probes)]
        store = self.handles[self._probes_made % len(self.handles)]
        while not succeeds(lambda: self.stores.buy(store, sku)):
            if time.monotonic() - began > patience_seconds:
                return None
            time.sleep(0.1)
        while time.monotonic() - began < patience_seconds:
            if calmly(lambda: self._is_in_step(sku)):
                return time.monotonic() - began
            time.sleep(0.2)
        return None

    def _is_in_step(self, sku: str) -> bool:
        """Whether every store has taken off its shelf what all stores together have sold."""
        probes = {handle: self.stores.goods(handle)[sku] for handle in self.handles}
        sold = sum(probe.net_units_sold for probe in probes.values())
        return all(probe.available == self._probes_shown[handle, sku] - sold for handle, probe in probes.items())

    def await_children(self, *, timeout_seconds: float) -> bool:
        """Wait until every process of the stack runs."""
        deadline = time.monotonic() + timeout_seconds
        while not all(child.is_running for child in self.stack.children()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    # --- what is done to it -------------------------------------------------------------------------------------------

    def flush(self, nodes: Sequence[int]) -> None:
        """FLUSHALL on these Valkey nodes, past the proxies; one that is down has nothing to lose."""
        for node in nodes:
            try:
                with redis.Redis.from_url(self.stack.valkeys[node].url(), socket_timeout=2) as client:
                    client.flushall()
            except redis.RedisError:
                continue

    def heal(self) -> None:
        """Nothing is wrong any more: what is stopped goes on, what is armed is disarmed."""
        for link in self.stack.links.values():
            link.heal()
        for point in failpoints.POINTS:
            failpoints.disarm(self.failpoints, point)
        for child in self.stack.children():
            self.stack.resume(child.name)
        while not succeeds(lambda: self.stores.set_faults({})):
            time.sleep(0.2)

    # --- what came of it ----------------------------------------------------------------------------------------------

    def audit(self, *, timeout_seconds: float) -> dict[str, Any]:
        """Two passes of reconciliation, then the auditor, in a process attached to the stack."""
        words = ["audit", "--settle", "--json", "--timeout", str(timeout_seconds)]
        done = subprocess.run(  # noqa: S603  # our own command
            [sys.executable, "manage.py", *words],
            cwd=PROJECT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=4 * timeout_seconds,
            check=False,
        )
        if not done.stdout.strip():
            raise RuntimeError(
                done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the auditor said nothing"
            )
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def write_orders(self) -> None:
        """Leave every order as its store and as we know it in a file, a JSON object a line."""
        ours: dict[tuple[str, str], list[Any]] = {}
        statement = """
            SELECT split_part(channel.account, '.', 1), line.order_id, to_jsonb(line) FROM sync_orderline line
            JOIN channels_channel channel ON channel.id = line.channel_id
        """
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            for handle, order_id, line in connection.execute(statement):
                ours.setdefault((handle, order_id), []).append(line)
        with self._orders.open("w") as file:
            for handle in self.handles:
                for order in self.stores.orders(handle, limit=1_000):
                    lines = ours.get((handle, str(order["id"])), [])
                    file.write(json.dumps({"store": handle, "theirs": order, "ours": lines}, default=str) + "\n")

    def units_sold(self) -> Counter[str]:
        """Units sold and not put back, by SKU, by the books of the stores."""
        sold: Counter[str] = Counter()
        for handle in self.handles:
            for sku, good in self.stores.goods(handle).items():
                sold[sku] += good.net_units_sold
        return sold

    def units_declared(self) -> Counter[str]:
        """Units we admit to have sold beyond stock, by SKU."""
        statement = """
            SELECT sku.code, sum(shortage.quantity - shortage.quantity_covered) FROM inventory_shortage shortage
            JOIN inventory_stocklevel level ON level.id = shortage.stock_level_id
            JOIN inventory_sku sku ON sku.id = level.sku_id
            WHERE shortage.covered_at IS NULL GROUP BY 1
        """
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            return Counter({sku: int(units) for sku, units in connection.execute(statement)})


def calmly(act: Callable[[], Answer]) -> Answer | None:
    """What the act returns; None when the stores cannot be reached or say no."""
    try:
        return act()
    except (HttpError, OSError, LookupError):
        # Refusals are errors of `requests`, which are OSErrors; an empty list of orders is a LookupError.
        return None


def succeeds(act: Callable[[], object]) -> bool:
    """Do it; False when the stores cannot be reached or say no."""
    return calmly(lambda: (act(),)) is not None
