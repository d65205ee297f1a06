"""Raw SQL for the hot paths: bound by the server and prepared, so that PostgreSQL plans a statement once per connection.

Django's own cursors put the values into the text, and the server plans each text anew: half of its work, when statements
are small. Statements here are constants; what varies are parameters (lists go in as arrays). Errors are Django's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, LiteralString, Self

import psycopg
from django.db import DEFAULT_DB_ALIAS, InterfaceError, InternalError, OperationalError, connections
from psycopg.pq import PipelineStatus

#: The database is away, or has ended our transaction: that of a process which stood still ends with an InternalError.
AWAY = (OperationalError, InterfaceError, InternalError)

#: A statement and its parameters, to be asked together with others.
Question = tuple[LiteralString, Sequence[Any]]


class _PreparingCursor(psycopg.Cursor[tuple[Any, ...]]):
    def execute(self, query: Any, params: Any = None, *, binary: bool | None = None, **_: Any) -> Self:
        told = [array(value) if type(value) is list else value for value in params or ()]
        return super().execute(query, told, prepare=True, binary=binary)


#: How elements are written that need no quotes.
_BARE: dict[type, Callable[[Any], str]] = {
    int: str,
    bool: lambda value: "t" if value else "f",
    datetime: datetime.isoformat,
    uuid.UUID: lambda value: "%032x" % value.int,  # noqa: UP031  # half the time of a format string
    bytes: lambda value: f'"\\\\x{value.hex()}"',
}


def array(values: list[Any]) -> str | list[Any]:
    """A list as PostgreSQL reads an array, its type left to the statement; as it is where psycopg must see to it.

    psycopg looks at each element, how it is written and whether it needs quotes. Rows told as a set of arrays have
    thousands of elements, and their types are known: this takes a tenth of the time.
    """
    kinds = set(map(type, values))
    has_none = type(None) in kinds
    kinds.discard(type(None))
    if not kinds:
        return "{" + ",".join("NULL" for _ in values) + "}"
    if kinds == {int} and not has_none:
        # Python writes a list of numbers in one go, a third of the time of one by one; the spaces are allowed.
        return "{" + repr(values)[1:-1] + "}"
    write = _BARE.get(kinds.pop())
    if write is not None and not kinds:
        if has_none:
            return "{" + ",".join("NULL" if value is None else write(value) for value in values) + "}"
        return "{" + ",".join(map(write, values)) + "}"
    if has_none or not all(isinstance(value, str) for value in values):
        return values
    # No text that PostgreSQL can hold has a NUL in it: one pass escapes them all.
    joined = "\0".join(values)
    if joined.count("\0") != len(values) - 1:
        return values
    escaped = joined.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return '{"' + escaped + '"}'


@contextmanager
def cursor() -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
    """A cursor on Django's connection, in whatever transaction it is in."""
    mine = connections[DEFAULT_DB_ALIAS]  # the thread's own: looked up once, not with each attribute
    mine.ensure_connection()
    mine.validate_no_broken_transaction()
    with mine.wrap_database_errors, _PreparingCursor(mine.connection) as prepared:
        yield prepared


def rows(statement: LiteralString, parameters: Sequence[Any] = (), *, binary: bool = False) -> list[tuple[Any, ...]]:
    """All rows of a statement. A literal % is written %%. `binary`: bytes come as they are, not as twice as much text."""
    with cursor() as prepared:
        prepared.execute(statement, parameters, binary=binary)
        return prepared.fetchall()


def execute(statement: LiteralString, parameters: Sequence[Any] = ()) -> int:
    """Run a statement that returns nothing; how many rows it touched."""
    with cursor() as prepared:
        prepared.execute(statement, parameters)
        return prepared.rowcount


def give_back() -> None:
    """Return this thread's connection to the pool before its request ends; not out of a transaction.

    For who is about to wait for something that another thread needs a connection for.
    """
    mine = connections[DEFAULT_DB_ALIAS]
    if mine.connection is not None and not mine.in_atomic_block:
        mine.close_if_unusable_or_obsolete()


@contextmanager
def pipeline() -> Iterator[None]:
    """Send the statements within without waiting for each one's answer: what they cost is one way to the server and back.

    Errors come at the end, or with the first rows that are fetched. One inside another is part of it.
    """
    mine = connections[DEFAULT_DB_ALIAS]
    mine.ensure_connection()
    if mine.connection.pgconn.pipeline_status != PipelineStatus.OFF:
        yield
        return
    with mine.wrap_database_errors, mine.connection.pipeline():
        yield


def together(*questions: Question) -> list[list[tuple[Any, ...]]]:
    """The rows of several statements, for one way to the server and back."""
    with pipeline(), ExitStack() as stack:
        cursors = [stack.enter_context(cursor()) for _ in questions]
        for prepared, (statement, parameters) in zip(cursors, questions, strict=True):
            prepared.execute(statement, parameters)
        return [prepared.fetchall() for prepared in cursors]


def forgo_flush() -> None:
    """Let the transaction under way commit without waiting for the disk.

    For work that is found and done again if a crash of the database takes it back, because what it came from is
    flushed. Whatever was promised to somebody outside must wait: an acknowledged event, a write about to be sent.
    """
    execute("SELECT set_config('synchronous_commit', 'off', true)")


def keep_to_index() -> None:
    """Have the transaction under way read along an index that has the order asked for, if there is one.

    For taking some rows off the front of a queue: in a backlog nearly all rows wait, so that reading and sorting the whole
    table looks cheap, and a plan made then is kept by the connection. Its cost would grow with all that was ever queued.
    """
    execute(
        """
        SELECT set_config(name, 'off', true)
        FROM unnest(ARRAY['enable_seqscan', 'enable_bitmapscan', 'enable_sort', 'enable_incremental_sort']) AS name
        """
    )
