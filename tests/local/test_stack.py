import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis

from synctec.local.attach import environment
from synctec.local.datafolder import AlreadyRunningError, DataFolder
from synctec.local.errors import LocalStackError
from synctec.local.stack import LOOPBACK_DEMO_PASSWORD, LocalStack
from tests.local.conftest import is_gone, until

pytestmark = pytest.mark.slow


@pytest.fixture
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="synctec-stack-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stack(data_dir: Path) -> Iterator[LocalStack]:
    """PostgreSQL and Valkey, without our own processes."""
    with LocalStack(data_dir, services_only=True, is_durable=False) as stack:
        yield stack


def test_servers_answer_at_the_addresses_it_names(stack: LocalStack) -> None:
    addresses = stack.environment["REDLOCK_URLS"].split(",")

    with psycopg.connect(stack.environment["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert len(set(addresses)) == 3
    for address in addresses:
        with redis.Redis.from_url(address) as client:
            assert client.ping() is True


def test_a_killed_server_comes_back_on_the_same_address(stack: LocalStack) -> None:
    stack.kill("valkey-2")

    until(lambda: next(child.restarts for child in stack.children() if child.name == "valkey-2") == 1)
    node = stack.valkeys[1]
    until(node.is_ready)


def test_a_paused_database_answers_nobody_until_it_goes_on(stack: LocalStack) -> None:
    with psycopg.connect(stack.environment["DATABASE_URL"]) as connection, ThreadPoolExecutor() as threads:
        stack.pause("postgres")
        answer = threads.submit(connection.execute, "SELECT 1")
        # A process of its own serves this connection, in a group of its own.
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.5)

        stack.resume("postgres")

        assert answer.result(timeout=10).fetchone() == (1,)


def test_a_paused_database_that_is_killed_comes_back(stack: LocalStack) -> None:
    with psycopg.connect(stack.environment["DATABASE_URL"]):
        stack.pause("postgres")

        stack.kill("postgres")

        # What served this connection would keep a new server from its memory if it still stood there.
        until(lambda: _answers(stack.environment["DATABASE_URL"]))


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def test_stopping_leaves_no_process_and_nothing_to_attach_to(stack: LocalStack) -> None:
    pids = [child.pid for child in stack.children() if child.pid]
    assert len(pids) == 4

    stack.stop()

    assert [is_gone(pid) for pid in pids] == [True] * 4
    assert stack.folder.read_state() is None


def test_others_can_attach_while_it_runs(stack: LocalStack) -> None:
    assert environment(DataFolder(stack.folder.path)) == stack.environment


def test_a_second_stack_on_the_same_data_is_refused(stack: LocalStack) -> None:
    second = LocalStack(stack.folder.path, services_only=True)

    with pytest.raises(AlreadyRunningError):
        second.start()

    assert all(child.is_running for child in stack.children())
    assert stack.folder.read_state() is not None


def test_ports_and_secrets_stay_the_same_over_a_restart(data_dir: Path) -> None:
    with LocalStack(data_dir, services_only=True, is_durable=False) as first:
        before = first.environment
    with LocalStack(data_dir, services_only=True, is_durable=False) as second:
        after = second.environment

    assert after == before


def test_a_web_port_in_use_is_refused_with_advice(stack: LocalStack, data_dir: Path) -> None:
    taken = stack.valkeys[0].port

    with pytest.raises(LocalStackError, match=rf"Port {taken} is in use .* make run PORT={taken + 1}"):
        LocalStack(data_dir / "other", web_port=taken).start()


def test_servers_named_by_the_caller_are_used_instead(data_dir: Path) -> None:
    external = {"DATABASE_URL": os.environ["DATABASE_URL"], "REDIS_URL": os.environ["REDIS_URL"]}

    with LocalStack(data_dir, services_only=True, external=external) as stack:
        assert stack.children() == []
        assert stack.environment["DATABASE_URL"] == external["DATABASE_URL"]
        assert stack.environment["REDIS_URL"] == external["REDIS_URL"]
        assert "REDLOCK_URLS" not in stack.environment


def test_the_well_known_password_is_for_the_loopback_only(data_dir: Path) -> None:
    at_home = LocalStack(data_dir)
    in_public = LocalStack(data_dir, host="0.0.0.0")  # noqa: S104
    in_public.folder.create()

    assert at_home.demo_password == LOOPBACK_DEMO_PASSWORD
    assert in_public.demo_password != LOOPBACK_DEMO_PASSWORD
    assert in_public.demo_password == in_public.folder.secrets().demo_password


def test_discarding_leaves_neither_processes_nor_data(stack: LocalStack) -> None:
    pids = [child.pid for child in stack.children() if child.pid]

    stack.discard()

    assert [is_gone(pid) for pid in pids] == [True] * 4
    assert not stack.folder.path.exists()


def test_removing_the_data_removes_all_of_it(data_dir: Path) -> None:
    stack = LocalStack(data_dir, services_only=True, is_durable=False)
    stack.start()
    stack.stop()

    stack.remove_data()

    assert not data_dir.exists()


def test_servers_can_be_reached_through_links_that_fail(data_dir: Path) -> None:
    stack = LocalStack(
        data_dir, services_only=True, is_durable=False, behind_proxies=True, variables={"EXTRA": "a://b,c"}
    )
    with stack:
        proxied, direct = stack.environment, stack.direct_environment

        assert set(stack.links) == {"postgres", "valkey-1", "valkey-2", "valkey-3", "sandbox", "web"}
        assert proxied["EXTRA"] == direct["EXTRA"] == "a://b,c"
        for name in ("DATABASE_URL", "REDIS_URL", "REDLOCK_URLS", "SANDBOX_URL", "PUBLIC_URL"):
            assert proxied[name] != direct[name]
        with psycopg.connect(proxied["DATABASE_URL"]) as connection:
            stack.links["postgres"].cut()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with psycopg.connect(proxied["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with redis.Redis.from_url(proxied["REDIS_URL"]) as client:
            assert client.ping() is True
