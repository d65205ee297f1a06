import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from synctec.lib import ids
from synctec.lib.ids import uuid7


def test_it_is_a_version_7_uuid_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    # A test that was somewhere later may have made some there, and none is smaller than these.
    monkeypatch.setattr(ids, "_latest", 0)
    before_ms = time.time_ns() // 1_000_000

    value = uuid7()

    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert before_ms <= value.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_ids_of_one_thread_ascend() -> None:
    values = [uuid7() for _ in range(20_000)]

    assert values == sorted(values)
    assert [str(value) for value in values] == sorted(str(value) for value in values)
    assert len(set(values)) == 20_000


def test_ids_ascend_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 0)

    after = uuid7()

    assert after > before


def test_threads_never_get_the_same_id() -> None:
    barrier = threading.Barrier(8)

    def make(_: int) -> list[uuid.UUID]:
        barrier.wait()
        return [uuid7() for _ in range(2_000)]

    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(make, range(8)))

    assert all(batch == sorted(batch) for batch in batches)
    assert len({value for batch in batches for value in batch}) == 16_000
