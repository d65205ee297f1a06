"""A store as the bench of reconciliation needs it: it answers at once, shows what the books say, and counts its calls.

A process of its own (`python -m sync.benchmarks.store_server ITEMS`): its memory and its time are not the worker's. It loads
neither Django nor the sandbox, which would take longer to answer than the engine takes to ask.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sync.benchmarks.numbers import ITEM_BASE, LOCATION_BASE, STORE, UNITS

#: What a request costs, and a budget that never runs out: the figure is about the engine, not about a plan.
COSTS = {"Levels": 90, "OrdersSince": 540, "RunBulkQuery": 10, "BulkOperation": 1}
BUDGET = {"maximumAvailable": 1e8, "currentlyAvailable": 1e8, "restoreRate": 1e8}
MOMENT = "2026-01-01T00:00:00Z"


class Stores(BaseHTTPRequestHandler):
    """`POST /<store>/...` is the API of a store, `GET /<store>/file` its result file, `GET /counts` what was asked."""

    protocol_version = "HTTP/1.1"
    items = 0
    folder = Path()
    counts: Counter[str] = Counter()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, store = asked["operationName"], int(self.path.split("/")[1])
        self.counts[name] += 1
        cost = COSTS.get(name, 1)
        self.counts["points"] += cost
        spent = {"requestedQueryCost": cost, "actualQueryCost": cost, "throttleStatus": BUDGET}
        answer = {"data": self._answer(name, store, asked["variables"]), "extensions": {"cost": spent}}
        self._send(200, json.dumps(answer).encode())

    def do_GET(self) -> None:
        if self.path == "/counts":
            body = json.dumps(self.counts).encode()
            self.counts.clear()
            self._send(200, body)
            return
        self.counts["pieces"] += 1
        path = self._file(int(self.path.split("/")[1]))
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        with path.open("rb") as file:
            file.seek(first)
            piece = file.read(last + 1 - first)
        told = f"bytes {first}-{first + len(piece) - 1}/{path.stat().st_size}"
        self._send(206, piece, {"Content-Range": told})

    def _answer(self, name: str, store: int, variables: dict[str, Any]) -> dict[str, Any]:
        match name:
            case "Levels":
                return {"nodes": [self._item(store, int(gid.rpartition("/")[2])) for gid in variables["ids"]]}
            case "OrdersSince":
                return {"orders": {"nodes": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}}
            case "RunBulkQuery":
                operation = {"id": f"gid://shopify/BulkOperation/{store}", "status": "CREATED"}
                return {"bulkOperationRunQuery": {"bulkOperation": operation, "userErrors": []}}
            case "BulkOperation":
                url = f"http://{self.headers['Host']}/{store}/file"
                gid = f"gid://shopify/BulkOperation/{store}"
                return {
                    "bulkOperation": {
                        "id": gid, "status": "COMPLETED", "errorCode": None, "url": url, "partialDataUrl": None
                    }
                }  # fmt: skip
        raise ValueError(name)

    def _item(self, store: int, number: int) -> dict[str, Any]:
        levels = {"nodes": [_level(store, number)], "pageInfo": {"hasNextPage": False, "endCursor": None}}
        return {"id": f"gid://shopify/InventoryItem/{number}", "tracked": True, "inventoryLevels": levels}

    def _file(self, store: int) -> Path:
        """All levels of the store, without their parents before them: nobody promises that."""
        path = self.folder / f"{store}.jsonl"
        if not path.exists():
            with path.open("w") as file:
                for number in range(
                    ITEM_BASE * STORE + store * STORE + 1, ITEM_BASE * STORE + store * STORE + 1 + self.items
                ):
                    gid = f"gid://shopify/InventoryItem/{number}"
                    level = _level(store, number) | {"item": {"id": gid, "tracked": True}, "__parentId": gid}
                    file.write(json.dumps(level, separators=(",", ":")) + "\n")
        return path

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: there are thousands of them."""


def _level(store: int, item: int) -> dict[str, Any]:
    return {
        "id": f"gid://shopify/InventoryLevel/{item}?inventory_item_id={item}",
        "isActive": True,
        "updatedAt": MOMENT,
        "location": {"id": f"gid://shopify/Location/{LOCATION_BASE + store}"},
        "quantities": [{"name": "available", "quantity": UNITS, "updatedAt": MOMENT}],
    }


def main(items: str) -> None:
    """Serve on a free port, which is printed first."""
    with tempfile.TemporaryDirectory(prefix="synctec-store-") as folder:
        Stores.items, Stores.folder = int(items), Path(folder)
        with ThreadingHTTPServer(("127.0.0.1", 0), Stores) as server:
            sys.stdout.write(f"{server.server_port}\n")
            sys.stdout.flush()
            server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
