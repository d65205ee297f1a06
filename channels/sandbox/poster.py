"""POST requests over kept connections with as little work as possible. Plain http only.

aiohttp's client costs several times as much per request, and webhooks are most of what a sandbox does.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

IDLE_KEPT = 32  # connections per address
MAX_ANSWER_BYTES = 1024 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_PRINTABLE = re.compile(r"[!-~]+")


class PostError(Exception):
    """The request could not be sent, or no whole answer came."""


class Target(NamedTuple):
    host: str
    port: int
    head: bytes  # request line and the headers that are always the same


@lru_cache(maxsize=1024)
def target_of(uri: str) -> Target:
    """Raises PostError where the address is no plain http address."""
    parts = urlsplit(uri)
    if parts.scheme != "http" or not parts.hostname or not _PRINTABLE.fullmatch(uri):
        raise PostError(f"{uri!r} is not an address to post to")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
        "User-Agent: Shopify-Captain-Hook\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    )
    return Target(parts.hostname, parts.port or 80, head.encode())


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._received = b""
        self.is_open = False
        self.was_answering = False  # bytes of an answer have come

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._fail("the connection was closed")

    def send(self, request: bytes) -> asyncio.Future[int]:
        assert self._transport is not None
        self._received = b""
        self.was_answering = False
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.was_answering = True
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > MAX_ANSWER_BYTES:
                self.close()
            return
        head = self._received[: end + 2]
        status, length = _STATUS.match(head), _LENGTH.search(head)
        if status is None:
            self.close()
            return
        code = int(status[1])
        if length is None and code not in (204, 304):
            # Chunked, or until the end: the status is all we want, so the rest is not waited for.
            self._done(code)
            self.close()
        elif len(self._received) - end - 4 >= (int(length[1]) if length is not None else 0):
            self._done(code)
            if _CLOSES.search(head):
                self.close()
        elif len(self._received) > MAX_ANSWER_BYTES:
            self.close()

    def _done(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(PostError(why))


class Poster:
    """Keeps connections and posts over them."""

    def __init__(self, *, connect_seconds: float, answer_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._idle: dict[tuple[str, int], list[_Connection]] = {}

    async def post(self, target: Target, headers: str, body: bytes) -> int:
        """Return the status. `headers` are lines ending in CRLF. Raises PostError, also for slowness."""
        request = target.head + f"{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await self._over_a_kept_connection(target, request)
        except TimeoutError:
            raise PostError("no answer in time") from None
        except OSError as error:
            raise PostError(str(error)) from None

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()

    async def _over_a_kept_connection(self, target: Target, request: bytes) -> int:
        idle = self._idle.setdefault((target.host, target.port), [])
        while idle:
            connection = idle.pop()
            if connection.is_open:
                try:
                    return await self._exchange(connection, request, idle)
                except PostError:
                    # The server closed the kept connection just then; a fresh one tells whether it is there.
                    if connection.was_answering:
                        raise
        return await self._exchange(await self._connect(target), request, idle)

    async def _connect(self, target: Target) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_seconds):
            _, connection = await loop.create_connection(_Connection, target.host, target.port)
        return connection

    async def _exchange(self, connection: _Connection, request: bytes, idle: list[_Connection]) -> int:
        try:
            status = await connection.send(request)
        except BaseException:
            connection.close()
            raise
        if connection.is_open and len(idle) < IDLE_KEPT:
            idle.append(connection)
        else:
            connection.close()
        return status
