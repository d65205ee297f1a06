"""Raw SQL for the hot paths: bound by the server and prepared, so that PostgreSQL plans a statement once per connection.

Django's own cursors put the values into the text, and the server plans each text anew: half of its work, when statements
are small. Statements here are constants; what varies are parameters (lists go in as arrays). Errors are Django's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, LiteralString, Self

import psycopg
from django.db import connection


class _PreparingCursor(psycopg.Cursor[tuple[Any, ...]]):
    def execute(self, query: Any, params: Any = None, **_: Any) -> Self:
        return super().execute(query, params, prepare=True)


@contextmanager
def cursor() -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
    """A cursor on Django's connection, in whatever transaction it is in."""
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    with connection.wrap_database_errors, _PreparingCursor(connection.connection) as prepared:
        yield prepared


def rows(statement: LiteralString, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a statement. A literal % is written %%."""
    with cursor() as prepared:
        prepared.execute(statement, parameters)
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
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()


@contextmanager
def pipeline() -> Iterator[None]:
    """Send the statements within without waiting for each one's answer: what they cost is one way to the server and back.

    Errors come at the end, or with the first rows that are fetched.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, connection.connection.pipeline():
        yield


def together(*questions: tuple[LiteralString, Sequence[Any]]) -> list[list[tuple[Any, ...]]]:
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
