"""What a repeated idempotency key meets."""

from __future__ import annotations

import threading
from typing import Any

from channels.sandbox.idempotency import MEMORY_US, KeyMemory, Verdict, fingerprint_of
from tests.sandbox.clients import StoreClient, codes, wait_until


def test_the_same_request_again_gets_the_first_answer_and_changes_nothing(store: StoreClient) -> None:
    rows = [store.row("APPLE", 9, 5)]
    first = store.set(rows, key="once")
    store.buy("APPLE", 1)

    again = store.set(rows, key="once")

    assert again == first
    assert store.available("APPLE") == 8


def test_the_same_key_with_other_parameters_is_a_mismatch(store: StoreClient) -> None:
    store.set([store.row("APPLE", 9, 5)], key="once")

    payload = store.set([store.row("APPLE", 7, 9)], key="once")

    assert codes(payload) == ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]
    assert store.available("APPLE") == 9


def test_a_key_of_a_failed_request_is_spent(store: StoreClient) -> None:
    rows = [store.row("APPLE", 9, 4)]
    store.set(rows, key="once")

    payload = store.set(rows, key="once")

    assert codes(payload) == ["IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED"]
    assert store.available("APPLE") == 5


def test_a_store_can_answer_stale_to_a_replay_as_was_observed(store: StoreClient) -> None:
    store.configure(replay="stale")
    rows = [store.row("APPLE", 9, 5)]
    store.set(rows, key="once")

    payload = store.set(rows, key="once")

    assert codes(payload) == ["CHANGE_FROM_QUANTITY_STALE"]
    assert store.available("APPLE") == 9


def test_a_replay_never_applies_twice_even_without_comparison(store: StoreClient) -> None:
    store.configure(replay="stale")
    rows = [
        {
            "inventoryItemId": store.items["APPLE"],
            "locationId": store.locations["Main"],
            "delta": -2,
            "changeFromQuantity": None,
        }
    ]
    store.adjust(rows, key="once")

    store.adjust(rows, key="once")

    assert store.available("APPLE") == 3


def test_a_key_in_flight_is_reported_as_concurrent(store: StoreClient) -> None:
    store.set_faults(latency_ms=[400, 400])
    rows = [store.row("APPLE", 9, 5)]
    first: list[dict[str, Any]] = []
    sender = threading.Thread(target=lambda: first.append(store.set(rows, key="once")))
    sender.start()
    wait_until(lambda: store.stats()["since_start"].get("api_calls", 0) >= 1)

    payload = store.set(rows, key="once")
    sender.join()

    # The second waited as long as the first, so by then the first may be through: never applied twice either
    # way.
    assert codes(payload) == ["IDEMPOTENCY_CONCURRENT_REQUEST"]
    assert codes(first[0]) == []
    assert store.available("APPLE") == 9


def test_keys_are_forgotten_after_a_day() -> None:
    memory = KeyMemory()
    fingerprint = fingerprint_of("set", {"a": 1})
    memory.remember("key", fingerprint, {"group": 1}, now_us=0)

    just_before = memory.look_up("key", fingerprint, now_us=MEMORY_US - 1)
    just_after = memory.look_up("key", fingerprint, now_us=MEMORY_US)

    assert just_before == (Verdict.SUCCEEDED, {"group": 1})
    assert just_after == (Verdict.NEW, None)


def test_the_order_of_fields_does_not_change_the_fingerprint() -> None:
    assert fingerprint_of("set", {"a": 1, "b": 2}) == fingerprint_of("set", {"b": 2, "a": 1})
    assert fingerprint_of("set", {"a": 1}) != fingerprint_of("set", {"a": 2})
