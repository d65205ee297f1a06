"""Whatever changed a number, a signed-in member finds its whole story by what they have in hand."""

from __future__ import annotations

import uuid
from urllib.parse import quote

import pytest
import requests

from tests.journeys.town import Town
from tests.journeys.visitor import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("stack")]


def found(town: Town, question: str) -> list[Page]:
    """The stories that a search on the page leads to, each opened."""
    page = town.owner.read(f"/story/?q={quote(question)}")
    if page.address != f"{town.url}/story/?q={quote(question)}":
        return [page]
    stories = dict.fromkeys(link for link, _ in page.links if link.startswith("/story/") and _is_story(link))
    return [town.owner.read(link) for link in stories]


def _is_story(link: str) -> bool:
    try:
        uuid.UUID(link.removeprefix("/story/").strip("/"))
    except ValueError:
        return False
    return True


def tells_all(town: Town, page: Page, *, steps: list[str], written_to: list[str]) -> bool:
    """Whether the page has these words in this order, and then a confirmed write to each of the stores."""
    place = 0
    for words in steps:
        place = page.text.find(words, place)
        if place < 0:
            return False
    _, _, writes = page.text.partition("Written to the stores")
    return all(town.channel_name(handle) in writes for handle in written_to) and writes.count("confirmed") == len(
        written_to
    )


def test_the_story_of_a_sale_is_found_by_its_order_its_sku_and_its_correlation_id(town: Town) -> None:
    sku = town.plain_skus[0]
    town.open_market({sku: 40})
    seller, *others = town.handles
    order = town.stores.buy(seller, sku, 2)
    town.until_calm()
    seller_name = town.channel_name(seller)
    steps = [
        f"in {seller_name}",
        "applied",
        f"Order {order['name']} with 1 line",
        "Order lines",
        sku,
        "2 sold, not shipped",
    ]
    steps += ["Ledger", sku, "+2", "Sale", order["name"], "Written to the stores"]

    for question in (order["name"], order["name"].lstrip("#"), str(order["id"]), sku):
        told = [page for page in found(town, question) if tells_all(town, page, steps=steps, written_to=others)]

        assert len(told) == 1, question
        correlation_id = told[0].address.rstrip("/").rsplit("/", 1)[1]
        (by_id,) = found(town, correlation_id)
        assert by_id.text == told[0].text


def test_the_story_of_a_count_is_found_by_its_sku(town: Town) -> None:
    sku = town.plain_skus[1]
    town.open_market({sku: 40})
    town.stock_up({sku: 33})
    town.until_calm()

    # The newest story comes first.
    page = found(town, sku)[0]

    assert tells_all(
        town, page, steps=["Ledger", sku, "−7", "Counted", "Written to the stores"], written_to=town.handles
    ), page.text


def test_a_story_is_nobodys_who_is_not_signed_in(town: Town) -> None:
    answer = requests.get(f"{town.url}/story/?q={town.plain_skus[0]}", timeout=30)

    assert answer.url.startswith(f"{town.url}/login/")
    assert town.plain_skus[0] not in answer.text.replace(answer.url, "").partition("<form")[0]
