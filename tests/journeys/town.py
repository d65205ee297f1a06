"""A town: one stack of real processes, its practice stores, and what programs and people do there, all over HTTP.

The books are only looked at. What must come out is worked out from the stores' own counts.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, LiteralString

import psycopg
import requests

from channels.shoppers import Shoppers, list_stores
from sync import quiet
from sync.management.commands.load_demo import OWNER_EMAIL
from sync.measure import Measured, measure
from sync.store_books import PracticeStores
from synctec.local.datafolder import PROJECT
from synctec.local.stack import LocalStack
from tests.journeys.visitor import Visitor
from tests.local.conftest import until

#: After so long every other store shows a sale: the target, whatever else the machine is busy with.
PROMISED_MS: Final = 30_000.0
#: What most sales take much less than, even there.
EXPECTED_MS: Final = 5_000.0
#: As many lines as a request to the API may have.
LINES_MAX: Final = 1_000
MAIN: Final = "MAIN"
#: What the page of dead letters says when there are none.
NO_LETTERS: Final = "Nothing waits for you"


class Town:
    """What journeys do with a stack that runs."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.url = stack.urls["web"]
        self.sandbox = stack.urls["sandbox"]
        self.stores = PracticeStores(self.sandbox)
        self.handles = list_stores(self.sandbox)

    # --- looking ------------------------------------------------------------------------------------------------------

    def rows(self, query: LiteralString, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of our database, over a connection of their own: servers are killed here."""
        with psycopg.connect(self.stack.environment["DATABASE_URL"], connect_timeout=5) as books:
            return books.execute(query, parameters).fetchall()

    def execute(self, statement: LiteralString, parameters: Sequence[object] = ()) -> None:
        """Change our database as nobody may but time."""
        with psycopg.connect(self.stack.environment["DATABASE_URL"], connect_timeout=5) as books:
            books.execute(statement, parameters)

    def manage(self, *arguments: str) -> dict[str, Any]:
        """What a command prints as JSON when it is run against the stack."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments, "--json"],
            cwd=PROJECT,
            env={**os.environ, **self.stack.environment},
            capture_output=True,
            text=True,
            timeout=900,  # a write in doubt keeps a level from its number for 200 s
            check=False,
        )
        assert done.stdout.strip(), done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def is_ready(self) -> bool:
        """Whether the web server has all that it needs."""
        return requests.get(f"{self.url}/readyz", timeout=10).status_code == 200

    def is_at_rest(self) -> bool:
        """Whether nothing waits for the engine."""
        return self.rows(quiet.OPEN_WORK) == [(0,)]

    def has_told_all(self) -> bool:
        """Whether no store has a webhook left to deliver."""
        return not any(self.waiting_webhooks(handle) for handle in self.handles)

    def waiting_webhooks(self, handle: str) -> list[dict[str, Any]]:
        """Deliveries of a store that are under way, or are tried again later."""
        answer = requests.get(f"{self.sandbox}/_control/stores/{handle}/webhooks", timeout=5)
        waiting: list[dict[str, Any]] = answer.json()["waiting"]
        return waiting

    def stats_since_start(self, handle: str) -> dict[str, int]:
        """What a store counted since its process began: calls, and how they ended."""
        answer = requests.get(f"{self.sandbox}/_control/stores/{handle}/stats", timeout=5)
        counted: dict[str, int] = answer.json()["since_start"]
        return counted

    def until_calm(self, *, timeout_seconds: float = 120) -> None:
        """Wait until the stores have told everything, and nothing has been left to do for a moment."""
        calm_since = 0.0

        def is_calm() -> bool:
            nonlocal calm_since
            if not (self.has_told_all() and self.is_at_rest()):
                calm_since = 0.0
                return False
            calm_since = calm_since or time.monotonic()
            return time.monotonic() - calm_since >= quiet.STILL_SECONDS

        until(is_calm, timeout_seconds=timeout_seconds)

    @cached_property
    def buffers(self) -> dict[str, int]:
        """Units that are kept back from each store."""
        rules = self.rows(
            """
            SELECT channel.account, rule.buffer_units FROM locations_publishingrule rule
            JOIN channels_channel channel ON channel.id = rule.channel_id
            WHERE rule.sku_id IS NULL AND rule.listing_id IS NULL
            """
        )
        kept = {account.split(".")[0]: units or 0 for account, units in rules}
        return {handle: kept.get(handle, 0) for handle in self.handles}

    @cached_property
    def plain_skus(self) -> list[str]:
        """SKUs that are neither bundles nor components: their numbers are moved by their own sales alone."""
        return [
            code
            for (code,) in self.rows(
                """
                SELECT code FROM inventory_sku sku WHERE kind = 'stocked'
                    AND NOT EXISTS (SELECT 1 FROM inventory_bomline line WHERE line.component_id = sku.id) ORDER BY id
                """
            )
        ]

    def channel_id(self, handle: str) -> int:
        """A store's channel."""
        found = self.rows("SELECT id FROM channels_channel WHERE split_part(account, '.', 1) = %s", [handle])
        return int(found[0][0])

    def channel_name(self, handle: str) -> str:
        """What people call the store."""
        found = self.rows("SELECT name FROM channels_channel WHERE split_part(account, '.', 1) = %s", [handle])
        return str(found[0][0])

    # --- doing --------------------------------------------------------------------------------------------------------

    def set_faults(self, faults: Mapping[str, object], *, handle: str = "") -> None:
        """Have one store go wrong, or all; {} heals them."""
        self.stores.set_faults(dict(faults), handle=handle)

    def shoppers(self, rate: float, *, handles: Sequence[str] = (), **wishes: Any) -> Shoppers:
        """People who buy in these stores, or in all of them."""
        return Shoppers(self.sandbox, handles or self.handles, rate, random.Random(7), **wishes)

    @cached_property
    def owner(self) -> Visitor:
        """The merchant's owner, signed in."""
        visitor = Visitor(self.url)
        visitor.sign_in(OWNER_EMAIL, self.stack.demo_password)
        return visitor

    @cached_property
    def _key(self) -> str:
        """An API key, made in the admin as its owner would."""
        page = self.owner.fill_in("/admin/merchants/apikey/make/", name="warehouse", scopes=["stock:write"], days="30")
        (secret,) = set(re.findall(r"st_[0-9a-f]{8}_[\w-]{43}", page.text))
        return str(secret)

    def count(self, quantities: Mapping[tuple[str, str], int]) -> list[float]:
        """Report counts by (SKU, warehouse) through the API, in batches; returns the seconds that each took."""
        mark = time.time_ns()
        lines = [
            {"key": f"count-{mark}-{place}", "sku": sku, "warehouse": warehouse, "quantity": units}
            for place, ((sku, warehouse), units) in enumerate(quantities.items())
        ]
        seconds = []
        for start in range(0, len(lines), LINES_MAX):
            asked = {"mode": "all_or_nothing", "lines": lines[start : start + LINES_MAX]}
            headers = {"Authorization": f"Bearer {self._key}", "Idempotency-Key": f"counts-{mark}-{start}"}
            began = time.monotonic()
            answer = requests.post(f"{self.url}/api/v1/counts", json=asked, headers=headers, timeout=60)
            seconds.append(time.monotonic() - began)
            assert answer.status_code == 200, answer.text[:500]
            assert {line["status"] for line in answer.json()["results"]} == {"applied"}
        return seconds

    def stock_up(self, units: Mapping[str, int]) -> list[float]:
        """Have so many units of each SKU available, all in the main warehouse; returns the seconds of each batch."""
        taken = self.rows(
            """
            SELECT sku.code, warehouse.code, level.committed + level.held FROM inventory_stocklevel level
            JOIN inventory_sku sku ON sku.id = level.sku_id
            JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id
            WHERE sku.code = ANY(%s)
            """,
            [list(units)],
        )
        counted = {(sku, warehouse): beyond for sku, warehouse, beyond in taken}
        for sku, quantity in units.items():
            counted[sku, MAIN] = counted.get((sku, MAIN), 0) + quantity
        return self.count(counted)

    def open_market(self, units: Mapping[str, int]) -> Market:
        """Begin with so many units of each SKU, shown by every store."""
        self.stock_up(units)
        self.until_calm()
        self.confirm_held()  # many numbers may have changed by much
        self.until_calm()
        market = Market(
            self,
            dict(units),
            {handle: self.stores.latest_change(handle) for handle in self.handles},
            {handle: _sold(self.stores, handle) for handle in self.handles},
        )
        assert market.wrong() == []
        return market

    def set_policy(self, policy: str) -> None:
        """Have the group publish by another policy, on its page in the admin, and every store follow."""
        ((group_id,),) = self.rows("SELECT id FROM locations_locationgroup")
        page = self.owner.fill_in(f"/admin/locations/locationgroup/{group_id}/change/", policy=policy)
        if "look before it is saved" in page.text:
            self.owner.send(page, reason="a journey")
        assert self.rows("SELECT policy FROM locations_locationgroup") == [(policy,)]
        self.until_calm()
        self.confirm_held()
        self.until_calm()

    def confirm_held(self) -> None:
        """Confirm every change that is held because it changes so many numbers by so much."""
        links = dict.fromkeys(
            link for link, _ in self.owner.read("/holds/").links if re.fullmatch(r"/holds/\d+/", link)
        )
        for link in links:
            if "Confirm: write them all" in self.owner.read(link).text:
                self.owner.fill_in(link, act="confirm", reason="a journey")

    def reconcile_once(self) -> list[dict[str, int]]:
        """Press "Reconcile now" on every channel's page; what each pass found, once all have ended."""
        ((newest,),) = self.rows("SELECT coalesce(max(id), 0) FROM sync_reconcilerun")
        for handle in self.handles:
            self.owner.fill_in(f"/admin/channels/channel/{self.channel_id(handle)}/reconcile/", reason="a journey")

        def runs() -> list[tuple[Any, ...]]:
            return self.rows(
                """
                SELECT state, orders_read, orders_recovered, levels_read, levels_suspect FROM sync_reconcilerun WHERE id > %s
                """,
                [newest],
            )

        until(lambda: Counter(run[0] for run in runs()) == {"done": len(self.handles)}, timeout_seconds=120)
        names = ("orders_read", "orders_recovered", "levels_read", "levels_suspect")
        return [dict(zip(names, run[1:], strict=True)) for run in runs()]

    def buy_at_once(self, wishes: Iterable[tuple[str, str, int]]) -> int:
        """Orders by (store, SKU, units), all let in at the same moment; returns the units that were sold."""
        wanted = list(wishes)
        barrier = threading.Barrier(len(wanted))
        sold: list[int] = []

        def buy(handle: str, sku: str, units: int) -> None:
            asked = {"lines": [{"sku": sku, "quantity": units}]}
            with requests.Session() as shopper:
                barrier.wait(timeout=30)
                answer = shopper.post(f"{self.sandbox}/{handle}/shop/orders", json=asked, timeout=30)
            if answer.status_code == 201:
                sold.append(units)
            else:
                assert answer.json()["error"] == "sold_out", answer.text

        together(*((lambda wish=wish: buy(*wish)) for wish in wanted))
        return sum(sold)


@dataclass(frozen=True)
class Market:
    """Goods of which all numbers are known at the beginning: `units` of each SKU, and what the stores had done before."""

    town: Town
    units: dict[str, int]
    changes_before: dict[str, int]
    sold_before: dict[str, Counter[str]]

    def sold(self) -> Counter[str]:
        """Units that the stores say they have sold since, by SKU."""
        total: Counter[str] = Counter()
        for handle in self.town.handles:
            total.update(_sold(self.town.stores, handle))
            total.subtract(self.sold_before[handle])
        return Counter({sku: total[sku] for sku in self.units})

    def wrong(self, *, but_for: str = "") -> list[str]:
        """Stores that show another number than what is left of a SKU, minus what is kept back from them."""
        sold = self.sold()
        found = []
        for handle in self.town.handles:
            if handle == but_for:
                continue
            shelf = self.town.stores.goods(handle)
            for sku, units in self.units.items():
                should = max(0, units - sold[sku] - self.town.buffers[handle])
                if shelf[sku].available != should:
                    found.append(f"{handle} shows {shelf[sku].available} of {sku} and should show {should}")
        return found

    def measured(self, handles: Sequence[str] = ()) -> Measured:
        """How long after each sale the others of these stores (or of all) showed it, by their own clocks."""
        changes = [
            change
            for handle in self.town.handles
            for change in self.town.stores.changes(handle, after=self.changes_before[handle])
            if change.sku in self.units
        ]
        return measure(changes, handles or self.town.handles)


def _sold(stores: PracticeStores, handle: str) -> Counter[str]:
    return Counter({sku: good.net_units_sold for sku, good in stores.goods(handle).items()})


def together(*deeds: Callable[[], object]) -> None:
    """Do all of it at the same time, each in a thread; the first failure is the caller's."""
    failures: list[BaseException] = []

    def attempt(deed: Callable[[], object]) -> None:
        try:
            deed()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=attempt, args=(deed,), daemon=True) for deed in deeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


def within(latency_ms: float | None, limit_ms: float) -> bool:
    """Whether something was measured, and was no slower."""
    return latency_ms is not None and latency_ms <= limit_ms


def say(text: str) -> None:
    """A figure for whoever reads the run (`pytest -s`, or the report of a failure)."""
    sys.stdout.write(f"\n{text}\n")
