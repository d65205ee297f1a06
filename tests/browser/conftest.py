"""A real browser on the live pages. Without Chromium these tests are skipped, and say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from pytest_django.live_server_helper import LiveServer

from merchants.models import Member, Role, User
from tests.factories import Trade, make_trade

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for the tests of a module.

    Playwright keeps an event loop in this thread as long as it runs, and Django would take every query beside
    it for a mistake. So it does not outlive the module, for the sake of the tests that follow.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        # Its sandbox needs rights that containers and root do not have; it only sees pages of our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def trade(transactional_db: None) -> Trade:
    return make_trade(shops=("north", "south", "west"))


@pytest.fixture
def open_page(chromium: Browser, live_server: LiveServer, trade: Trade) -> Iterator[Open]:
    """Open an address as Olive, Alder's owner. Whatever the browser complains of fails the test."""
    olive = User.objects.create_user(username="olive", email="olive@example.com", password="pw")
    Member.objects.create(merchant=trade.merchant, user=olive, role=Role.OWNER)
    session = Client()
    session.force_login(olive)
    cookie = {
        "name": settings.SESSION_COOKIE_NAME,
        "value": session.cookies[settings.SESSION_COOKIE_NAME].value,
        "url": live_server.url,
    }
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def open_it(address: str, **options: object) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})  # type: ignore[arg-type]
        contexts.append(context)
        context.add_cookies([cookie])  # type: ignore[list-item]
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        page.goto(live_server.url + address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []
