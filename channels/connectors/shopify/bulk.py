"""All levels of a store by a bulk operation: Shopify runs the query in the background and writes the result into a file.

The file is JSONL and may be hundreds of megabytes: it is fetched in pieces (HTTP ranges) and read line by line. Since 2026-01
children need not follow their parents, so each level says itself whether its item is tracked, and by `__parentId` which item
it is of; nothing has to be kept in memory until its parent turns up.

Sources: shopify.dev, "Perform bulk operations with the GraphQL Admin API" (states, limits, `__parentId`, seven days until the
file expires); the examples there have the file at storage.googleapis.com, whose signed addresses may end sooner.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from channels.connectors.shopify import documents
from channels.connectors.shopify.client import ShopifyClient
from channels.connectors.shopify.parsing import (
    JsonObject,
    malformed,
    read_flag,
    read_moment_or_none,
    read_object,
    read_objects,
    read_quantity,
    read_remote_id,
    read_text,
)
from channels.connectors.shopify.reading import checking_answer, gid
from channels.protocol import (
    LevelState,
    OutcomeUnknown,
    Refused,
    Snapshot,
    SnapshotState,
    Throttled,
    Unavailable,
)
from synctec.lib import http
from synctec.lib.http import GuardedSession

#: The file is fetched in pieces of this size.
PIECE_BYTES = 4_000_000
#: A line is one level; one that is longer than this is none of ours.
LINE_BYTES_MAX = 100_000
LEVELS_PER_PAGE = 1_000
#: Five bulk queries of an app may run in a store at once; when there are as many, one is over after a while.
BUSY_SECONDS = 60.0
_FILE_GONE = (403, 404, 410)

_UNDER_WAY = frozenset({"CREATED", "RUNNING", "CANCELING"})


class BulkLevels:
    """`channels.protocol.TakesSnapshots` for one store."""

    def __init__(self, client: ShopifyClient, downloads: GuardedSession) -> None:
        """`downloads`: may talk to where result files are, and to nothing else. Our token is not sent there."""
        self._client = client
        self._downloads = downloads
        #: Told with the state of an operation: the first piece needs no call of its own to ask for it.
        self._known: tuple[str, str] | None = None

    def begin(self) -> str:
        """Start a bulk operation; returns its id."""
        payload = self._client.mutate(documents.RUN_BULK_QUERY, {"query": documents.BULK_LEVELS})
        operation, errors = _payload(payload)
        if errors:
            said = "; ".join(str(error.get("message"))[:200] for error in errors)
            if any(error.get("code") == "OPERATION_IN_PROGRESS" for error in errors):
                raise Throttled(f"The store runs as many bulk operations as it may: {said}", retry_after=BUSY_SECONDS)
            raise Refused(f"The store does not run the bulk operation: {said}", code="BULK_REFUSED")
        with checking_answer("a bulk operation"):
            return read_remote_id(read_object(operation, "bulkOperation").get("id"), "bulkOperation.id")

    def look(self, operation_id: str) -> Snapshot:
        """How far it is."""
        operation = self._operation(operation_id)
        if operation is None:
            return Snapshot(operation_id, SnapshotState.GONE)
        status = _status(operation)
        error = str(operation.get("errorCode") or status)
        address = operation.get("url") or operation.get("partialDataUrl")
        self._known = (operation_id, str(address)) if address else None
        if status in _UNDER_WAY:
            return Snapshot(operation_id, SnapshotState.UNDER_WAY)
        if status == "COMPLETED":
            return Snapshot(operation_id, SnapshotState.READY)
        if status == "EXPIRED":
            return Snapshot(operation_id, SnapshotState.GONE, error)
        state = SnapshotState.PARTIAL if operation.get("partialDataUrl") else SnapshotState.FAILED
        return Snapshot(operation_id, state, error)

    def levels(self, operation_id: str) -> Iterator[tuple[LevelState, ...]]:
        """The levels in its file, page by page.

        Raises:
            Unavailable: it has no file (any more), or the file makes no sense.
        """
        page: list[LevelState] = []
        with checking_answer("all its stock levels"):
            for line in self._lines(operation_id):
                node = _read_line(line)
                if "__parentId" in node:
                    page.append(_read_level(node))
                if len(page) == LEVELS_PER_PAGE:
                    yield tuple(page)
                    page = []
        if page:
            yield tuple(page)

    def cancel(self, operation_id: str) -> None:
        """Stop it; one that has ended or is unknown stays as it is."""
        self._client.mutate(documents.CANCEL_BULK, {"id": gid("BulkOperation", operation_id)})

    def _operation(self, operation_id: str) -> JsonObject | None:
        with checking_answer("a bulk operation"):
            answer = self._client.query(documents.BULK_OPERATION, {"id": gid("BulkOperation", operation_id)})
            operation = answer.get("bulkOperation")
            return None if operation is None else read_object(operation, "bulkOperation")

    def _address(self, operation_id: str) -> str | None:
        """Where its file is now; None: nothing was found, so there is no file."""
        operation = self._operation(operation_id)
        if operation is None:
            raise Unavailable("The store does not know the bulk operation any more.", code="BULK_GONE")
        address = operation.get("url") or operation.get("partialDataUrl")
        if address is None and _status(operation) != "COMPLETED":
            raise Unavailable("The bulk operation left no file.", code="BULK_WITHOUT_FILE")
        return None if address is None else str(address)

    def _lines(self, operation_id: str) -> Iterator[bytes]:
        rest = b""
        for piece in self._pieces(operation_id):
            *whole, rest = (rest + piece).split(b"\n")
            yield from filter(None, whole)
            if len(rest) > LINE_BYTES_MAX:
                malformed("line", f"at most {LINE_BYTES_MAX} bytes", rest)
        if rest:
            yield rest

    def _pieces(self, operation_id: str) -> Iterator[bytes]:
        known, self._known = self._known, None
        address = known[1] if known and known[0] == operation_id else self._address(operation_id)
        offset, size = 0, None
        renewed_at = -1
        while address is not None and (size is None or offset < size):
            answer = self._fetch(address, offset)
            if answer.status_code in _FILE_GONE and renewed_at < offset:
                # Signed addresses run out while a long file is read: the store gives another one.
                renewed_at, address = offset, self._address(operation_id)
                continue
            if answer.status_code == 200 and offset == 0:
                yield answer.content  # the whole of a small file, from a server that knows no ranges
                return
            if answer.status_code != 206:
                raise Unavailable(
                    f"The file of the bulk operation cannot be read (HTTP {answer.status_code}).", code="BULK_FILE"
                )
            size = _size(answer.headers.get("Content-Range", ""), offset, len(answer.content))
            offset += len(answer.content)
            yield answer.content

    def _fetch(self, address: str, offset: int) -> Any:
        # Of a file that is unpacked on its way no pieces can be had.
        headers = {"Range": f"bytes={offset}-{offset + PIECE_BYTES - 1}", "Accept-Encoding": "identity"}
        try:
            return self._downloads.get(address, headers=headers)
        except http.HttpError as error:
            # It tells of hosts only: a signed address is as good as a key.
            raise Unavailable(f"The file of the bulk operation cannot be fetched: {error}", code="BULK_FILE") from None


def _payload(payload: object) -> tuple[object, list[JsonObject]]:
    errors = payload.get("userErrors") if type(payload) is dict else None
    if type(payload) is not dict or type(errors) is not list:
        raise OutcomeUnknown("The store's answer to a bulk query has an unknown form.", code="ANSWER_UNREADABLE")
    return payload.get("bulkOperation"), [error for error in errors if type(error) is dict]


def _status(operation: JsonObject) -> str:
    return read_text(operation.get("status"), "bulkOperation.status").upper()


def _size(content_range: str, offset: int, length: int) -> int:
    """The size of the whole file, from a header such as "bytes 0-99/1234"."""
    told, _, size = content_range.partition("/")
    if told != f"bytes {offset}-{offset + length - 1}" or not size.isascii() or not size.isdigit() or not length:
        malformed("Content-Range", "the piece that was asked for", content_range)
    return int(size)


def _read_line(line: bytes) -> JsonObject:
    try:
        node = json.loads(line)
    except (ValueError, RecursionError):
        malformed("line", "a JSON object", line)
    return read_object(node, "line")


def _read_level(node: JsonObject) -> LevelState:
    item = read_object(node.get("item"), "level.item")
    item_id = read_remote_id(node.get("__parentId"), "level.__parentId", kind="InventoryItem")
    if read_remote_id(item.get("id"), "level.item.id", kind="InventoryItem") != item_id:
        malformed("level.__parentId", "the item of the level", item_id)
    location = read_object(node.get("location"), "level.location")
    is_stocked = read_flag(node.get("isActive"), "level.isActive")
    quantity = next(
        (
            quantity
            for quantity in read_objects(node.get("quantities"), "level.quantities")
            if quantity.get("name") == "available"
        ),
        {},
    )
    available = None
    if is_stocked and read_flag(item.get("tracked"), "level.item.tracked"):
        available = read_quantity(quantity.get("quantity"), "level.available")
    return LevelState(
        inventory_item_id=item_id,
        location_id=read_remote_id(location.get("id"), "level.location.id", kind="Location"),
        available=available,
        is_stocked=is_stocked,
        source_at=read_moment_or_none(quantity.get("updatedAt") or node.get("updatedAt"), "level.updatedAt"),
    )
