"""The proxy that spoils connections, with real sockets at both ends."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from synctec.local.process import free_ports
from synctec.local.proxy import SOUND, Link, Proxy, Trouble, Way
from tests.local.conftest import until

SHORT = 0.3


@pytest.fixture
def server_port() -> Iterator[int]:
    """A server that says everything back."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]


def _serve(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            return


@pytest.fixture
def link(server_port: int) -> Iterator[Link]:
    proxy = Proxy({"echo": (free_ports({"echo": None})["echo"], server_port)})
    proxy.start()
    yield proxy.links["echo"]
    proxy.stop()


def connect(link: Link) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", link.port), timeout=5)
    client.settimeout(5)
    return client


def ask(client: socket.socket, data: bytes = b"hello") -> bytes:
    client.sendall(data)
    answer = b""
    while len(answer) < len(data):
        received = client.recv(65536)
        if not received:
            break
        answer += received
    return answer


def hears_nothing(client: socket.socket) -> bool:
    client.settimeout(SHORT)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def test_a_sound_link_passes_everything_on(link: Link) -> None:
    data = bytes(range(256)) * 4_000

    with connect(link) as client:
        threading.Thread(target=client.sendall, args=(data,)).start()
        received = b""
        while len(received) < len(data):
            received += client.recv(65536)

    assert received == data


def test_the_end_of_one_side_reaches_the_other(link: Link) -> None:
    with connect(link) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        heard = b"".join(iter(lambda: client.recv(100), b""))

    assert heard == b"last words"
    until(lambda: link.connections == 0)


def test_a_cut_resets_open_connections_and_lets_new_ones_in(link: Link) -> None:
    with connect(link) as client, connect(link) as fresh:
        ask(client)
        link.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        fresh.close()
    with connect(link) as client:
        assert ask(client) == b"hello"


def test_a_link_that_refuses_keeps_what_is_open(link: Link) -> None:
    with connect(link) as client:
        ask(client)
        link.set(Trouble(refuses=True))
        with pytest.raises(ConnectionResetError), connect(link) as refused:
            refused.recv(1)
        assert ask(client) == b"hello"


def test_a_stalled_link_accepts_says_nothing_and_goes_on_when_healed(link: Link) -> None:
    with connect(link) as old:
        ask(old)
        link.set(Trouble(stalls=True))
        with connect(link) as new:
            for client in (old, new):
                client.sendall(b"hello")
                assert hears_nothing(client)
            link.heal()
            assert [client.recv(5) for client in (old, new)] == [b"hello", b"hello"]


def test_one_way_can_stall_while_the_other_flows(link: Link) -> None:
    link.set(Trouble(stalls=True, way=Way.TO_CLIENT))

    with connect(link) as client:
        client.sendall(b"heard")
        assert hears_nothing(client)
        link.set(SOUND)
        assert client.recv(5) == b"heard"


def test_latency_comes_once_each_way(link: Link) -> None:
    link.set(Trouble(latency_ms=(100, 120)))

    with connect(link) as client:
        began = time.monotonic()
        ask(client)

    assert time.monotonic() - began >= 0.2


def test_slices_arrive_one_by_one_and_whole(link: Link) -> None:
    link.set(Trouble(slice_bytes=2, slice_pause_ms=5, way=Way.TO_CLIENT))

    with connect(link) as client:
        client.sendall(b"hello world")
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < 11:
            pieces.append(client.recv(100))

    assert b"".join(pieces) == b"hello world"
    assert len(pieces) > 2


def test_bandwidth_is_limited(link: Link) -> None:
    link.set(Trouble(bytes_per_second=10_000, way=Way.TO_SERVER))

    with connect(link) as client:
        began = time.monotonic()
        ask(client, b"x" * 3_000)

    assert time.monotonic() - began >= 0.3


def test_clients_of_a_dead_server_are_reset() -> None:
    ports = free_ports({"proxy": None, "nobody": None})
    proxy = Proxy({"dead": (ports["proxy"], ports["nobody"])})
    proxy.start()

    with pytest.raises(ConnectionResetError), connect(proxy.links["dead"]) as client:
        client.recv(1)
    proxy.stop()
    proxy.stop()
