"""The engine's books in memory: `sync.ports.Books` for one thread and virtual time, thousands of times faster.

Every rule that the database states about these rows is stated here too (`BooksBroken`), and a transaction that ends with
an exception leaves nothing behind. `tests/sync/test_books_agree.py` runs random operations on these and on
`sync.tables`, and compares. Locks are not played: the simulator changes workers between transactions only.
"""

from __future__ import annotations

from sync.simulator.memory.checking import CheckMemory
from sync.simulator.memory.mapping import MappingMemory
from sync.simulator.memory.polling import PollMemory
from sync.simulator.memory.pushing import PushMemory
from sync.simulator.memory.sweeping import SweepMemory


class MemoryBooks(MappingMemory, PushMemory, CheckMemory, PollMemory, SweepMemory):
    """All of it: the inbox comes with polling, stock with mapping, publishing with pushing."""
