"""A load generator that costs little beside the server it loads: one thread, raw sockets, requests made in advance."""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

_HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Answers:
    """What came back: how many answers of each status within how long, and how long each took (ms, ascending)."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    #: Processor time the generator itself took.
    own_seconds: float = 0.0

    @property
    def count(self) -> int:
        return self.statuses.total()

    @property
    def per_second(self) -> float:
        return self.count / self.seconds if self.seconds else 0.0

    def add(self, more: Answers) -> None:
        """Take in the answers of another turn."""
        self.seconds += more.seconds
        self.own_seconds += more.own_seconds
        self.statuses += more.statuses
        self.latencies_ms = sorted(self.latencies_ms + more.latencies_ms)


@dataclass(slots=True)
class _Connection:
    wire: socket.socket
    received: bytes = b""
    sent_at: float = 0.0


def drive(port: int, requests: Iterator[bytes], *, connections: int, seconds: float) -> Answers:
    """Keep one request under way on each of so many connections for so long, and wait for the last answers.

    Raises:
        ConnectionError: the server closed a connection that it should keep.
    """
    answers = Answers()
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            wire = socket.create_connection(("127.0.0.1", port), timeout=10)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(wire, selectors.EVENT_READ, _Connection(wire))
        began_at, began_cpu = time.perf_counter(), time.process_time()
        ends_at = began_at + seconds
        open_requests = 0
        for key in list(selector.get_map().values()):
            _send(key.data, next(requests))
            open_requests += 1
        while open_requests:
            ready = selector.select(timeout=10)
            if not ready:
                raise ConnectionError("The server has not answered for ten seconds.")
            for key, _ in ready:
                connection: _Connection = key.data
                status = _receive(connection)
                if status is None:
                    continue
                now = time.perf_counter()
                answers.statuses[status] += 1
                answers.latencies_ms.append((now - connection.sent_at) * 1000)
                if now < ends_at:
                    _send(connection, next(requests))
                else:
                    open_requests -= 1
        answers.seconds = time.perf_counter() - began_at
        answers.own_seconds = time.process_time() - began_cpu
        for key in list(selector.get_map().values()):
            key.data.wire.close()
    answers.latencies_ms.sort()
    return answers


def _send(connection: _Connection, request: bytes) -> None:
    connection.sent_at = time.perf_counter()
    connection.wire.sendall(request)


def _receive(connection: _Connection) -> int | None:
    """The status once the answer is whole."""
    chunk = connection.wire.recv(65536)
    if not chunk:
        raise ConnectionError("The server closed a connection under load.")
    received = connection.received + chunk
    head, found, body = received.partition(_HEAD_END)
    if not found or len(body) < _content_length(head):
        connection.received = received
        return None
    connection.received = b""
    return int(head[9:12])


def _content_length(head: bytes) -> int:
    at = head.lower().index(b"content-length:") + 15
    return int(head[at:].split(b"\r\n", 1)[0])
