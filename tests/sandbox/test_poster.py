"""Posting over kept connections, against servers that answer in all sorts of ways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from channels.sandbox.poster import Poster, PostError, target_of

Answering = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Reads requests; `answer` gets the number of the request on this connection."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = 0
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                number += 1
                await self._answer(number, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def post_to(answer: Answering, *, times: int = 1, seconds: float = 5.0) -> tuple[list[int | str], Server]:
    """Post some times in a row; statuses, or the texts of errors."""

    async def run() -> tuple[list[int | str], Server]:
        server = Server(answer)
        listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hooks?x=1"
        poster = Poster(connect_seconds=1.0, answer_seconds=seconds)
        results: list[int | str] = []
        for _ in range(times):
            try:
                results.append(await poster.post(target_of(server.url), "X-One: 1\r\n", b'{"a":1}'))
            except PostError as error:
                results.append(str(error))
        poster.close()
        listening.close()
        await asyncio.sleep(0.02)
        return results, server

    return asyncio.run(run())


async def plain(number: int, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def test_a_connection_is_kept_for_the_next_request() -> None:
    results, server = post_to(plain, times=3)

    assert results == [200, 200, 200]
    assert server.connections == 1
    assert server.requests[0].startswith(b"POST /hooks?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert server.requests[0].endswith(b'X-One: 1\r\nContent-Length: 7\r\n\r\n{"a":1}')


def test_an_answer_in_pieces_is_put_together() -> None:
    async def in_pieces(number: int, writer: asyncio.StreamWriter) -> None:
        for piece in (b"HTTP/1.1 5", b"03 Down\r\nContent-Le", b"ngth: 4\r\n\r\nno", b"pe"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    results, server = post_to(in_pieces, times=2)

    assert results == [503, 503]
    assert server.connections == 1


def test_an_answer_without_length_counts_by_its_status() -> None:
    async def chunked(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")

    results, server = post_to(chunked, times=2)

    assert results == [201, 201]
    assert server.connections == 2


def test_a_connection_the_server_closes_is_replaced() -> None:
    async def then_close(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    results, server = post_to(then_close, times=2)

    assert results == [200, 200]
    assert server.connections == 2


def test_a_connection_closed_without_an_answer_is_an_error() -> None:
    async def hang_up(number: int, writer: asyncio.StreamWriter) -> None:
        writer.close()

    results, _ = post_to(hang_up)

    assert results == ["the connection was closed"]


def test_waiting_ends() -> None:
    async def silence(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)

    results, _ = post_to(silence, seconds=0.05)

    assert results == ["no answer in time"]


def test_something_else_than_http_is_an_error() -> None:
    async def babble(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")

    results, _ = post_to(babble)

    assert results == ["the connection was closed"]


@pytest.mark.parametrize("uri", ["https://127.0.0.1/", "http://", "ftp://127.0.0.1/", "http://127.0.0.1/a b", ""])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(PostError):
        target_of(uri)
