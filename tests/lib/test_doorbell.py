from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from synctec.lib.doorbell import Doorbell


def test_a_silent_bell_rings_once(valkey: "redis.Redis") -> None:
    bell = Doorbell(valkey, "apply")

    assert [bell.press("shard-1") for _ in range(3)] == [True, False, False]


def test_bells_of_other_keys_and_names_are_others(valkey: "redis.Redis") -> None:
    assert Doorbell(valkey, "apply").press("1")
    assert Doorbell(valkey, "apply").press("2")
    assert Doorbell(valkey, "publish").press("1")


def test_a_press_during_the_work_rings_again(valkey: "redis.Redis") -> None:
    bell = Doorbell(valkey, "apply")
    bell.press("1")

    bell.answer("1")  # the worker starts

    assert bell.press("1")


def test_an_unanswered_bell_falls_silent_by_itself(valkey: "redis.Redis") -> None:
    bell = Doorbell(valkey, "apply")

    bell.press("1")

    assert 0 < valkey.pttl("doorbell:apply:1") <= 5_000


def test_of_many_presses_at_once_one_rings(valkey: "redis.Redis") -> None:
    bell = Doorbell(valkey, "apply")

    with ThreadPoolExecutor(8) as pool:
        rung = list(pool.map(lambda _: bell.press("1"), range(200)))

    assert rung.count(True) == 1


def test_without_redis_every_press_rings_and_nothing_raises(tmp_path: Path) -> None:
    nobody = redis.Redis(unix_socket_path=str(tmp_path / "nobody"), retry=Retry(NoBackoff(), 0))
    bell = Doorbell(nobody, "apply")

    assert [bell.press("1"), bell.press("1")] == [True, True]
    bell.answer("1")


def test_a_failing_redis_is_logged_without_details(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nobody = redis.Redis(unix_socket_path=str(tmp_path / "nobody"), password="canary", retry=Retry(NoBackoff(), 0))

    Doorbell(nobody, "apply").press("1")

    assert "ConnectionError" in caplog.text
    assert "canary" not in caplog.text
