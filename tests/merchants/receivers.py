"""Servers of merchants' own, for tests: they keep what they get and answer as they are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """What was posted, and the answers to give: 204 when none is left. While `hangs` is set none is given."""

    origin: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.origin}/services/hook"


@contextmanager
def receiving(settings: Any, *, hangs: bool = False) -> Iterator[Receiver]:
    """A receiver that the operator has allowed."""
    known = Receiver()
    if not hangs:
        known.goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            known.arrived.set()
            known.goes_on.wait(60)
            self.send_response(known.answers.pop(0) if known.answers else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        known.origin = f"http://127.0.0.1:{server.server_port}"
        settings.WEBHOOK_PRIVATE_ORIGINS = [*settings.WEBHOOK_PRIVATE_ORIGINS, known.origin]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield known
        finally:
            known.goes_on.set()
            server.shutdown()
            thread.join()
