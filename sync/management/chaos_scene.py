"""What a chaos run plays on: a throw-away stack behind proxies, its stores, and the people and programs that come to them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import psycopg
import redis

from channels.shoppers import Shoppers
from merchants import keys
from merchants.models import Scope
from sync import invariants, quiet
from sync.management.chaos_till import MARK, Promise, Till
from sync.management.demo_goods import bundles, demo_stores, goods
from sync.store_books import Good, PracticeStores
from synctec.lib import failpoints
from synctec.lib.http import HttpError
from synctec.local.datafolder import PROJECT
from synctec.local.process import LogStream
from synctec.local.stack import LocalStack

Answer = TypeVar("Answer")

GOODS, BUNDLES = 40, 2
#: How long it may take until every store shows its part of a new policy.
REST_SECONDS = 120.0
#: Of goods that are in no bundle: those for probes, and those the staff counts anew. Shoppers leave both alone.
PROBES, COUNTED = 2, 3
ORDERS_PER_SECOND = 4.0
UNITS_MAX = 3
#: Acts of the staff, and of shoppers who change their minds, per second.
CHANGES_PER_SECOND = 1.0
#: A webhook that failed is tried again for half a minute instead of four hours.
RETRY_SCALE = 0.002
#: What holds weigh against a store where units are split: else no store would leave them any.
HOLDS_WEIGHT = 1.0
#: What must hold at any moment is asked for this often while things are broken.
LOOK_SECONDS = 5.0
#: Reconciliation is for every few hours; a run has minutes.
VARIABLES = {"RECONCILE_EVERY_SECONDS": "30"}


class Scene:
    """The stack with everything around it, between `open` and leaving it."""

    def __init__(self, folder: Path, *, stores: int, minutes: float, seed: int, policy: str) -> None:
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
        self._policy = policy
        self._stopping, self._closing = threading.Event(), threading.Event()
        #: What did not hold at some moment, by invariant.
        self.broken: dict[str, invariants.Violation] = {}
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
            self._choose_policy()
            self.till = self._open_till()
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
            self._auditor = threading.Thread(target=self._look_on, name="auditor", daemon=True)
            for thread in (self.shoppers, self._staff, self.till, self._auditor):
                thread.start()
            yield self
        finally:
            self._stopping.set()
            self._closing.set()
            self.stack.discard()

    def _choose_policy(self) -> None:
        """Have the group follow the policy, and let nobody in before every store shows its part."""
        with self._books() as connection:
            connection.execute(
                "UPDATE locations_locationgroup SET policy = %s, holds_weight = %s", [self._policy, HOLDS_WEIGHT]
            )
            # Another policy changes every number at once, and is meant.
            connection.execute("UPDATE channels_channel SET holds_big_runs = false")
            connection.execute(
                """
                INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
                SELECT merchant_id, id, gen_random_uuid(), now() FROM inventory_sku
                """
            )
        deadline = time.monotonic() + REST_SECONDS
        while not calmly(self._is_at_rest):
            if time.monotonic() > deadline:
                raise RuntimeError("The stores are not brought to their numbers before anything was done to the stack.")
            time.sleep(0.2)

    def _is_at_rest(self) -> bool:
        with self._books() as connection:
            return connection.execute(quiet.OPEN_WORK).fetchone() == (0,)

    def _open_till(self) -> Till:
        """A client of the API, with a key, on the way that is spoilt."""
        prefix, secret = keys.make_secret()
        with self._books() as connection:
            connection.execute(
                """
                INSERT INTO merchants_apikey (merchant_id, name, prefix, secret_sha256, scopes)
                SELECT id, 'till', %s, %s, %s FROM merchants_merchant
                """,
                [prefix, keys.digest(secret.reveal()), [Scope.HOLDS_WRITE.value, Scope.STOCK_WRITE.value]],
            )
        address = ("127.0.0.1", self.stack.links["web"].port)
        return Till(address, secret, random.Random(self._seed + 2), self.plain, self.counted)

    def _books(self) -> psycopg.Connection[Any]:
        """Our database, past the proxies."""
        return psycopg.connect(self.environment["DATABASE_URL"], connect_timeout=2)

    def close_stores(self) -> None:
        """Nobody buys and nobody changes anything any more."""
        self._stopping.set()
        self._staff.join()
        self.shoppers.stop()

    def close_till(self, *, patience_seconds: float) -> None:
        """No program asks for anything any more, once it has its answers; and nobody looks on."""
        self.till.stop(patience_seconds=patience_seconds)
        self._closing.set()
        self._auditor.join()

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

    # --- somebody who looks on ----------------------------------------------------------------------------------------

    def _look_on(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            # The database may be away; then there is nothing to see.
            with suppress(psycopg.Error), self._books() as connection:
                connection.read_only = True
                for violation in _broken(connection):
                    self.broken.setdefault(violation.name, violation)

    # --- is it at work? -----------------------------------------------------------------------------------------------

    def seconds_to_sync(self, *, patience_seconds: float) -> float | None:
        """Sell a unit, and tell how long it took until no store offered it any more; None when it takes too long.

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
        """Whether our books know what each store has sold, and none offers more than was computed with all that.

        It may offer less: after a write whose answer was lost a store is raised only when that cannot come true any more.
        """
        probes = {handle: self.stores.goods(handle)[sku] for handle in self.handles}
        statement = """
            SELECT split_part(channel.account, '.', 1), level.desired, -level.order_effects FROM inventory_sku sku
            JOIN channels_listing listing ON listing.sku_id = sku.id
            JOIN channels_listinglevel level ON level.listing_id = listing.id
            JOIN channels_channel channel ON channel.id = level.channel_id
            WHERE sku.code = %s AND NOT EXISTS (SELECT 1 FROM sync_dirtysku mark WHERE mark.sku_id = sku.id)
        """
        with self._books() as connection:
            ours = {handle: Good(*known) for handle, *known in connection.execute(statement, [sku])}
        return ours.keys() == probes.keys() and all(
            # One without a number of ours was not published yet.
            ours[handle].available is not None
            and probe.net_units_sold == ours[handle].net_units_sold
            and probe.available <= ours[handle].available
            for handle, probe in probes.items()
        )

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
        with self._books() as connection:
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
        return self._units(statement)

    def units_sold_by_holds(self) -> Counter[str]:
        """Units that are sold through the API, by SKU."""
        statement = """
            SELECT sku.code, sum(hold.quantity) FROM inventory_hold hold JOIN inventory_sku sku ON sku.id = hold.sku_id
            WHERE hold.state IN ('committed', 'fulfilled') GROUP BY 1
        """
        return self._units(statement)

    def units_held(self) -> Counter[str]:
        """Units that are kept for somebody who has not decided yet, by SKU."""
        statement = """
            SELECT sku.code, sum(hold.quantity) FROM inventory_hold hold JOIN inventory_sku sku ON sku.id = hold.sku_id
            WHERE hold.state = 'active' GROUP BY 1
        """
        return self._units(statement)

    def units_reported(self) -> Counter[str]:
        """Units that came, less those that were damaged, as the API was told, by SKU."""
        units: Counter[str] = Counter()
        for promise in self.till.movements.values():
            units[promise.sku] += promise.units
        return units

    def _units(self, statement: LiteralString) -> Counter[str]:
        with self._books() as connection:
            return Counter({sku: int(units) for sku, units in connection.execute(statement)})

    def promises_broken(self) -> list[dict[str, Any]]:
        """What the API has acknowledged and is not in our books exactly once, and what it has refused and is there."""
        with self._books() as connection:
            held = connection.execute(
                """
                SELECT hold.idempotency_key, sku.code, hold.quantity, hold.state FROM inventory_hold hold
                JOIN inventory_sku sku ON sku.id = hold.sku_id WHERE hold.idempotency_key LIKE %s
                """,
                [f"{MARK}%"],
            ).fetchall()
            moved = connection.execute(
                """
                SELECT split_part(movement.idempotency_key, ':', 2), sku.code, movement.delta, ''
                FROM inventory_movement movement JOIN inventory_stocklevel level ON level.id = movement.stock_level_id
                JOIN inventory_sku sku ON sku.id = level.sku_id WHERE movement.idempotency_key LIKE %s
                """,
                [f"move:{MARK}%"],
            ).fetchall()
        till = self.till
        return [*unkept(till.holds, held, refused=till.refused), *unkept(till.movements, moved, refused=())]


def unkept(
    promises: Mapping[str, Promise], rows: Sequence[tuple[Any, ...]], *, refused: Sequence[str]
) -> list[dict[str, Any]]:
    """The promises that the rows (key, SKU, units, state) do not keep exactly once, and the rows that were refused."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for key, *row in rows:
        found.setdefault(key, []).append(tuple(row))
    broken: list[dict[str, Any]] = []
    for key, promise in promises.items():
        kept = [
            (sku, units, state)
            for sku, units, state in found.get(key, [])
            if (sku, units) == (promise.sku, promise.units) and (not promise.states or state in promise.states)
        ]
        if len(kept) != 1 or len(found[key]) != 1:
            said = {"sku": promise.sku, "units": promise.units, "states": sorted(promise.states)}
            broken.append({"key": key, "promised": said, "found": found.get(key, [])})
    broken += [{"key": key, "promised": "refused", "found": found[key]} for key in refused if key in found]
    return broken


def _broken(connection: psycopg.Connection[Any]) -> Iterator[invariants.Violation]:
    """What must hold at any moment and does not."""
    for check in invariants.ALWAYS:
        cursor = connection.execute(check.sql, [])
        rows = cursor.fetchmany(invariants.SHOWN_ROWS)
        if rows:
            names = [column.name for column in cursor.description or ()]
            yield invariants.Violation(
                check.name, check.says, tuple(dict(zip(names, row, strict=True)) for row in rows)
            )


def calmly(act: Callable[[], Answer]) -> Answer | None:
    """What the act returns; None when the stores or the database cannot be reached or say no."""
    try:
        return act()
    except (HttpError, OSError, LookupError, psycopg.OperationalError):
        # Refusals are errors of `requests`, which are OSErrors; an empty list of orders is a LookupError.
        return None


def succeeds(act: Callable[[], object]) -> bool:
    """Do it; False when the stores cannot be reached or say no."""
    return calmly(lambda: (act(),)) is not None
