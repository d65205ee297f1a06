"""A database that carries out a COMMIT and is gone before it can say so."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from django.db import OperationalError, connection


@dataclass
class Loss:
    """Whether there was a COMMIT whose answer could be lost."""

    has_happened: bool = False


@contextmanager
def lost_commit(after: int = 0) -> Iterator[Loss]:
    """This thread's next COMMIT, or the one `after` so many, is done, and its connection cut before the answer."""
    loss = Loss()
    commit = connection._commit  # type: ignore[attr-defined]
    numbers = itertools.count()

    def commit_and_lose() -> None:
        commit()
        if next(numbers) == after:
            loss.has_happened = True
            connection.connection.close()
            raise OperationalError("the connection was lost after COMMIT had been sent")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_commit", commit_and_lose)
        yield loss
