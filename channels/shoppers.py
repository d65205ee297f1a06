"""Shoppers: people who buy in emulated stores, over HTTP, at random moments.

Knows nothing of SyncTec: it uses a store as its customers do. Buyers arrive as a Poisson process over all
stores together; who buys what is decided by the random generator alone, so a seed gives the same wishes
again.
"""

from __future__ import annotations

import http.client
import json
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

#: An answer that takes longer counts as an error.
TIMEOUT_SECONDS = 10.0
#: One buyer is served at a time by each thread; an order takes a few milliseconds.
ORDERS_PER_SECOND_AND_THREAD = 10
THREADS_MIN, THREADS_MAX = 4, 32
#: How many orders are remembered as ones that may be returned.
RETURNABLE_ORDERS = 1_000


class NoGoods(Exception):
    """The stores cannot be bought from: none was named, none can be reached, or they carry nothing."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the shoppers have done so far. `units` were sold, `returned` orders were cancelled again."""

    orders: int = 0
    units: int = 0
    sold_out: int = 0
    returned: int = 0
    errors: int = 0

    def __sub__(self, other: Tally) -> Tally:
        return Tally(
            self.orders - other.orders,
            self.units - other.units,
            self.sold_out - other.sold_out,
            self.returned - other.returned,
            self.errors - other.errors,
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What one shopper comes for; an empty SKU: to return an earlier order."""

    store: str
    sku: str = ""
    quantity: int = 0


class Shoppers:
    """Shoppers of `stores` (handles) of the emulator at `base_url`, `rate` of them a second in all."""

    def __init__(
        self,
        base_url: str,
        stores: Sequence[str],
        rate: float,
        rng: random.Random,
        *,
        max_quantity: int = 1,
        return_share: float = 0.0,
        skus: Sequence[str] | None = None,
    ) -> None:
        """Look at the shelves once. With `skus`, only those are bought.

        Raises:
            NoGoods: there is nothing to buy.
        """
        if not stores or rate <= 0:
            raise NoGoods("Name at least one store, and a rate above zero.")
        self._address = _address(base_url)
        self._rate, self._rng = rate, rng
        self._max_quantity, self._return_share = max_quantity, return_share
        self._shelves = self._read_shelves(stores, skus)
        self._wishes: queue.SimpleQueue[Wish | None] = queue.SimpleQueue()
        self._tally, self._lock = Tally(), threading.Lock()
        self._returnable: deque[tuple[str, int]] = deque(maxlen=RETURNABLE_ORDERS)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def tally(self) -> Tally:
        """What was done until now."""
        with self._lock:
            return self._tally

    def run(self, seconds: float, *, each_second: Callable[[Tally], object] | None = None) -> Tally:
        """Send shoppers for so long, then wait for those under way. `each_second` is told the tally."""
        self.start()
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0 and not self._stopping.wait(min(1.0, left)):
            if each_second:
                each_second(self.tally)
        return self.stop()

    def start(self) -> None:
        """Let shoppers in, until `stop`."""
        count = max(THREADS_MIN, min(THREADS_MAX, round(self._rate / ORDERS_PER_SECOND_AND_THREAD)))
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        self._threads.append(threading.Thread(target=self._arrive, daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> Tally:
        """Let nobody in any more, and wait for those under way."""
        self._stopping.set()
        self._threads[-1].join()
        for _ in self._threads[:-1]:
            self._wishes.put(None)
        for thread in self._threads[:-1]:
            thread.join(TIMEOUT_SECONDS + 1)
        return self.tally

    # --- arriving ---------------------------------------------------------------------------------

    def _arrive(self) -> None:
        """Put wishes into the queue at the moments of a Poisson process."""
        next_at = time.monotonic()
        while not self._stopping.is_set():
            next_at += self._rng.expovariate(self._rate)
            wait_seconds = next_at - time.monotonic()
            if wait_seconds > 0 and self._stopping.wait(wait_seconds):
                return
            self._wishes.put(self._next_wish())

    def _next_wish(self) -> Wish:
        store = self._rng.choice(list(self._shelves))
        if self._rng.random() < self._return_share:
            return Wish(store)
        return Wish(store, self._rng.choice(self._shelves[store]), self._rng.randint(1, self._max_quantity))

    # --- being served -----------------------------------------------------------------------------

    def _serve(self) -> None:
        """Fulfil wishes one after the other, over a connection that is kept."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_SECONDS)
        while (wish := self._wishes.get()) is not None:
            try:
                if wish.sku:
                    self._buy(connection, wish)
                else:
                    self._return(connection)
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()  # opened anew by the next request
                self._count(errors=1)
        connection.close()

    def _buy(self, connection: http.client.HTTPConnection, wish: Wish) -> None:
        order = {"lines": [{"sku": wish.sku, "quantity": wish.quantity}]}
        status, answer = _ask(connection, "POST", f"/{wish.store}/shop/orders", order)
        if status == 201 and isinstance(answer, dict):
            self._count(orders=1, units=wish.quantity)
            self._returnable.append((wish.store, int(answer["id"])))
        elif status == 409:
            self._count(sold_out=1)
        else:
            self._count(errors=1)

    def _return(self, connection: http.client.HTTPConnection) -> None:
        try:
            store, order_id = self._returnable.popleft()
        except IndexError:
            return  # nobody has bought yet
        status, _ = _ask(connection, "POST", f"/{store}/shop/orders/{order_id}/cancel", {"restock": True})
        if status == 200:
            self._count(returned=1)
        else:
            self._count(errors=1)

    def _count(self, *, orders: int = 0, units: int = 0, sold_out: int = 0, returned: int = 0, errors: int = 0) -> None:
        with self._lock:
            so_far = self._tally
            self._tally = replace(
                so_far,
                orders=so_far.orders + orders,
                units=so_far.units + units,
                sold_out=so_far.sold_out + sold_out,
                returned=so_far.returned + returned,
                errors=so_far.errors + errors,
            )

    def _read_shelves(self, stores: Sequence[str], skus: Sequence[str] | None) -> dict[str, list[str]]:
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_SECONDS)
        wanted = set(skus) if skus is not None else None
        shelves: dict[str, list[str]] = {}
        try:
            for store in stores:
                status, variants = _ask(connection, "GET", f"/_control/stores/{store}/variants")
                if status != 200 or not isinstance(variants, list):
                    raise NoGoods(f"There is no store {store!r} here.")
                carried = sorted(variant["sku"] for variant in variants if variant["tracked"])
                shelves[store] = [sku for sku in carried if wanted is None or sku in wanted]
        except (OSError, http.client.HTTPException) as error:
            raise NoGoods(f"The stores cannot be reached: {error}") from error
        finally:
            connection.close()
        empty = [store for store, carried in shelves.items() if not carried]
        if empty:
            raise NoGoods(f"Nothing to buy in {', '.join(empty)}.")
        return shelves


def list_stores(base_url: str) -> list[str]:
    """The handles of all stores of the emulator.

    Raises:
        NoGoods: it cannot be reached.
    """
    connection = http.client.HTTPConnection(*_address(base_url), timeout=TIMEOUT_SECONDS)
    try:
        _, answer = _ask(connection, "GET", "/_control/stores")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoGoods(f"The stores cannot be reached: {error}") from error
    finally:
        connection.close()
    return sorted(store["handle"] for store in answer) if isinstance(answer, list) else []


def _address(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    if parts.scheme != "http" or not parts.hostname:
        raise NoGoods(f"{base_url!r} is no address of emulated stores, such as http://127.0.0.1:41000.")
    return parts.hostname, parts.port or 80


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> tuple[int, object]:
    """One request over a kept connection; its status and its JSON."""
    payload = None if body is None else json.dumps(body).encode()
    connection.request(method, path, body=payload, headers={"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    return response.status, json.loads(text) if text else None
