"""A TCP proxy that spoils connections on purpose, for chaos runs: one `Link` per server, all on one event loop.

The clients of a server connect to its link instead. What is wrong with a link (`Trouble`) can be changed at any moment,
from any thread, and holds for connections that are open already as well as for new ones.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, TypeVar

Answer = TypeVar("Answer")
LOOPBACK = "127.0.0.1"
READ_BYTES = 64 * 1024
# Close by reset, as when the machine at the other end is gone.
RESET = struct.pack("ii", 1, 0)


class Way(Flag):
    """Which way through a link."""

    TO_SERVER = auto()
    TO_CLIENT = auto()
    BOTH = TO_SERVER | TO_CLIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What is wrong with a link; nothing by default. Everything but `refuses` holds for the given ways only."""

    latency_ms: tuple[int, int] = (0, 0)  # before each piece, from..to: latency with its jitter
    refuses: bool = False  # new connections are reset
    stalls: bool = False  # nothing passes, nobody is told: new connections are accepted and hear nothing
    slice_bytes: int = 0  # pieces of this size ...
    slice_pause_ms: int = 0  # ... with a pause after each
    bytes_per_second: int = 0
    way: Way = Way.BOTH


SOUND = Trouble()


class Link:
    """One proxied server. Its methods may be called from any thread once the proxy runs."""

    def __init__(self, name: str, *, port: int, server_port: int) -> None:
        self.name = name
        self.port = port
        self.server_port = server_port
        self._trouble = SOUND
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._writers) // 2

    def set(self, trouble: Trouble) -> None:
        """From now on exactly this is wrong. What was stalled goes on when the trouble no longer stalls."""
        self._call(self._set, trouble)

    def heal(self) -> None:
        self.set(SOUND)

    def cut(self) -> None:
        """Reset every open connection, at both ends."""
        self._call(self._cut)

    # -- on the loop --

    async def serve(self) -> asyncio.Server:
        """Begin to listen. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        return await asyncio.start_server(self._accept, LOOPBACK, self.port)

    def _call(self, change: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None, "the proxy does not run"
        done = threading.Event()

        def perform() -> None:
            change(*arguments)
            done.set()

        self._loop.call_soon_threadsafe(perform)
        done.wait(5)

    def _set(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self._changed.set()
        self._changed = asyncio.Event()

    def _cut(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _accept(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        if self._trouble.refuses:
            _reset(client_writer)
            return
        self._writers.add(client_writer)
        writers = [client_writer]
        try:
            await self._until_it_flows(Way.TO_SERVER)
            server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self.server_port)
            self._writers.add(server_writer)
            writers.append(server_writer)
            await asyncio.gather(
                self._pump(client_reader, server_writer, Way.TO_SERVER),
                self._pump(server_reader, client_writer, Way.TO_CLIENT),
            )
        except OSError:
            # The server is down, or one of the two was reset: the other learns it the same way.
            for writer in writers:
                _reset(writer)
        finally:
            for writer in writers:
                writer.close()
                self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Pass on what comes, until the end, spoilt as the trouble of the moment wants it."""
        while data := await reader.read(READ_BYTES):
            while data:
                await self._until_it_flows(way)
                trouble = self._trouble if way in self._trouble.way else SOUND
                piece = data[: trouble.slice_bytes or len(data)]
                data = data[len(piece) :]
                await asyncio.sleep(_seconds_before(piece, trouble))
                writer.write(piece)
                await writer.drain()
                if trouble.slice_bytes:
                    await asyncio.sleep(trouble.slice_pause_ms / 1000)
        if writer.can_write_eof():
            writer.write_eof()

    async def _until_it_flows(self, way: Way) -> None:
        while self._trouble.stalls and way in self._trouble.way:
            await self._changed.wait()


class Proxy:
    """Links that run in a thread of their own, between `start` and `stop`."""

    def __init__(self, ports: Mapping[str, tuple[int, int]]) -> None:
        """`ports`: for each link its own port and the server's."""
        self.links = {name: Link(name, port=port, server_port=server) for name, (port, server) in ports.items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._servers: list[asyncio.Server] = []

    def start(self) -> None:
        """Listen on every port. Raises OSError when one is taken."""
        self._thread.start()
        for link in self.links.values():
            self._servers.append(self._run(link.serve()))

    def stop(self) -> None:
        """Cut everything; a second call does nothing."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def heal(self) -> None:
        """Nothing is wrong with any link any more."""
        for link in self.links.values():
            link.heal()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


def _seconds_before(piece: bytes, trouble: Trouble) -> float:
    wait = random.uniform(*trouble.latency_ms) / 1000 if trouble.latency_ms[1] else 0.0
    return wait + (len(piece) / trouble.bytes_per_second if trouble.bytes_per_second else 0.0)


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
