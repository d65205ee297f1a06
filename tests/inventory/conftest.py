"""Alder with two warehouses, Birch beside it, and programs that speak to the API with keys of theirs."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.test import Client

from inventory.models import Warehouse
from merchants import keys
from merchants.models import Merchant, Scope
from tests.factories import Trade, make_trade


class Program:
    """A warehouse system with a key."""

    def __init__(self, merchant: Merchant, *scopes: str) -> None:
        self.key, self._secret = keys.create(
            merchant=merchant, name="wms", scopes=scopes or Scope.values, expires_at=None, user=None
        )
        self._client = Client()

    def get(self, path: str, **query: Any) -> Any:
        return self._client.get(f"/api/v1/{path}", query, headers=self._headers)

    def post(self, path: str, body: Any, *, once: str | None = None) -> Any:
        """POST JSON; with `once` as the Idempotency-Key, or a new one."""
        return self._client.post(
            f"/api/v1/{path}",
            body if isinstance(body, bytes) else json.dumps(body),
            content_type="application/json",
            headers=self._headers | {"idempotency-key": once or str(uuid.uuid4())},
        )

    def post_lines(self, path: str, *lines: dict[str, Any], mode: str = "per_line") -> list[dict[str, Any]]:
        """POST a batch and return its results."""
        results: list[dict[str, Any]] = self.post(path, {"mode": mode, "lines": list(lines)}).json()["results"]
        return results

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._secret.reveal()}"}


@pytest.fixture
def alder(db: None) -> Trade:
    trade = make_trade("Alder")
    Warehouse.objects.create(merchant=trade.merchant, code="SECOND", name="Second")
    return trade


@pytest.fixture
def birch(db: None) -> Trade:
    trade = make_trade("Birch", stock_of={"MUG": 7})
    Warehouse.objects.create(merchant=trade.merchant, code="SECOND", name="Second")
    return trade


@pytest.fixture
def wms(alder: Trade) -> Program:
    return Program(alder.merchant)
