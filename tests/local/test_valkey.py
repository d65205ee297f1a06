from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from synctec.local.process import free_ports
from synctec.local.supervisor import Supervisor
from synctec.local.valkey import ValkeyNode

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> ValkeyNode:
    port = free_ports({"node": None})["node"]
    return ValkeyNode(name="valkey-1", home=tmp_path / "valkey-1", port=port, password="secret")


def test_a_node_keeps_its_data_over_a_kill(node: ValkeyNode, make_supervisor: Callable[[], Supervisor]) -> None:
    supervisor = make_supervisor()
    supervisor.start(node.child())
    with redis.Redis.from_url(node.url()) as client:
        client.set("kept", "7")
        client.execute_command("WAITAOF", 1, 0, 5000)
    supervisor.stop()

    make_supervisor().start(node.child())

    with redis.Redis.from_url(node.url()) as client:
        assert client.get("kept") == b"7"


def test_nobody_gets_in_without_the_password(node: ValkeyNode, supervisor: Supervisor) -> None:
    supervisor.start(node.child())

    with redis.Redis(port=node.port) as client, pytest.raises(redis.AuthenticationError):
        client.get("anything")


def test_a_full_node_refuses_instead_of_forgetting(node: ValkeyNode, supervisor: Supervisor) -> None:
    supervisor.start(node.child())

    with redis.Redis.from_url(node.url()) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_password_stays_out_of_repr_and_command_line(node: ValkeyNode) -> None:
    spec = node.child()

    assert "secret" not in repr(node)
    assert "secret" not in " ".join(spec.command)
    assert (node.home / "valkey.conf").stat().st_mode & 0o777 == 0o600
