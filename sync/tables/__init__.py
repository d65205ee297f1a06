"""The engine's books in PostgreSQL: `sync.ports.Books`, set-based, under row locks.

Rows are locked in one order: inbox events, order lines, stock levels, listing levels, each in ascending id. The publisher
locks SKUs, then listing levels. What an operation costs depends on the rows it names, never on what else is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction

from sync.tables.checking import CheckTables
from sync.tables.inbox import InboxTables
from sync.tables.polling import PollTables
from sync.tables.publishing import PublishTables
from sync.tables.pushing import PushTables
from sync.tables.restraint import RestraintTables
from sync.tables.stock import StockTables
from synctec.lib import sql


class Tables(InboxTables, StockTables, PublishTables, RestraintTables, PushTables, CheckTables, PollTables):
    """All of it."""

    @contextmanager
    def transaction(self, *, waits_for_disk: bool = False) -> Iterator[None]:
        """One transaction; most forgo the flush, since what they lose is found and done again."""
        with transaction.atomic():
            if not waits_for_disk:
                sql.forgo_flush()
            yield
