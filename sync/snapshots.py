"""The daily full sync: every level of a channel at once, from a snapshot that the channel itself writes down.

1. orders first, as in every pass;
2. the channel begins a snapshot; the pass rests until that is ready, and may be taken over by anyone meanwhile;
3. it is read as a stream and compared in pages. A level that has moved since the snapshot was begun is left to the next pass,
   so that an older value never beats a newer event; one that differs becomes suspect and is read again by the usual check;
4. what was missing in it is read page by page, since that proves nothing.

A channel that makes no snapshots, or whose snapshot failed, is read page by page altogether. Memory is bounded: a page of
levels, a piece of the file, and a bit per level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog
from django.db import transaction

from channels import protocol
from channels.models import Channel
from channels.protocol import LevelState, SnapshotState, TakesSnapshots
from sync import passes
from sync.marks import Marks
from sync.models import ReconcileRun, RunKind
from sync.passes import Halted, Held
from sync.ports import Differs, Engine, Seen
from sync.reconcile import Compared, compare_page
from sync.tables import differences

log = structlog.get_logger(__name__)

REASON = "full sync differs"
#: The channel is asked so often whether its snapshot is ready: soon at first, then ever more rarely.
ASK_AGAIN = timedelta(seconds=2)
ASK_AGAIN_MAX = timedelta(seconds=60)
#: A snapshot that is not ready by then is waited for no longer.
PATIENCE = timedelta(hours=2)
#: Instead of a snapshot's id: this pass reads page by page.
PAGE_BY_PAGE = "-"
#: Listings looked through at once for levels that were missing.
LISTINGS_PER_LOOK = 1_000


def full_sync(engine: Engine, *, channel: Channel) -> ReconcileRun | None:
    """Compare every level of a channel, or go on with that; None when somebody else is at it.

    Raises:
        ChannelError: as `passes.reconcile`.
    """
    return passes.work(engine, channel=channel, kind=RunKind.FULL, compare=_compare, shift=None)


def _compare(held: Held) -> None:
    connector = held.engine.channels.connector(held.channel.pk)
    if not isinstance(connector, TakesSnapshots) or held.run.snapshot_id == PAGE_BY_PAGE:
        held.compare_pages()
        return
    snapshot = _snapshot(held, connector)
    if snapshot is None:
        held.save(snapshot_id=PAGE_BY_PAGE)
        held.compare_pages()
        return
    seen = _compare_snapshot(held, connector.snapshot_levels(snapshot))
    _compare_missing(held, seen)


def _snapshot(held: Held, connector: TakesSnapshots) -> str | None:
    """The snapshot to be read; None: there will be none.

    Raises:
        Halted: it is under way, or the pass was cancelled meanwhile.
    """
    run, now = held.run, held.engine.now()
    if not run.snapshot_id:
        # What moves from now on is newer than what the snapshot says of it.
        held.save(snapshot_at=now)
        held.save(snapshot_id=connector.begin_snapshot())
        raise Halted("the snapshot was begun", rests_for=ASK_AGAIN)
    assert run.snapshot_at is not None
    found = connector.read_snapshot(run.snapshot_id)
    if found.state in (SnapshotState.READY, SnapshotState.PARTIAL):
        return run.snapshot_id
    waited = now - run.snapshot_at
    if found.state is SnapshotState.UNDER_WAY and run.cancel_requested_at is None and waited < PATIENCE:
        raise Halted("the snapshot is under way", rests_for=min(ASK_AGAIN_MAX, max(ASK_AGAIN, waited / 10)))
    log.warning("full_sync.no_snapshot", channel_id=held.channel.pk, state=str(found.state), error=found.error)
    if found.state is SnapshotState.UNDER_WAY:
        with suppress(protocol.ChannelError):
            connector.cancel_snapshot(run.snapshot_id)
    return None


def _compare_snapshot(held: Held, pages: Iterator[Sequence[LevelState]]) -> Marks:
    """Compare a snapshot's levels with ours; returns which of ours were in it."""
    assert held.run.snapshot_at is not None
    # One whose worker was killed starts over: what it had found is written down all the same.
    held.save(levels_read=0, levels_suspect=0)
    _, first, last = differences.levels_of(held.channel.pk)
    seen = Marks(first, last)
    for states in pages:
        shown = differences.shown(channel_id=held.channel.pk, states=states, begun_at=held.run.snapshot_at)
        judged = [level for level in shown if not level.is_outdated]
        differing = tuple(
            Differs(level.level_id, level.version, level.expected, level.actual)
            for level in judged
            if level.expected != level.actual
        )
        with transaction.atomic():
            held.engine.books.suspect_unsuspected([found.level_id for found in differing], REASON, held.engine.now())
            held.advance(Compared(len(judged), differing, held.run.began_behind))
        for level in shown:
            seen.add(level.level_id)
    return seen


def _compare_missing(held: Held, seen: Marks) -> None:
    """Read those of our levels that the snapshot did not show, as many listings in a call as the channel allows."""
    engine, after, missing = held.engine, 0, list[Seen]()
    connector = engine.channels.connector(held.channel.pk)
    items_per_read = connector.capabilities.levels_per_read
    while True:
        after, page = engine.books.levels_page(held.channel.pk, after, LISTINGS_PER_LOOK)
        missing += [level for level in page if level.level_id not in seen]
        while missing and (not after or len(missing) >= items_per_read):
            some, missing = missing[:items_per_read], missing[items_per_read:]
            held.advance(Compared(len(some), compare_page(engine, connector, some), held.run.began_behind))
        if not after:
            return
