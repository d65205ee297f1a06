"""Carrying out bulk queries in the background, and keeping their result files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from channels.sandbox import bulk
from channels.sandbox.faults import parse_faults
from channels.sandbox.graph import Graph, Rejected
from channels.sandbox.records import BulkOperation
from channels.sandbox.resolvers import Session

if TYPE_CHECKING:
    from channels.sandbox.mall import Mall
    from channels.sandbox.store import Store


class BulkRuns:
    """Runs each started operation once, after the time the store's settings say it takes."""

    def __init__(self, mall: Mall, graph: Graph, folder: Path) -> None:
        self._mall = mall
        self._graph = graph
        self._folder = folder
        self._waiting: set[tuple[str, int]] = set()

    def take_up(self, store: Store) -> None:
        """Schedule operations of the store which have not run yet."""
        for operation in reversed(store.bulk_operations.values()):
            if operation.status not in ("CREATED", "RUNNING"):
                break
            known = (store.handle, operation.id)
            if known not in self._waiting:
                self._waiting.add(known)
                loop = asyncio.get_running_loop()
                loop.call_later(store.settings.bulk_seconds / 2, self._begin, *known)
                loop.call_later(store.settings.bulk_seconds, self._finish, *known)

    def file_of(self, handle: str, operation_id: int) -> Path:
        return self._folder / f"{handle}-{operation_id}.jsonl"

    def _begin(self, handle: str, operation_id: int) -> None:
        if self._operation(handle, operation_id) is not None:
            self._mall.perform(handle, "run", {"operation_id": operation_id})

    def _finish(self, handle: str, operation_id: int) -> None:
        self._waiting.discard((handle, operation_id))
        operation = self._operation(handle, operation_id)
        if operation is None or operation.status not in ("CREATED", "RUNNING"):
            return
        arguments: dict[str, object] = {"operation_id": operation_id}
        try:
            arguments |= self._write_result(self._mall.store(handle), operation)
        except Rejected:
            arguments |= {"object_count": 0, "root_object_count": 0, "file_size": 0}
            arguments["error_code"] = "INTERNAL_SERVER_ERROR"
        faults = parse_faults(self._mall.store(handle).faults)
        if faults.bulk_error is not None:
            arguments["error_code"] = faults.bulk_error
        self._mall.perform(handle, "finish", arguments)

    def _operation(self, handle: str, operation_id: int) -> BulkOperation | None:
        store = self._mall.stores.get(handle)
        return None if store is None else store.bulk_operations.get(operation_id)

    def _write_result(self, store: Store, operation: BulkOperation) -> dict[str, int]:
        prepared = self._graph.prepare(operation.query, None, None)
        session = Session(self._mall, store, self._mall.now_us(), operation.base_url, unlimited=True)
        answer, _ = self._graph.run(session, prepared)
        if answer.get("data") is None or "errors" in answer:
            raise Rejected(answer.get("errors", []))
        found = list(bulk.to_lines(answer["data"]))
        faults = parse_faults(store.faults)
        if faults.bulk_error is not None:
            found = found[: len(found) // 2] if faults.bulk_partial else []
        lines = [line for line, _ in found]
        roots = sum(is_root for _, is_root in found)
        content = "".join(line + "\n" for line in lines).encode()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.file_of(store.handle, operation.id).write_bytes(content)
        return {"object_count": len(lines), "root_object_count": roots, "file_size": len(content)}
