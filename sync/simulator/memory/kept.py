"""What is kept, and how a transaction takes back what it did. The ports' methods are in the modules beside this one."""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from types import TracebackType
from typing import Any, TypeVar

from inventory.bom import explode
from locations.publishing import Rule
from locations.routing import in_use
from sync.decide import LineKey
from sync.ports import DriftFound, OrderKey
from sync.simulator.memory.rows import (
    BatchRow,
    ChannelRow,
    EventRow,
    GroupRow,
    LevelRow,
    LineRow,
    ListingRow,
    LocationRow,
    PushRow,
    ShortageRow,
    SkuRow,
    StockRow,
)

T = TypeVar("T")


class BooksBroken(AssertionError):
    """Something was to be written that the database would refuse, or a transaction was used wrongly."""


_FIELDS: dict[type, tuple[str, ...]] = {
    row: tuple(column.name for column in fields(row))
    for row in (ChannelRow, ListingRow, LevelRow, StockRow, ShortageRow, EventRow, BatchRow, PushRow)
}
_VALUES: dict[type, Callable[[Any], tuple[Any, ...]]] = {row: attrgetter(*names) for row, names in _FIELDS.items()}


def _put_back(row: object, values: tuple[Any, ...]) -> None:
    for name, value in zip(_FIELDS[row.__class__], values, strict=True):
        setattr(row, name, value)


class Kept:
    """Everything the engine keeps, in dictionaries. `clock` plays the database's now()."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._now = clock
        #: How to take back what the transaction under way has done, in order; None: there is none.
        self._undo: list[tuple[Any, ...]] | None = None
        self._ids: dict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        #: What the database's clock said when it was last minded.
        self._swept_at: datetime | None = None
        #: What the books refused; a run without a planted bug ends with none.
        self.broken: list[str] = []

        self.channels: dict[int, ChannelRow] = {}
        self.locations: dict[int, LocationRow] = {}
        self.groups: dict[int, GroupRow] = {}
        self.skus: dict[int, SkuRow] = {}
        self.listings: dict[int, ListingRow] = {}
        self.levels: dict[int, LevelRow] = {}
        self.stock: dict[int, StockRow] = {}
        self.events: dict[int, EventRow] = {}
        self.orders: dict[OrderKey, dict[LineKey, LineRow]] = {}
        self.batches: dict[uuid.UUID, BatchRow] = {}
        self.pushes: dict[int, PushRow] = {}
        self.closed_warehouses: set[int] = set()
        #: The merchants whose kill switch is on.
        self.stopped_merchants: set[int] = set()
        self.drifts: list[DriftFound] = []
        self.marks: dict[int, dict[int, list[tuple[uuid.UUID, datetime]]]] = defaultdict(dict)

        self._locations_of: dict[int, list[LocationRow]] = defaultdict(list)
        self._by_variant: dict[tuple[int, str], ListingRow] = {}
        self._by_item: dict[tuple[int, str], list[ListingRow]] = defaultdict(list)
        self._listings_of: dict[int, list[ListingRow]] = defaultdict(list)
        self._level_at: dict[tuple[int, int], LevelRow] = {}
        self._stock_at: dict[tuple[int, int], StockRow] = {}
        self._stock_of: dict[int, list[StockRow]] = defaultdict(list)
        self._delivered: dict[tuple[int, str, str], EventRow] = {}
        self._pending: dict[int, dict[int, EventRow]] = defaultdict(dict)
        self._lines_at: dict[int, dict[LineKey, None]] = defaultdict(dict)
        self._unanswered: dict[int, dict[uuid.UUID, BatchRow]] = defaultdict(dict)
        self._posted: set[tuple[int, str]] = set()
        self._rules: dict[int, dict[tuple[str, int, int], Rule]] = defaultdict(dict)
        #: Per channel, the levels that may be suspect or out of sync: all that are, and perhaps others.
        self._astir: dict[int, dict[int, LevelRow]] = defaultdict(dict)

        self._components: dict[int, dict[int, int]] = {}
        self._parts: dict[int, dict[int, int]] = {}
        self._bundles: dict[int, tuple[int, ...]] = {}
        self._families: dict[int, tuple[int, ...]] = {}
        self._divided: dict[int, bool] = {}

    # --- transactions ---

    def transaction(self, *, waits_for_disk: bool = False) -> _Transaction:
        return _Transaction(self)

    @property
    def in_transaction(self) -> bool:
        return self._undo is not None

    def _begin(self) -> None:
        if self._undo is not None:
            self._require(False, "a transaction inside a transaction")
        self._undo = []

    def _end(self, *, commits: bool) -> None:
        undo, self._undo = self._undo, None
        if not commits:
            for take_back, *arguments in reversed(undo or ()):
                take_back(*arguments)

    def _require(self, holds: object, says: str, *about: object) -> None:
        """What `about` is shown in the braces of `says`, and spelt out only where something is wrong."""
        if not holds:
            self.broken.append(says.format(*about))
            raise BooksBroken(self.broken[-1])

    def _commits_itself(self, what: str) -> None:
        if self._undo is not None:
            self._require(False, f"{what} commits by itself, but a transaction is open")

    def _locks(self, what: str) -> None:
        if self._undo is None:
            self._require(False, f"{what} outside of a transaction keeps nobody away")

    def _touch(self, row: object) -> None:
        """Remember a row as it is before it is changed."""
        if self._undo is not None:
            self._undo.append((_put_back, row, _VALUES[row.__class__](row)))

    def _touch_level(self, level: LevelRow) -> None:
        self._astir[level.channel_id][level.id] = level
        if self._undo is not None:
            self._undo.append((self._put_back_level, level, _VALUES[LevelRow](level)))

    def _put_back_level(self, level: LevelRow, values: tuple[Any, ...]) -> None:
        _put_back(level, values)
        self._astir[level.channel_id][level.id] = level

    def _put(self, table: dict[Any, Any], key: object, value: object) -> None:
        """Set an entry, to be taken back with the transaction."""
        if self._undo is not None:
            if key in table:
                self._undo.append((table.__setitem__, key, table[key]))
            else:
                self._undo.append((table.pop, key))
        table[key] = value

    def _remove(self, table: dict[Any, T], key: object) -> T | None:
        value = table.pop(key, None)
        if value is not None and self._undo is not None:
            self._undo.append((table.__setitem__, key, value))
        return value

    def _append(self, rows: list[T], row: T) -> None:
        rows.append(row)
        if self._undo is not None:
            self._undo.append((rows.remove, row))

    def _remove_from(self, rows: list[T], row: T) -> None:
        place = rows.index(row)
        del rows[place]
        if self._undo is not None:
            self._undo.append((rows.insert, place, row))

    def _id(self, table: str) -> int:
        return next(self._ids[table])

    def _uuid(self) -> uuid.UUID:
        return uuid.UUID(int=(0x7 << 76) | (0b10 << 62) | self._id("uuid"))

    # --- recipes and levels, which several ports ask about ---

    def _forget_recipes(self) -> None:
        self._parts, self._families, self._divided = {}, {}, {}
        contained_in: dict[int, set[int]] = defaultdict(set)
        for bundle in self._components:
            for component in _below(bundle, self._components):
                contained_in[component].add(bundle)
        self._bundles = {component: tuple(sorted(bundles)) for component, bundles in contained_in.items()}

    def load_parts(self, merchant_id: int, sku_ids: Collection[int]) -> dict[int, dict[int, int]]:
        known = self._parts
        for sku in sku_ids:
            if sku not in known:
                known[sku] = explode(sku, self._components)
        return {sku: known[sku] for sku in sku_ids}

    def _in_use(self, warehouses: tuple[int, ...]) -> tuple[int, ...]:
        if not self.closed_warehouses:
            return warehouses
        return in_use((warehouse, warehouse not in self.closed_warehouses) for warehouse in warehouses)

    def _stirring(self, channel_id: int) -> list[LevelRow]:
        """The channel's levels that are suspect or out of sync; others are forgotten until they are touched again."""
        astir = self._astir[channel_id]
        quiet = [
            level.id
            for level in astir.values()
            if level.suspect_since is None and (level.desired is None or level.desired == level.shown)
        ]
        for level_id in quiet:
            del astir[level_id]
        return list(astir.values())

    def _check_level(self, level: LevelRow) -> None:
        if level.sample is not None and level.suspect_since is None:
            self._require(False, f"level {level.id} has a sample without being suspect")
        if not _is_sample_whole(level):
            self._require(False, f"level {level.id} has half a sample")
        if level.gone_at is not None and level.suspect_since is None:
            self._require(False, f"level {level.id} is gone without being suspect")
        if level.held < 0 or (level.held and level.held_at is None):
            self._require(False, f"level {level.id} holds {level.held} units nowhere")
        if level.desired is not None and level.desired < 0:
            self._require(False, f"level {level.id} should show {level.desired}")


class _Transaction:
    """All or nothing; whatever is raised in it takes back what was done, a worker's death too."""

    __slots__ = ("_books",)

    def __init__(self, books: Kept) -> None:
        self._books = books

    def __enter__(self) -> None:
        self._books._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._books._end(commits=kind is None)


def _below(bundle: int, components: Mapping[int, Mapping[int, int]]) -> set[int]:
    """Everything that goes into a bundle, through all levels."""
    found: set[int] = set()
    fresh = list(components.get(bundle, ()))
    while fresh:
        sku = fresh.pop()
        if sku not in found:
            found.add(sku)
            fresh += components.get(sku, ())
    return found


def _is_sample_whole(level: LevelRow) -> bool:
    if level.sample is None:
        return (
            level.since_sample is None
            and level.sample_pushed is None
            and level.sampled_from is None
            and level.sampled_until is None
            and level.sampled_ahead is None
        )
    return (
        level.sample_pushed is not None
        and level.sampled_from is not None
        and level.sampled_until is not None
        and level.sampled_ahead is not None
        and level.sampled_from <= level.sampled_until
    )


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return max(one, other)


def earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return min(one, other)
