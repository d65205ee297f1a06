"""A sandbox serving in a thread of the test process, stores of a test's own in it, and a receiver for their
webhooks.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from channels.sandbox.server import Sandbox
from tests.sandbox.clients import Delivered, Receiver, StoreClient, call


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="sandbox")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


async def _serve(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    return runner, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def sandbox_url(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running sandbox."""
    folder: Path = tmp_path_factory.mktemp("sandbox")
    runner, url = loop.run(_serve(_application(folder)))
    yield url
    loop.run(runner.cleanup())


def _application(folder: Path) -> web.Application:
    return Sandbox(folder).application()


_numbers = itertools.count(1)


@pytest.fixture
def make_store(sandbox_url: str) -> Iterator[Callable[..., StoreClient]]:
    """A function that makes a store with locations Main and Back; the keywords go to the creating request."""
    made: list[str] = []

    def make(**given: Any) -> StoreClient:
        handle = f"shop-{next(_numbers)}"
        recipe = {"handle": handle, "locations": ["Main", "Back"], "retry_scale": 0.001} | given
        status, answer = call("POST", f"{sandbox_url}/_control/stores", recipe)
        assert status == 201, answer
        made.append(handle)
        return StoreClient(sandbox_url, answer)

    yield make
    for handle in made:
        call("DELETE", f"{sandbox_url}/_control/stores/{handle}")


@pytest.fixture
def store(make_store: Callable[..., StoreClient]) -> StoreClient:
    """A store with 5 apples at Main and 3 at Back, and 2 pears at Main."""
    made = make_store()
    made.add_variants(
        [
            {"sku": "APPLE", "title": "Apple", "levels": {"Main": 5, "Back": 3}},
            {"sku": "PEAR", "title": "Pear", "levels": {"Main": 2}},
        ]
    )
    return made


@pytest.fixture
def receiver(loop: Loop) -> Iterator[Receiver]:
    """An address that takes webhooks. Set `statuses` to answer something else than 200."""
    taken = Receiver()

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        taken.deliveries.append(Delivered(dict(request.headers), body))
        return web.Response(status=taken.next_status())

    app = web.Application()
    app.router.add_post("/{tail:.*}", take)
    runner, url = loop.run(_serve(app))
    taken.url = f"{url}/hooks"
    yield taken
    loop.run(runner.cleanup())
