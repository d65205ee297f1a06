"""A store that answers exactly what a test tells it to, over real HTTP on the loopback."""

import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer

import pytest

from channels.connectors.shopify.connector import ShopifyConnector
from synctec.lib.http import AddressRule, GuardedSession, Limits
from synctec.lib.secret import Secret
from tests.channels.connectors.shopify.scripted import Ledger, ScriptedStore, handler_for


@pytest.fixture(scope="session")
def scripted_server() -> Iterator[ScriptedStore]:
    scripted = ScriptedStore()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_for(scripted)) as server:
        scripted.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield scripted
        server.shutdown()
        thread.join()


@pytest.fixture
def store(scripted_server: ScriptedStore) -> ScriptedStore:
    scripted_server.forget()
    return scripted_server


@pytest.fixture(scope="session")
def session(scripted_server: ScriptedStore) -> Iterator[GuardedSession]:
    limits = Limits(read_timeout_seconds=5.0, max_response_bytes=100_000)
    with GuardedSession(AddressRule.exact_origin(scripted_server.url), limits=limits) as session:
        yield session


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def tokens() -> list[str]:
    """The token handed out, and the one handed out when a fresh one is demanded."""
    return ["stale-token", "fresh-token"]


class TokenDrawer:
    """Hands out the first token, or the second when a fresh one is demanded."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens

    def __call__(self, force_refresh: bool) -> Secret:
        return Secret(self._tokens[1 if force_refresh else 0])


@pytest.fixture
def connector(store: ScriptedStore, session: GuardedSession, ledger: Ledger, tokens: list[str]) -> ShopifyConnector:
    give_token: Callable[[bool], Secret] = TokenDrawer(tokens)
    return ShopifyConnector(
        account="north.myshopify.com", base_url=store.url, token=give_token, session=session, pacer=ledger
    )
