"""The live page in a real browser: it keeps itself current and disturbs nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db.models.functions import Now
from playwright.sync_api import Page, expect

from channels.models import InboxEvent
from sync import apply, publish
from tests.engine import engine
from tests.factories import Trade, deliver, order_body

Open = Callable[..., Page]

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

#: Hides the page as another tab in front of it would.
HIDE = """is_hidden => {
    Object.defineProperty(document, 'hidden', {get: () => is_hidden, configurable: true});
    document.dispatchEvent(new Event('visibilitychange'));
}"""

#: Contrast of each text with what is painted behind it, by WCAG 2; the elements below 4.5, with their texts.
FAINT_TEXTS = """() => {
    const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const parse = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const faint = new Set();
    for (const element of document.querySelectorAll('body *')) {
        const texts = [...element.childNodes].filter(node => node.nodeType === 3);
        const text = texts.map(node => node.data.trim()).join("");
        if (!text || !element.checkVisibility() || element.closest('.sr, .skip, option')) continue;
        const [one, other] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (contrast < 4.5) faint.add(`${element.className}: ${text.slice(0, 40)} (${contrast.toFixed(2)})`);
    }
    return [...faint];
}"""


def sell(trade: Trade, code: str, quantity: int) -> None:
    north = trade.shops["north"]
    deliver(north, "orders/create", order_body(north, 1001, (code, quantity)))
    work_in(trade)


def work_in(trade: Trade) -> None:
    apply.apply_batch(engine(), merchant_id=trade.merchant.pk)
    publish.publish_batch(engine(), merchant_id=trade.merchant.pk)


def count_questions(page: Page) -> list[str]:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/live/" in request.url else None)
    return asked


def test_a_sale_appears_by_itself_and_is_marked(trade: Trade, open_page: Open) -> None:
    page = open_page("/")
    expect(page.locator(".verdict")).to_contain_text("All 3 stores show the right numbers")

    sell(trade, "MUG", 3)

    pool = page.locator("tr:has-text('MUG') .pool")
    expect(pool).to_have_class("n pool is-changed")
    expect(pool.locator(".has-tip")).to_have_text("7")
    expect(page.locator("tr:has-text('MUG') td.moving")).to_have_count(2)
    expect(page.locator(".verdict")).to_contain_text("2 of 6 levels are on their way")
    expect(page.locator(".events li").first).to_contain_text("Order placed")
    expect(page.locator("tr:has-text('TEE') .is-changed")).to_have_count(0)


def test_an_update_keeps_focus_and_what_was_opened(trade: Trade, open_page: Open) -> None:
    page = open_page("/")
    page.locator(".menu > summary").click()
    link = page.locator("tr:has-text('TEE') th a")
    link.focus()

    sell(trade, "MUG", 3)

    expect(page.locator("tr:has-text('MUG') td.moving")).to_have_count(2)
    expect(link).to_be_focused()
    expect(page.locator(".menu")).to_have_attribute("open", "")


def test_an_unchanged_page_costs_304s(open_page: Open) -> None:
    page = open_page("/")
    page.evaluate("document.querySelector('.grid').dataset.mine = 'untouched'")

    with page.expect_response("**/live/**") as answer:
        pass

    assert answer.value.status == 304
    assert page.evaluate("document.querySelector('.grid').dataset.mine") == "untouched"


def test_a_hidden_page_asks_nothing_and_asks_at_once_when_it_is_seen_again(open_page: Open) -> None:
    page = open_page("/")
    with page.expect_response("**/live/**"):
        pass
    page.evaluate(HIDE, True)
    asked = count_questions(page)

    page.wait_for_timeout(3_500)
    asked_while_hidden = len(asked)
    with page.expect_response("**/live/**"):
        page.evaluate(HIDE, False)

    assert asked_while_hidden == 0


def test_a_server_that_does_not_answer_is_told_of(open_page: Open) -> None:
    page = open_page("/")

    page.route("**/live/**", lambda route: route.abort())
    expect(page.locator(".lost")).to_be_visible(timeout=30_000)
    page.unroute("**/live/**")

    expect(page.locator(".lost")).to_be_hidden(timeout=30_000)


def test_reduced_motion_is_respected(trade: Trade, open_page: Open) -> None:
    page = open_page("/", reduced_motion="reduce")

    sell(trade, "MUG", 3)

    changed = page.locator("tr:has-text('MUG') .pool.is-changed")
    expect(changed).to_have_count(1)
    assert changed.evaluate("cell => getComputedStyle(cell).animationName") == "none"


def test_on_a_phone_only_the_table_scrolls_sideways_and_the_sku_stays(open_page: Open) -> None:
    page = open_page("/", viewport={"width": 320, "height": 640})
    page.locator(".scroll").evaluate("box => box.scrollLeft = 120")

    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.locator(".scroll").evaluate("box => box.scrollLeft") == 120
    box = page.locator("tr:has-text('MUG') th.sku").bounding_box()
    assert box is not None
    assert 0 <= box["x"] < 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(trade: Trade, open_page: Open, scheme: str) -> None:
    sell(trade, "TEE", 9)
    page = open_page("/", color_scheme=scheme)
    assert page.evaluate(FAINT_TEXTS) == []

    page.locator(".events a").first.click()
    expect(page.locator(".step")).not_to_have_count(0)

    assert page.evaluate(FAINT_TEXTS) == []


def test_the_focus_can_be_seen_and_the_menu_closes_by_the_keyboard(open_page: Open) -> None:
    page = open_page("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(".menu > summary").focus()

    page.keyboard.press("Enter")
    expect(page.locator(".menu")).to_have_attribute("open", "")
    page.keyboard.press("Escape")

    expect(page.locator(".menu")).not_to_have_attribute("open", "")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_search_keeps_what_is_typed_while_the_table_updates(trade: Trade, open_page: Open) -> None:
    page = open_page("/")
    page.locator("#q").press_sequentially("mu")

    sell(trade, "MUG", 3)

    expect(page.locator("tr:has-text('MUG') td.moving")).to_have_count(2)
    expect(page.locator("#q")).to_have_value("mu")


def test_a_story_grows_until_it_is_finished(trade: Trade, open_page: Open) -> None:
    event = deliver(trade.shops["north"], "orders/create", order_body(trade.shops["north"], 1001, ("MUG", 3)))
    # Just now: an old story is not expected to grow.
    InboxEvent.objects.filter(pk=event.pk).update(received_at=Now())
    page = open_page(f"/story/{event.correlation_id}/")
    expect(page.locator(".step h2")).to_have_count(1)

    work_in(trade)

    expect(page.locator(".step h2").nth(1)).to_contain_text("Order lines")
    expect(page.locator(".step h2").nth(2)).to_contain_text("Ledger")
