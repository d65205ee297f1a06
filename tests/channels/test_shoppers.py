"""Shoppers buy over HTTP. What they meet here is a counter that answers as a store would."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from channels.shoppers import NoGoods, Shoppers, Tally, list_stores


class Counter(BaseHTTPRequestHandler):
    """Sells MUG for ever, has no TEE left, and drops the connection when asked for a HAT."""

    protocol_version = "HTTP/1.1"
    orders: list[dict[str, Any]]
    cancelled: list[str]
    connections: set[tuple[str, int]]
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/_control/stores":
            return self._answer(200, [{"handle": "north"}, {"handle": "east"}])
        if self.path.startswith("/_control/stores/empty/"):
            return self._answer(200, [])
        if self.path.startswith("/_control/stores/nowhere/"):
            return self._answer(404, {"error": "unknown_store"})
        return self._answer(200, [{"sku": sku, "tracked": True} for sku in ("MUG", "TEE", "HAT")])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.connections.add(self.client_address)
            if self.path.endswith("/cancel"):
                self.cancelled.append(self.path)
                return self._answer(200, {})
            line = body["lines"][0]
            if line["sku"] == "HAT":
                self.close_connection = True
                return None
            if line["sku"] == "TEE":
                return self._answer(409, {"error": "sold_out"})
            self.orders.append({"path": self.path, **line})
            return self._answer(201, {"id": len(self.orders)})

    def _answer(self, status: int, value: object) -> None:
        payload = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def counter() -> Iterator[tuple[str, type[Counter]]]:
    class Mine(Counter):
        orders: list[dict[str, Any]] = []
        cancelled: list[str] = []
        connections: set[tuple[str, int]] = set()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Mine
    server.shutdown()
    server.server_close()
    thread.join()


def test_sales_sold_out_and_errors_are_told_apart(counter: tuple[str, type[Counter]]) -> None:
    url, served = counter
    shoppers = Shoppers(url, ["north", "east"], 300, random.Random(1), max_quantity=3)
    seconds: list[Tally] = []

    tally = shoppers.run(1.2, each_second=seconds.append)

    assert tally.orders == len(served.orders) > 0
    assert tally.units == sum(order["quantity"] for order in served.orders) > tally.orders
    assert tally.sold_out > 0
    assert tally.errors > 0
    assert {order["path"] for order in served.orders} == {"/north/shop/orders", "/east/shop/orders"}
    assert {order["quantity"] for order in served.orders} == {1, 2, 3}
    assert seconds
    assert seconds[-1].orders <= tally.orders


def test_connections_are_kept(counter: tuple[str, type[Counter]]) -> None:
    url, served = counter
    shoppers = Shoppers(url, ["north"], 200, random.Random(1), skus=["MUG"])

    tally = shoppers.run(1)

    assert tally.orders > 50
    assert len(served.connections) <= 20


def test_orders_are_returned_once_each(counter: tuple[str, type[Counter]]) -> None:
    url, served = counter
    shoppers = Shoppers(url, ["north"], 300, random.Random(1), skus=["MUG"], return_share=0.3)

    tally = shoppers.run(1)

    assert tally.returned == len(served.cancelled) == len(set(served.cancelled)) > 0


def test_the_same_seed_brings_the_same_wishes(counter: tuple[str, type[Counter]]) -> None:
    url, _ = counter
    one, other = (Shoppers(url, ["north", "east"], 10, random.Random(7), max_quantity=5) for _ in range(2))

    assert [one._next_wish() for _ in range(50)] == [other._next_wish() for _ in range(50)]


@pytest.mark.parametrize(
    ("stores", "complaint"),
    [([], "at least one store"), (["nowhere"], "no store 'nowhere'"), (["empty"], "Nothing to buy in empty")],
)
def test_without_goods_there_are_no_shoppers(
    stores: list[str], complaint: str, counter: tuple[str, type[Counter]]
) -> None:
    with pytest.raises(NoGoods, match=complaint):
        Shoppers(counter[0], stores, 10, random.Random(1))


def test_stores_that_can_not_be_reached_are_told_as_such(counter: tuple[str, type[Counter]]) -> None:
    assert list_stores(counter[0]) == ["east", "north"]
    with pytest.raises(NoGoods, match="cannot be reached"):
        list_stores("http://127.0.0.1:1")
    with pytest.raises(NoGoods, match="is no address"):
        list_stores("ftp://somewhere")
