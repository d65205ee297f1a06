"""What our requests cost, as far as known: recorded figures at first, then what the store itself has
answered.
"""

from __future__ import annotations

from typing import Final

#: Points for a request never seen before; read from recordings of real stores (API 2026-04) or computed the
#: same way.
_TYPICAL: Final = {
    "SetQuantities": 13,
    "ActivateLevel": 13,
    "CreateWebhook": 11,
    "UpdateWebhook": 11,
    "DeleteWebhook": 10,
    "RunBulkQuery": 10,
    "CancelBulk": 10,
    "BulkOperation": 1,
    "Catalogue": 30,
    "VariantsOfProduct": 30,
    "Levels": 90,
    "Orders": 230,
    "OrdersSince": 540,
}
_UNKNOWN: Final = 20


class CostBook:
    """Requested cost per operation and order of magnitude of its size.

    Shared by threads: only whole entries change.
    """

    def __init__(self) -> None:
        self._learned: dict[tuple[str, int], int] = {}

    def expected(self, operation: str, size: int) -> int:
        """Points the next such request will ask for."""
        learned = self._learned.get((operation, size.bit_length()))
        return _TYPICAL.get(operation, _UNKNOWN) if learned is None else learned

    def learn(self, operation: str, size: int, requested: int) -> None:
        """Keep what the store said; the dearest of a size class, lest the bucket be overdrawn."""
        key = (operation, size.bit_length())
        self._learned[key] = max(requested, self._learned.get(key, 0))
