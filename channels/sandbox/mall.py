"""All the stores of one sandbox. Every change of any store passes through `Mall.perform`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from channels.sandbox.commands import COMMANDS
from channels.sandbox.journal import PICTURE_AFTER_BYTES, Journal
from channels.sandbox.store import Access, Refusal, Store

_MADE, _REMOVED = "+store", "-store"


def wall_clock_us() -> int:
    return time.time_ns() // 1000


class Mall:
    """The stores, and the journal which makes their changes last."""

    def __init__(self, journal: Journal, clock_us: Callable[[], int] = wall_clock_us) -> None:
        self.stores: dict[str, Store] = {}
        self._journal = journal
        self._clock_us = clock_us
        self.on_change: Callable[[Store], None] = lambda store: None  # called after every command
        picture, commands = journal.load()
        if picture is not None:
            self.stores = picture["stores"]
        for entry in commands:
            self._replay(entry)
        journal.open()

    def now_us(self) -> int:
        return self._clock_us()

    def store(self, handle: str) -> Store:
        """Raises Refusal (404) when there is no such store."""
        found = self.stores.get(handle)
        if found is None:
            raise Refusal(f"there is no store {handle!r}", code="unknown_store", status=404)
        return found

    def make_store(self, *, handle: str, name: str, seed: int) -> Store:
        if handle in self.stores:
            raise Refusal(f"there is a store {handle!r} already", code="taken", status=409)
        entry = [handle, self.now_us(), _MADE, {"name": name, "seed": seed}]
        self._replay(entry)
        self._journal.append(entry)
        return self.stores[handle]

    def remove_store(self, handle: str) -> None:
        self.store(handle)
        entry = [handle, self.now_us(), _REMOVED, {}]
        self._replay(entry)
        self._journal.append(entry)

    def perform(self, handle: str, command: str, arguments: dict[str, Any], *, at_once: bool = True) -> Any:
        """Carry out a command, write it down, return its result. Raises Refusal with nothing changed.

        Moments of one store never repeat: each change gets a later microsecond than the one before.
        `at_once=False` lets the journal wait for the next command; for what a crash may undo.
        """
        store = self.store(handle)
        now_us = max(self.now_us(), store.now_us + 1)
        marks = (store.now_us, store.next_id, store.next_event)
        store.now_us = now_us
        try:
            result = COMMANDS[command](store, now_us, **arguments)
        except Refusal:
            store.now_us, store.next_id, store.next_event = marks
            raise
        entry = [handle, now_us, command, arguments]
        if at_once:
            self._journal.append(entry)
        else:
            self._journal.append_later(entry)
        self.on_change(store)
        return result

    def flush(self) -> None:
        """Write what was put off; save a picture when the log has grown long."""
        self._journal.flush()
        if self._journal.size_bytes > PICTURE_AFTER_BYTES:
            self.take_picture()

    def take_picture(self) -> None:
        self._journal.take_picture({"stores": self.stores})

    def close(self) -> None:
        self.take_picture()
        self._journal.close()

    def _replay(self, entry: list[Any]) -> None:
        handle, now_us, command, arguments = entry
        if command == _MADE:
            self.stores[handle] = _new_store(handle, now_us, **arguments)
        elif command == _REMOVED:
            del self.stores[handle]
        else:
            store = self.stores[handle]
            store.now_us = now_us
            COMMANDS[command](store, now_us, **arguments)


def _new_store(handle: str, now_us: int, *, name: str, seed: int) -> Store:
    store = Store(handle, name, seed, now_us, Access("", ""))
    store.now_us = now_us
    store.next_id = 5_000_000_000_000 + (seed % 40_000) * 100_000_000
    store.shop_id = store.new_id()
    return store
