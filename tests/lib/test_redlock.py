import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import redis

from synctec.lib import redlock
from synctec.lib.redlock import Locked, Redlock

if TYPE_CHECKING:
    from tests.lib.conftest import ValkeyNode

SKUS = {f"sku:{number}" for number in range(20)}
MakeLocks = Callable[..., Redlock]


@pytest.fixture
def make_locks(lock_nodes: "list[ValkeyNode]", monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeLocks]:
    """Build Redlocks over the three nodes. Patient with live nodes, so that a busy machine fails no test."""
    monkeypatch.setattr(redlock, "COOLDOWN_SECONDS", 0.05)
    made: list[Redlock] = []

    def make(*, nodes: int = 3, ttl_ms: int = 30_000, max_hold_seconds: float = 600.0) -> Redlock:
        clients = [node.client() for node in lock_nodes[:nodes]]
        locks = Redlock(clients, ttl_ms=ttl_ms, node_timeout_seconds=5.0, max_hold_seconds=max_hold_seconds)
        for client in clients:
            client.close()
        made.append(locks)
        return locks

    yield make
    for locks in made:
        locks.close()


def owners(lock_nodes: "list[ValkeyNode]", key: str) -> list[str | None]:
    """Return the token each running node holds for the key."""
    found: list[str | None] = []
    for node in lock_nodes:
        if node.process is None:
            continue
        with node.client() as client:
            value = client.get(f"lock:{key}")
            found.append(None if value is None else value.decode())
    return found


def eventually(condition: Callable[[], bool]) -> bool:
    give_up_at = time.monotonic() + 15
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.02)
    return True


def test_free_keys_are_granted_on_every_node(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locked = make_locks().try_lock(SKUS)

    assert locked.keys == SKUS
    assert owners(lock_nodes, "sku:7") == [locked.token] * 3
    assert len(bytes.fromhex(locked.token)) == 16
    assert not locked.lost
    assert 29 < locked.valid_until - time.monotonic() < 29.7


def test_no_keys_are_no_lock(make_locks: MakeLocks) -> None:
    locked = make_locks().try_lock([])

    assert locked.keys == frozenset()
    assert not locked.lost
    assert not locked.extend()
    locked.release()


def test_released_keys_are_free_for_the_next(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locks = make_locks()

    with locks.try_lock(SKUS) as locked:
        assert locks.try_lock(SKUS).keys == frozenset()

    assert owners(lock_nodes, "sku:7") == [None] * 3
    assert not locked.lost
    assert locks.try_lock(SKUS).keys == SKUS


def test_an_error_in_the_work_releases(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    with pytest.raises(RuntimeError), make_locks().try_lock(SKUS):
        raise RuntimeError

    assert owners(lock_nodes, "sku:7") == [None] * 3


def test_of_overlapping_batches_the_second_gets_the_rest(make_locks: MakeLocks) -> None:
    locks = make_locks()

    first = locks.try_lock({"a", "b", "c"})
    second = locks.try_lock({"b", "c", "d"})

    assert first.keys == {"a", "b", "c"}
    assert second.keys == {"d"}


def test_one_node_is_enough_where_there_is_one(make_locks: MakeLocks) -> None:
    locks = make_locks(nodes=1)

    with locks.try_lock({"a"}) as locked:
        assert locked.keys == {"a"}
        assert locks.try_lock({"a"}).keys == frozenset()
        assert locked.extend()

    assert locks.try_lock({"a"}).keys == {"a"}


def test_no_nodes_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        Redlock([])


def test_one_dead_node_of_three_still_locks(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    lock_nodes[1].kill()
    locks = make_locks()

    locked = locks.try_lock(SKUS)

    assert locked.keys == SKUS
    assert owners(lock_nodes, "sku:7") == [locked.token] * 2
    assert locks.try_lock(SKUS).keys == frozenset()
    assert locked.extend()


def test_two_dead_nodes_of_three_refuse_and_leave_nothing(
    make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]"
) -> None:
    lock_nodes[0].kill()
    lock_nodes[2].kill()

    locked = make_locks().try_lock(SKUS)

    assert locked.keys == frozenset()
    assert owners(lock_nodes, "sku:7") == [None]


def test_no_quorum_of_answers_is_degraded_and_a_refusal_is_not(
    make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]"
) -> None:
    locks = make_locks()
    granted, refused = locks.try_lock({"a"}), locks.try_lock({"a"})
    lock_nodes[0].kill()
    refused_by_two = locks.try_lock({"a"})
    lock_nodes[1].kill()
    unanswered = locks.try_lock({"a"})

    assert not granted.is_degraded
    assert not refused.is_degraded
    assert not refused_by_two.is_degraded
    assert unanswered.is_degraded
    assert not locks.try_lock([]).is_degraded


def test_all_nodes_dead_refuse_without_an_error(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locks = make_locks()
    locked = locks.try_lock({"a"})
    for node in lock_nodes:
        node.kill()

    assert locks.try_lock({"b"}).keys == frozenset()
    assert not locked.extend()
    assert not locked.lost  # nobody disowned it: it holds until valid_until
    locked.release()


def test_a_node_that_comes_back_is_used_again(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locks = make_locks()
    locks.try_lock({"a"}).release()
    lock_nodes[1].kill()
    locks.try_lock({"b"}).release()

    lock_nodes[1].start()

    def locked_everywhere() -> bool:
        with locks.try_lock({"c"}) as locked:
            return owners(lock_nodes, "c") == [locked.token] * 3

    assert eventually(locked_everywhere)


def test_a_hung_node_counts_as_no(lock_nodes: "list[ValkeyNode]") -> None:
    with lock_nodes[0].client() as hung, lock_nodes[1].client() as one, lock_nodes[2].client() as other:
        locks = Redlock([hung, one, other], node_timeout_seconds=1.0)
        hung.client_pause(60_000)

        started_at = time.monotonic()
        locked = locks.try_lock({"a"})
        took_seconds = time.monotonic() - started_at

        assert locked.keys == {"a"}
        assert took_seconds < 30
        locks.close()
    lock_nodes[0].kill()


def test_a_key_of_another_token_is_not_deleted(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locked = make_locks().try_lock({"a"})
    for node in lock_nodes:
        with node.client() as client:
            client.set("lock:a", "another")

    locked.release()

    assert owners(lock_nodes, "a") == ["another"] * 3


def test_a_key_of_another_token_is_not_extended(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locked = make_locks().try_lock({"a", "b"})
    for node in lock_nodes[:2]:
        with node.client() as client:
            client.set("lock:a", "another", px=100_000)

    assert not locked.extend()

    assert locked.lost
    assert owners(lock_nodes, "a") == ["another", "another", None]
    assert owners(lock_nodes, "b") == [None] * 3


def test_an_expired_key_is_free(make_locks: MakeLocks) -> None:
    locks = make_locks(ttl_ms=1000)
    locked = locks.try_lock({"a"})
    assert locked.keys == {"a"}

    assert eventually(lambda: locked.lost)
    assert eventually(lambda: locks.try_lock({"a"}).keys == {"a"})


def test_a_lock_that_ran_out_stays_lost_after_its_release(make_locks: MakeLocks) -> None:
    with make_locks(ttl_ms=1_000).try_lock({"a"}) as locked:
        assert locked.keys == {"a"}
        assert eventually(lambda: locked.lost)

    assert locked.lost


def test_an_extension_lasts_the_whole_time_to_live_again(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locked = make_locks().try_lock({"a"})
    before = locked.valid_until
    for node in lock_nodes:
        with node.client() as client:
            client.pexpire("lock:a", 5_000)

    assert locked.extend()

    assert locked.valid_until > before
    for node in lock_nodes:
        with node.client() as client:
            assert client.pttl("lock:a") > 20_000


def test_an_extension_heals_a_node_that_lost_its_data(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locked = make_locks().try_lock({"a"})
    with lock_nodes[1].client() as client:
        client.flushall()

    assert locked.extend()

    assert owners(lock_nodes, "a") == [locked.token] * 3


def test_a_lock_whose_nodes_lost_their_data_is_lost(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locked = make_locks().try_lock({"a"})
    for node in lock_nodes[:2]:
        with node.client() as client:
            client.flushall()

    assert not locked.extend()

    assert locked.lost
    assert owners(lock_nodes, "a") == [None] * 3


def test_a_released_lock_is_not_extended(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locked = make_locks().try_lock({"a"})
    locked.release()
    locked.release()

    assert not locked.extend()
    assert not locked.lost
    assert owners(lock_nodes, "a") == [None] * 3


def test_auto_extension_outlives_the_time_to_live(make_locks: MakeLocks) -> None:
    locks = make_locks(ttl_ms=1_500)
    locked = locks.try_lock({"a"}, auto_extend=True)
    first_end = locked.valid_until

    assert eventually(lambda: locked.valid_until > first_end + 1.5)

    assert not locked.lost
    assert locks.try_lock({"a"}).keys == frozenset()
    locked.release()


def test_auto_extension_ends_with_the_release(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    before = extenders()
    locked = make_locks(ttl_ms=300).try_lock({"a"}, auto_extend=True)

    locked.release()

    assert eventually(lambda: not extenders() - before)
    assert owners(lock_nodes, "a") == [None] * 3


def test_auto_extension_notices_the_loss(make_locks: MakeLocks, lock_nodes: "list[ValkeyNode]") -> None:
    locked = make_locks(ttl_ms=3_000).try_lock({"a"}, auto_extend=True)
    for node in lock_nodes:
        with node.client() as client:
            client.set("lock:a", "another")

    assert eventually(lambda: locked.lost)
    assert owners(lock_nodes, "a") == ["another"] * 3


def test_auto_extension_ends_for_a_lock_nobody_releases(make_locks: MakeLocks) -> None:
    locks = make_locks(ttl_ms=300, max_hold_seconds=0.2)
    forgotten = locks.try_lock({"a"}, auto_extend=True)

    assert eventually(lambda: forgotten.lost)
    assert eventually(lambda: locks.try_lock({"a"}).keys == {"a"})


def test_one_thread_extends_many_locks(make_locks: MakeLocks) -> None:
    before = extenders()
    locks = make_locks(ttl_ms=2_000)
    held = [locks.try_lock({key}, auto_extend=True) for key in SKUS]
    ends = {locked.token: locked.valid_until for locked in held}

    assert len(extenders() - before) == 1
    assert eventually(lambda: all(locked.valid_until > ends[locked.token] for locked in held))
    assert not any(locked.lost for locked in held)
    for locked in held:
        locked.release()


def test_threads_that_contend_never_hold_a_key_together(make_locks: MakeLocks) -> None:
    locks = make_locks()
    batches = [{f"sku:{(start + step) % 8}" for step in range(5)} for start in range(8)]
    holders: Counter[str] = Counter()
    guard = threading.Lock()
    grants: Counter[int] = Counter()

    def contend(number: int) -> list[str]:
        together = []
        for _ in range(40):
            with locks.try_lock(batches[number]) as locked:
                with guard:
                    holders.update(locked.keys)
                    together += [key for key in locked.keys if holders[key] > 1]
                    grants[number] += len(locked.keys)
                time.sleep(0.001)
                with guard:
                    holders.subtract(locked.keys)
        return together

    with ThreadPoolExecutor(8) as pool:
        held_together = [key for keys in pool.map(contend, range(8)) for key in keys]

    assert held_together == []
    assert sum(grants.values()) > 0


def test_two_clients_that_ask_at_once_never_both_get_a_key(make_locks: MakeLocks) -> None:
    ours, theirs = make_locks(), make_locks()
    barrier = threading.Barrier(2)

    def ask(locks: Redlock) -> Locked:
        barrier.wait()
        return locks.try_lock(SKUS)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(30):
            first, second = pool.map(ask, [ours, theirs])
            assert not first.keys & second.keys
            first.release()
            second.release()


def test_the_clients_own_timeouts_and_retries_are_not_used(lock_nodes: "list[ValkeyNode]") -> None:
    lock_nodes[0].kill()
    patient = redis.Redis(port=lock_nodes[0].port, socket_timeout=600)
    locks = Redlock([patient])

    started_at = time.monotonic()
    locked = locks.try_lock({"a"})

    assert locked.keys == frozenset()
    assert time.monotonic() - started_at < 5
    locks.close()


def extenders() -> set[threading.Thread]:
    """The threads that extend locks: this test's, and whatever earlier tests have left for a while."""
    return {thread for thread in threading.enumerate() if thread.name == "redlock-extender"}
