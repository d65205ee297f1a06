"""The file of a bulk operation: fetched in pieces, read by lines, in whatever order they come."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import requests
from graphql import parse

from channels.connectors.shopify import bulk
from channels.connectors.shopify.bulk import BulkLevels
from channels.connectors.shopify.client import ShopifyClient
from channels.connectors.shopify.documents import BULK_LEVELS
from channels.protocol import LevelState, Refused, SnapshotState, Throttled, Unavailable
from channels.sandbox.bulk import query_errors
from synctec.lib import http
from synctec.lib.http import GuardedSession

TOLD_AT = "2026-11-20T12:00:00Z"


def level(item: int, place: int, available: int, *, is_stocked: bool = True, tracked: bool = True) -> dict[str, Any]:
    return {
        "id": f"gid://shopify/InventoryLevel/{item}{place}?inventory_item_id={item}",
        "isActive": is_stocked,
        "updatedAt": TOLD_AT,
        "location": {"id": f"gid://shopify/Location/{place}"},
        "item": {"id": f"gid://shopify/InventoryItem/{item}", "tracked": tracked},
        "quantities": [{"name": "available", "quantity": available, "updatedAt": TOLD_AT}],
        "__parentId": f"gid://shopify/InventoryItem/{item}",
    }


def item(number: int) -> dict[str, Any]:
    return {"id": f"gid://shopify/InventoryItem/{number}"}


def as_file(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@dataclass
class Store:
    """A client and a place of files at once: an address is good for so many pieces."""

    file: bytes = b""
    operation: dict[str, Any] | None = field(default_factory=lambda: {"status": "COMPLETED"})
    payload: dict[str, Any] = field(default_factory=dict)
    pieces_per_address: int = 1_000
    knows_ranges: bool = True
    addresses: int = 0
    fetched: list[str] = field(default_factory=list)
    left: int = 0
    failure: Exception | None = None

    def query(self, document: Any, variables: Any, *, size: int = 1) -> dict[str, Any]:
        if self.operation is None:
            return {"bulkOperation": None}
        self.addresses += 1
        self.left = self.pieces_per_address
        url = f"https://files.example/{self.addresses}" if self.file else None
        is_done = self.operation["status"] == "COMPLETED"
        return {"bulkOperation": {"url": url if is_done else None, "partialDataUrl": url} | self.operation}

    def mutate(self, document: Any, variables: Any, *, size: int = 1) -> object:
        return self.payload

    def get(self, address: str, *, headers: dict[str, str]) -> requests.Response:
        if self.failure is not None:
            raise self.failure
        self.fetched.append(headers["Range"])
        answer = requests.Response()
        self.left -= 1
        if self.left < 0:
            answer.status_code, answer._content = 403, b"expired"
        elif not self.knows_ranges:
            answer.status_code, answer._content = 200, self.file
        else:
            first, last = map(int, headers["Range"].removeprefix("bytes=").split("-"))
            piece = self.file[first : last + 1]
            answer.status_code, answer._content = 206, piece
            answer.headers["Content-Range"] = f"bytes {first}-{first + len(piece) - 1}/{len(self.file)}"
        return answer

    def levels(self) -> list[tuple[LevelState, ...]]:
        return list(self.reader().levels("1"))

    def reader(self) -> BulkLevels:
        return BulkLevels(cast(ShopifyClient, self), cast(GuardedSession, self))


def numbers(pages: list[tuple[LevelState, ...]]) -> list[tuple[str, str, int | None]]:
    return [(state.inventory_item_id, state.location_id, state.available) for page in pages for state in page]


def test_children_may_come_before_their_parents_or_long_after() -> None:
    store = Store(as_file(level(2, 9, 5), item(1), item(2), level(1, 9, 3), level(2, 8, 0)))

    assert numbers(store.levels()) == [("2", "9", 5), ("1", "9", 3), ("2", "8", 0)]


def test_what_is_not_stocked_or_not_tracked_has_no_number() -> None:
    store = Store(as_file(item(1), level(1, 8, 5, is_stocked=False), level(1, 9, 5, tracked=False)))

    first, second = store.levels()[0]

    assert (first.is_stocked, first.available) == (False, None)
    assert (second.is_stocked, second.available) == (True, None)


@pytest.mark.parametrize("piece_bytes", [1, 7, 100, 10**6])
def test_however_the_pieces_are_cut_the_lines_are_whole(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PIECE_BYTES", piece_bytes)
    store = Store(as_file(item(1), level(1, 8, 5), level(1, 9, -2)).rstrip(b"\n"))

    assert numbers(store.levels()) == [("1", "8", 5), ("1", "9", -2)]


def test_levels_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "LEVELS_PER_PAGE", 2)
    store = Store(as_file(item(1), *(level(1, place, place) for place in range(1, 6))))

    assert [len(page) for page in store.levels()] == [2, 2, 1]


def test_an_address_that_runs_out_is_asked_for_again_and_reading_goes_on_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "PIECE_BYTES", 200)
    store = Store(as_file(item(1), *(level(1, place, place) for place in range(1, 6))), pieces_per_address=2)

    assert len(numbers(store.levels())) == 5
    assert store.addresses > 2


def test_a_file_that_is_gone_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(as_file(item(1), level(1, 8, 5)), pieces_per_address=0)

    with pytest.raises(Unavailable, match="HTTP 403"):
        store.levels()
    assert store.addresses == 2


def test_a_small_file_of_a_server_without_ranges_is_taken_whole() -> None:
    store = Store(as_file(item(1), level(1, 8, 5)), knows_ranges=False)

    assert numbers(store.levels()) == [("1", "8", 5)]


def test_an_operation_that_found_nothing_has_no_file() -> None:
    assert Store().levels() == []


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"__parentId": 7}', as_file(level(1, 8, 5) | {"__parentId": item(2)["id"]})]
)
def test_a_file_that_makes_no_sense_is_not_believed(line: bytes) -> None:
    with pytest.raises(Unavailable, match="makes no sense"):
        Store(line).levels()


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PIECE_BYTES", 1_000)
    with pytest.raises(Unavailable, match="makes no sense"):
        Store(b"x" * (bulk.LINE_BYTES_MAX + 5_000)).levels()


def test_errors_of_fetching_tell_no_address() -> None:
    store = Store(as_file(item(1)), failure=http.NotSent("GET to files.example: timed out"))

    with pytest.raises(Unavailable, match=r"files\.example: timed out") as raised:
        store.levels()
    assert "https://" not in str(raised.value)


@pytest.mark.parametrize(
    ("operation", "state"),
    [
        ({"status": "CREATED"}, SnapshotState.UNDER_WAY),
        ({"status": "RUNNING"}, SnapshotState.UNDER_WAY),
        ({"status": "CANCELING"}, SnapshotState.UNDER_WAY),
        ({"status": "COMPLETED"}, SnapshotState.READY),
        ({"status": "FAILED", "errorCode": "TIMEOUT"}, SnapshotState.FAILED),
        ({"status": "FAILED", "errorCode": "TIMEOUT", "partialDataUrl": "https://x"}, SnapshotState.PARTIAL),
        ({"status": "CANCELED"}, SnapshotState.FAILED),
        ({"status": "EXPIRED"}, SnapshotState.GONE),
        (None, SnapshotState.GONE),
    ],
)
def test_every_state_of_an_operation_is_understood(operation: dict[str, Any] | None, state: SnapshotState) -> None:
    assert Store(operation=operation).reader().look("1").state is state


def test_the_sixth_operation_at_once_waits_and_any_other_refusal_is_final() -> None:
    def refused(code: str) -> Store:
        return Store(payload={"bulkOperation": None, "userErrors": [{"message": "no", "code": code}]})

    with pytest.raises(Throttled) as waits:
        refused("OPERATION_IN_PROGRESS").reader().begin()
    assert waits.value.retry_after == 60.0
    with pytest.raises(Refused):
        refused("INVALID").reader().begin()


def test_the_query_keeps_the_rules_of_bulk_operations() -> None:
    parse(BULK_LEVELS)

    assert query_errors(BULK_LEVELS) == []
