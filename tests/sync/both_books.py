"""One merchant kept twice: in PostgreSQL and in the simulator's memory, under one clock.

Whatever the databases number by themselves has a name here that is the same on both sides: a stock level is its (SKU,
warehouse), a listing level its (listing, store location), an event its delivery, a push its place in its batch. `dump` shows
all rows under these names, `named` says an answer in them.

PostgreSQL's own clock is covered by a function of the same name, so that times agree to the microsecond.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any, Literal

from django.db import connection

from channels import protocol
from channels.models import Channel, ChannelKind, InboxEvent, Listing, ListingLevel, StoreLocation
from inventory import stock
from inventory.models import BomLine, Sku, SkuKind, Warehouse
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, Mapping as Cell, PublishingRule
from locations.publishing import Rule
from merchants.models import Merchant
from sync.models import DirtySku
from sync.ports import Books
from sync.simulator.memory import MemoryBooks
from sync.tables import Tables
from synctec.lib import sql

#: Later than the real clock, which the tables' defaults read: what they say is due.
START = datetime(2040, 11, 20, 12, tzinfo=UTC)

Table = Literal["event", "stock", "level", "line", "push"]
Name = tuple[Any, ...]
Rows = dict[Name, dict[str, Any]]

#: Columns that hold a number the database has given.
REFERENCES: dict[str, Table] = {
    "event_id": "event",
    "latest_event_id": "event",
    "stock_level_id": "stock",
    "held_at": "stock",
    "level_id": "level",
    "push_id": "push",
    "open_push_id": "push",
}
#: Numbers that nobody compares.
UNNAMED = {"id", "lease_token"}


@dataclass
class Side:
    """One of the two, with the names of its rows as of the latest `look`."""

    title: str
    books: Books
    rows_of: Callable[[], dict[str, Sequence[tuple[int | uuid.UUID, Name, dict[str, Any]]]]]
    deliver: Callable[[int, str, str, uuid.UUID], bool]
    rows: dict[str, Rows] = field(default_factory=dict)
    _ids: dict[str, dict[Name, Any]] = field(default_factory=dict)
    _names: dict[str, dict[Any, Name]] = field(default_factory=dict)

    def look(self) -> dict[str, Rows]:
        """Read every row there is and learn the names."""
        found = self.rows_of()
        self._ids = {table: {name: key for key, name, _ in rows} for table, rows in found.items()}
        self._names = {table: {key: name for key, name, _ in rows} for table, rows in found.items()}
        self.rows = {table: {name: self.named(row) for _, name, row in rows} for table, rows in found.items()}
        return self.rows

    def id(self, table: Table, name: Name) -> int:
        """The number this side has given."""
        number: int = self._ids[table][name]
        return number

    def name(self, table: Table, number: int) -> Name:
        """What has this number on this side."""
        return self._names[table].get(number, ("new",))

    def named(self, value: Any, column: str = "") -> Any:
        """A value with names for numbers, and plain dictionaries for data classes."""
        if column in REFERENCES and isinstance(value, int):
            return self.name(REFERENCES[column], value)
        if is_dataclass(value) and not isinstance(value, type):
            return {
                one.name: self.named(getattr(value, one.name), one.name)
                for one in fields(value)
                if one.name not in UNNAMED or isinstance(getattr(value, one.name), uuid.UUID)
            }
        if isinstance(value, uuid.UUID):
            return self._names.get("correlation", {}).get(value, "of nobody")
        if isinstance(value, dict):
            return {key: self.named(what, key if isinstance(key, str) else "") for key, what in value.items()}
        if isinstance(value, list | tuple):
            return [self.named(what) for what in value]
        if isinstance(value, float):
            return float(f"{value:.9g}")
        return value
