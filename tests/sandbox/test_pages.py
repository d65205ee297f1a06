"""The pages for people."""

from __future__ import annotations

from collections.abc import Callable

from tests.sandbox.clients import StoreClient, call


def test_the_front_page_links_every_store(store: StoreClient, sandbox_url: str) -> None:
    status, page = call("GET", f"{sandbox_url}/")

    assert status == 200
    assert f'href="/{store.handle}/"' in page


def test_names_are_escaped(make_store: Callable[..., StoreClient], sandbox_url: str) -> None:
    store = make_store(name="<script>alert(1)</script>")

    _, front = call("GET", f"{sandbox_url}/")
    _, shelf = call("GET", f"{store.url}/")

    assert "<script>alert" not in front
    assert "<script>alert" not in shelf


def test_a_shelf_needs_nothing_from_elsewhere(store: StoreClient) -> None:
    status, page = call("GET", f"{store.url}/")

    assert status == 200
    assert "http://" not in page
    assert "https://" not in page
    assert f'const handle = "{store.handle}"' in page


def test_what_the_shelf_shows_follows_sales_and_faults(store: StoreClient) -> None:
    store.buy("PEAR", 2)
    store.set_faults(outage=True, latency_ms=[10, 20])

    _, live = call("GET", f"{store.url}/live")

    pear = next(variant for variant in live["variants"] if variant["sku"] == "PEAR")
    assert pear["available"] == 0
    assert live["orders"][0]["lines"][0]["sku"] == "PEAR"
    assert live["faults"] == {"outage": True, "latency_ms": [10, 20]}


def test_an_unknown_store_is_not_found(sandbox_url: str) -> None:
    assert call("GET", f"{sandbox_url}/nowhere/")[0] == 404
    assert call("POST", f"{sandbox_url}/nowhere/shop/orders", {"lines": []})[0] == 404
