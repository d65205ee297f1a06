"""A sandbox as a process of its own, on the loopback, for the connectors' contract."""

import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from synctec.lib.http import AddressRule, GuardedSession, Limits
from tests.sandbox.clients import Delivered, Receiver, StoreClient, call, wait_until

ROOT = Path(__file__).parents[3]
_numbers = itertools.count(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _is_up(url: str) -> bool:
    try:
        return call("GET", f"{url}/_control/health")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a sandbox that runs as it does in production."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("sandbox-process")
    command = [sys.executable, "-m", "channels.sandbox", "--port", str(port), "--data", str(folder / "data")]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process,
    ):
        try:
            wait_until(lambda: _is_up(url), seconds=30)
            yield url
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def make_shop(sandbox_process: str) -> Iterator[Callable[..., StoreClient]]:
    """A function that makes a store with locations Main and Back; the keywords go to the creating request."""
    made: list[str] = []

    def make(**given: Any) -> StoreClient:
        handle = f"contract-{next(_numbers)}"
        recipe = {"handle": handle, "locations": ["Main", "Back"], "retry_scale": 0.001} | given
        status, answer = call("POST", f"{sandbox_process}/_control/stores", recipe)
        assert status == 201, answer
        made.append(handle)
        return StoreClient(sandbox_process, answer)

    yield make
    for handle in made:
        call("DELETE", f"{sandbox_process}/_control/stores/{handle}")


@pytest.fixture(scope="session")
def guarded_session(sandbox_process: str) -> Iterator[GuardedSession]:
    limits = Limits(read_timeout_seconds=1.0)
    with GuardedSession(AddressRule.exact_origin(sandbox_process), limits=limits) as session:
        yield session


@pytest.fixture
def webhooks() -> Iterator[Receiver]:
    """An address that takes webhooks and keeps them."""
    taken = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            taken.deliveries.append(Delivered(dict(self.headers.items()), body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        taken.url = f"http://127.0.0.1:{server.server_port}/hooks"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield taken
        server.shutdown()
        thread.join()
