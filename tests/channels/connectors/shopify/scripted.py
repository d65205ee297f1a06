"""A store that answers exactly what a test tells it to, over real HTTP on the loopback."""

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from channels.protocol import CallEnd, ChannelError, ThrottleStatus

HANG_UP = "hang up"


@dataclass
class Answer:
    """One scripted answer."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Asked:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: Any


class ScriptedStore:
    """Answers one scripted answer after the other; the last one again and again."""

    def __init__(self) -> None:
        self.script: list[Answer | str] = []
        self.asked: list[Asked] = []
        self.url = ""

    def forget(self) -> None:
        self.script, self.asked = [], []

    def answers(self, *script: Answer | str) -> None:
        self.script = list(script)

    def answers_data(self, *data: Any) -> None:
        self.script = [Answer({"data": item}) for item in data]

    def next_answer(self) -> Answer | str:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    @property
    def variables(self) -> list[dict[str, Any]]:
        """The variables of every request so far."""
        return [asked.body["variables"] for asked in self.asked]


def handler_for(store: ScriptedStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            store.asked.append(Asked(self.path, headers, json.loads(body)))
            answer = store.next_answer()
            self.close_connection = True
            if not isinstance(answer, Answer):
                return
            content = answer.encoded()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@dataclass
class Ledger:
    """A pacer that grants everything and notes what it was told."""

    acquired: list[float] = field(default_factory=list)
    settled: list[tuple[float, float, ThrottleStatus | None]] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)
    ends: list[tuple[CallEnd, ChannelError | None]] = field(default_factory=list)
    rest_seconds: float = 0.0

    def acquire(self, cost: float) -> None:
        self.acquired.append(cost)

    def settle(
        self,
        *,
        reserved: float,
        actual: float,
        status: ThrottleStatus | None = None,
        end: CallEnd = CallEnd.ANSWERED,
        error: ChannelError | None = None,
    ) -> float:
        self.settled.append((reserved, actual, status))
        self.ends.append((end, error))
        return self.rest_seconds

    def penalize(self, seconds: float) -> None:
        self.penalties.append(seconds)
