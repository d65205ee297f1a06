"""Failpoints: places at which a test or a chaos run has a process die, stall or lose its database.

A place is one line, `failpoint("push.after_send")`. Until somebody arms it that is a global look-up and nothing else.

Two ways to arm, never in production:

- **Processes of a local stack**: FAILPOINTS names a folder (see the settings, which refuse it elsewhere). A point is armed
  by a file of its name with an action in it (`arm`), at run time and from outside. Of all processes, whichever passes first
  takes the file away and does what it says, so an action happens once and the vanished file tells that it has happened.
- **In this process**: `handler` is called with the name of every point passed, to switch, kill or raise as it likes.

| action | what happens |
|---|---|
| `kill` | SIGKILL to this process |
| `pause:20` | this thread sleeps for 20 seconds, its locks and leases in its hands |
| `error` | Django's OperationalError, as if the database had gone away |
| `lost_commit` | COMMIT is sent and the connection cut before its answer; OperationalError. Only inside a transaction |

`@3` after an action: at the third passage, counted over all processes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from django.db import OperationalError, connection

#: Every point, and the crash it stands for. A test holds this list and the source together.
POINTS: Final = MappingProxyType(
    {
        # Webhooks. A webhook is one statement in a transaction of its own: there is nothing between insert and commit.
        "webhook.before_body": "a delivery was accepted, its body is still on the way",
        "webhook.before_insert": "a delivery was found genuine and is not stored",
        "webhook.after_commit": "a delivery is stored and not acknowledged, nor was anybody woken",
        "bell.after_press": "a bell rings and the message to wake somebody was never sent",
        # Events.
        "apply.after_claim": "events are claimed, and nothing was done about them",
        "apply.before_commit": "ledger, registers and stock are written, not committed",
        "apply.after_commit": "events are applied, and nobody was told to publish",
        "publish.before_commit": "today's numbers are computed, not committed",
        "publish.after_commit": "today's numbers are committed, and nobody was told to push",
        # Pushes.
        "push.after_claim": "the intention is committed, the request not sent",
        "push.after_send": "the channel answered, and its answer is in memory alone",
        "push.before_unknown_commit": "no answer came, and that is not committed",
        "push.stale_before_commit": "the channel refused as stale, and that is not committed",
        "push.after_commit": "the answer is committed, and nothing was done about the rest",
        # Checks, reconciliation, tokens, sweeps.
        "check.after_read": "a level was read, and the reading is in memory alone",
        "check.before_commit": "a difference was settled, not committed",
        "reconcile.after_page": "a page of orders was read, neither it nor the watermark is stored",
        "credentials.after_grant": "the channel exchanged the tokens, the new ones are in memory alone",
        "sweep.after_find": "a sweep knows what waits, and rang for none of it",
    }
)

#: Called with the name of each point passed; None = nothing is armed.
handler: Callable[[str], object] | None = None


def failpoint(point: str) -> None:
    """Pass the point of this name: one of `POINTS`."""
    if handler is not None:
        handler(point)


def obey(folder: Path) -> None:
    """From now on, points passed by this process do what a file of their name in the folder says."""
    global handler

    def take_and_do(point: str) -> None:
        action = _take(folder / point)
        if action:
            _do(action)

    handler = take_and_do


def arm(folder: Path, point: str, action: str) -> None:
    """Have the next process that obeys the folder and passes the point do the action.

    Raises:
        ValueError: no such point, or no such action.
    """
    if point not in POINTS:
        raise ValueError(f"There is no failpoint {point!r}; known: {', '.join(POINTS)}.")
    verb, _, seconds = action.partition("@")[0].partition(":")
    if verb not in _ACTIONS or (verb == "pause") != bool(seconds):
        raise ValueError(
            f"{action!r} is no action: kill, pause:SECONDS, error or lost_commit, with or without @PASSAGE."
        )
    _write(folder / point, action)


def disarm(folder: Path, point: str) -> bool:
    """Take the point's action back; False when somebody has taken it already."""
    try:
        (folder / point).unlink()
    except FileNotFoundError:
        return False
    return True


def _write(path: Path, action: str) -> None:
    """Under its name at once or not at all: a reader must not see half an action."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(action)
    draft.replace(path)


def _take(path: Path) -> str:
    """The action to do now, which is then nobody else's; empty for none."""
    try:
        action = path.read_text()
        path.unlink()
    except FileNotFoundError:
        return ""
    verb, _, passage = action.partition("@")
    if passage and int(passage) > 1:
        _write(path, f"{verb}@{int(passage) - 1}")
        return ""
    return verb


def _do(action: str) -> None:
    verb, _, argument = action.partition(":")
    _ACTIONS[verb](argument)


def _kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _pause(seconds: str) -> None:
    time.sleep(float(seconds))


def _error(_: str) -> None:
    raise OperationalError("failpoint: the database is away")


def _lost_commit(_: str) -> None:
    """Send COMMIT, wait until the server has done it, and cut the connection unread."""
    assert connection.in_atomic_block, "there is nothing to commit here"
    raw = connection.connection
    raw.pgconn.send_query(b"COMMIT")
    raw.pgconn.flush()
    # The server would take a reset before the statement for a client that went away, and roll back.
    time.sleep(0.2)
    raw.close()
    raise OperationalError("failpoint: the connection was lost after COMMIT had been sent")


_ACTIONS: Final = {"kill": _kill, "pause": _pause, "error": _error, "lost_commit": _lost_commit}
