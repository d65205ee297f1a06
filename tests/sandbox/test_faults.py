"""The switches that make an API misbehave."""

from __future__ import annotations

import time

import pytest

from tests.sandbox.clients import SET, StoreClient, call, codes, wait_until


def test_switches_are_off_at_first_and_shown(store: StoreClient) -> None:
    _, shown = call("GET", f"{store.control}/faults")

    assert not any(value for value in shown.values() if value != [0, 0])


def test_setting_switches_replaces_all_of_them(store: StoreClient) -> None:
    store.set_faults(error_rate=0.5, outage=True)
    store.set_faults(latency_ms=20)

    _, shown = call("GET", f"{store.control}/faults")

    assert (shown["error_rate"], shown["outage"], shown["latency_ms"]) == (0.0, False, [20, 20])


@pytest.mark.parametrize("switches", [{"unknown": 1}, {"error_rate": 2}, {"latency_ms": [5, 1]}, {"latency_ms": "x"}])
def test_unknown_or_senseless_switches_are_refused(store: StoreClient, switches: dict[str, object]) -> None:
    status, _ = call("PUT", f"{store.control}/faults", switches)

    assert status == 400


def test_server_errors_apply_nothing(store: StoreClient) -> None:
    store.set_faults(error_rate=1.0)

    status, _ = store.send(SET, store.set_variables([store.row("APPLE", 1, 5)]))

    assert status in (500, 502, 503)
    assert store.available("APPLE") == 5


def test_a_timeout_before_applies_nothing(store: StoreClient) -> None:
    store.set_faults(timeout_before_rate=1.0)

    with pytest.raises(ConnectionError):
        store.send(SET, store.set_variables([store.row("APPLE", 1, 5)]))

    assert store.available("APPLE") == 5


def test_a_timeout_after_has_applied_and_the_same_key_tells(store: StoreClient) -> None:
    store.set_faults(timeout_after_rate=1.0)
    rows = [store.row("APPLE", 1, 5)]

    with pytest.raises(ConnectionError):
        store.set(rows, key="lost")

    assert store.available("APPLE") == 1
    store.set_faults()
    assert codes(store.set(rows, key="lost")) == []
    assert codes(store.set(rows, key="other")) == ["CHANGE_FROM_QUANTITY_STALE"]


def test_a_hang_keeps_the_connection_open_before_it_closes(store: StoreClient) -> None:
    store.set_faults(timeout_after_rate=1.0, hang_ms=300)
    began = time.monotonic()

    with pytest.raises(ConnectionError):
        store.set([store.row("APPLE", 1, 5)])

    assert time.monotonic() - began >= 0.3


def test_a_late_request_is_applied_after_its_client_gave_up(store: StoreClient) -> None:
    store.set_faults(late_rate=1.0, late_ms=[300, 400])

    with pytest.raises(ConnectionError):
        store.set([store.row("APPLE", 1, 5)], key="late")
    assert store.available("APPLE") == 5
    store.set_faults()
    wait_until(lambda: store.available("APPLE") == 1)

    assert store.stats()["since_start"]["answers_late"] == 1
    assert codes(store.set([store.row("APPLE", 1, 5)], key="late")) == []


def test_a_late_request_finds_its_key_used(store: StoreClient) -> None:
    store.set_faults(late_rate=1.0, late_ms=[300, 400])
    with pytest.raises(ConnectionError):
        store.set([store.row("APPLE", 1, 5)], key="late")
    store.set_faults()

    assert codes(store.set([store.row("APPLE", 1, 5)], key="late")) == []
    store.buy("APPLE")
    time.sleep(0.5)

    assert store.available("APPLE") == 0


def test_throttling_out_of_the_blue_applies_nothing(store: StoreClient) -> None:
    store.set_faults(throttle_rate=1.0)

    status, answer = store.send(SET, store.set_variables([store.row("APPLE", 1, 5)]))

    assert (status, answer["errors"][0]["extensions"]["code"]) == (200, "THROTTLED")
    assert store.available("APPLE") == 5
    assert store.stats()["since_start"]["throttled"] == 1


def test_an_outage_closes_the_app_out_and_shoppers_go_on_buying(store: StoreClient) -> None:
    store.set_faults(outage=True)

    with pytest.raises(ConnectionError):
        store.send("{ shop { name } }")
    store.buy("APPLE")

    assert store.available("APPLE") == 4


def test_latency_delays_the_answer(store: StoreClient) -> None:
    store.set_faults(latency_ms=[200, 250])
    began = time.monotonic()

    store.ask("{ shop { name } }")

    assert time.monotonic() - began >= 0.2


def test_the_same_seed_throws_the_same_dice(store: StoreClient) -> None:
    runs = []
    for _ in range(2):
        store.set_faults(error_rate=0.5, seed=11)
        runs.append([store.send("{ shop { name } }")[0] for _ in range(12)])

    assert runs[0] == runs[1]
    assert 200 in runs[0]
    assert set(runs[0]) - {200}


def test_all_stores_can_be_switched_at_once(store: StoreClient) -> None:
    base = store.control.split("/stores/")[0]

    status, shown = call("PUT", f"{base}/faults", {"latency_ms": [1, 2]})
    call("PUT", f"{base}/faults", {})

    assert status == 200
    assert shown[store.handle]["latency_ms"] == [1, 2]
