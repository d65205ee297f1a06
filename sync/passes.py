"""A whole reconciliation pass over a channel, with its record for people to see.

One pass of a channel runs at a time: its row is the lease, renewed with every page and, while a page takes its time, from
beside. Whoever works on it may be killed, may give way to others, or be told by the channel to wait; anyone goes on from
where it stands once the lease has run out. Somebody may cancel it, and an alarm is raised as soon as too much differs.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from django.db import connection, transaction
from django.db.models import F

from channels import protocol, steering
from channels.models import Channel
from merchants import trail
from merchants.models import User
from sync import live
from sync.models import ReconcileRun, RunKind, RunState
from sync.ports import Engine
from sync.reconcile import Compared, compare_levels, poll_orders
from sync.tables import differences
from sync.tables.upkeep import add_missing_levels
from synctec.lib import sql

log = structlog.get_logger(__name__)

#: A pass whose worker was killed is left alone for this long.
LEASE = timedelta(seconds=20)
RENEWED_EVERY = timedelta(seconds=5)
#: Longer than a page takes, its waits for the channel's budget included: a worker that has not come further by then is stuck,
#: and holds the pass no more.
PAGE_MAX = timedelta(seconds=120)
#: A task gives way to others after this long.
SHIFT = timedelta(seconds=40)
#: What a channel that is throttled is left alone for when it does not say.
REST = timedelta(seconds=5)
#: A pass that has not come to its end by then never will.
GIVE_UP_AFTER = timedelta(hours=24)


class Halted(Exception):
    """The pass is not to go on now: somebody else is at it, it was cancelled, or the shift is over."""

    def __init__(self, message: str, *, rests_for: timedelta | None = None) -> None:
        super().__init__(message)
        self.rests_for = rests_for  # None: there is nothing to give back


@dataclass(slots=True)
class Held:
    """A pass in the hands of this worker."""

    engine: Engine
    channel: Channel
    run: ReconcileRun
    token: uuid.UUID
    gives_way_at: datetime | None
    #: Orders that nobody had told of before this poll.
    unheard: set[str] = field(default_factory=set)
    #: When it came further the last time, by this machine's steady clock.
    moved_at: float = field(default_factory=time.monotonic)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Meanwhile the lease is renewed from beside, for as long as this process lives and the pass comes further."""
        is_over = threading.Event()

        def keep() -> None:
            while not is_over.wait(RENEWED_EVERY.total_seconds()):
                if time.monotonic() - self.moved_at < PAGE_MAX.total_seconds():
                    self._renew()

        keeper = threading.Thread(target=keep, name="pass", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            # Before anybody else is told that the pass is free.
            is_over.set()
            keeper.join()

    def note_orders(self, orders: Sequence[protocol.PolledOrder]) -> None:
        """Count those of a page that nobody had told of, each once, before it is stored: afterwards they are known."""
        self.moved_at = time.monotonic()
        new = differences.unheard_of(channel_id=self.channel.pk, orders=orders) - self.unheard
        self.unheard |= new
        ours = ReconcileRun.objects.filter(pk=self.run.pk, lease_token=self.token, state=RunState.RUNNING)
        ours.update(orders_recovered=F("orders_recovered") + len(new))

    def advance(self, page: Compared) -> None:
        """Note a page: what differs, and how far the pass has come.

        Raises:
            Halted: it ends here.
        """
        self.moved_at = time.monotonic()
        with transaction.atomic():
            noted = sql.rows(
                """
                UPDATE sync_reconcilerun SET levels_read = levels_read + %s, levels_suspect = levels_suspect + %s,
                    compared_to = %s, leased_until = now() + %s
                WHERE id = %s AND lease_token = %s AND state = 'running'
                RETURNING levels_read, levels_suspect, levels_total, is_alarming, cancel_requested_at IS NOT NULL
                """,
                [page.levels, len(page.differing), page.after, LEASE, self.run.pk, self.token],
            )
            if not noted:
                raise Halted("somebody else has taken the pass over")
            differences.note(run_id=self.run.pk, differing=page.differing, now=self.engine.now())
            [(read, suspect, total, is_alarming, is_cancelled)] = noted
            if not is_alarming and too_much_differs(self.channel, suspect, max(total, read)):
                self.alarm(suspect, max(total, read))
        if is_cancelled:
            self.end(RunState.CANCELLED)
            raise Halted("cancelled")
        if self.gives_way_at is not None and self.engine.now() >= self.gives_way_at and not page.is_last:
            raise Halted("the shift is over", rests_for=timedelta(0))

    def alarm(self, suspect: int, levels: int) -> None:
        """So much differs that nobody knows what a raise would be on top of: none goes out until that is cleared up."""
        reason = f"a reconciliation found that {suspect} of {levels} levels show another number than they must"
        ReconcileRun.objects.filter(pk=self.run.pk).update(is_alarming=True)
        steering.pause_raises(channel_id=self.channel.pk, reason=reason, now=self.engine.now())
        log.warning("reconcile.alarm", channel_id=self.channel.pk, differ=suspect, levels=levels)

    def save(self, **changes: object) -> None:
        """Write to the pass's row, and hold the lease anew.

        Raises:
            Halted: it is no longer ours.
        """
        mine = ReconcileRun.objects.filter(pk=self.run.pk, lease_token=self.token, state=RunState.RUNNING)
        if not mine.update(**changes):
            raise Halted("somebody else has taken the pass over")
        sql.execute("UPDATE sync_reconcilerun SET leased_until = now() + %s WHERE id = %s", [LEASE, self.run.pk])
        self.run.refresh_from_db()

    def rest(self, for_long: timedelta) -> None:
        """Give the pass back: anyone may go on after that."""
        sql.execute(
            "UPDATE sync_reconcilerun SET leased_until = now() + %s WHERE id = %s AND lease_token = %s AND state = 'running'",
            [for_long, self.run.pk, self.token],
        )

    def _renew(self) -> None:
        """From a thread of its own, whose connection is needed for this statement alone."""
        try:
            self.rest(LEASE)
        except sql.AWAY as error:
            log.warning("reconcile.not_renewed", channel_id=self.channel.pk, error=type(error).__name__)
        finally:
            connection.close()

    def end(self, state: RunState, error: str = "") -> None:
        """The pass is over; whoever has lost it has nothing to say about that."""
        ReconcileRun.objects.filter(pk=self.run.pk, lease_token=self.token, state=RunState.RUNNING).update(
            state=state, error=error[:500], finished_at=self.engine.now()
        )

    def compare_pages(self) -> None:
        """Read every level page by page, from where the pass stands."""
        compare_levels(
            self.engine,
            channel=live.ref(self.channel),
            begin_behind=self.run.began_behind,
            at=self.run.compared_to,
            on_page=self.advance,
        )


def too_much_differs(channel: Channel, suspect: int, levels: int) -> bool:
    """Whether so many of a channel's levels differ that the alarm is to be raised, as its settings say.

    Never of one in shadow mode: it is meant to differ, and nothing is raised there anyhow.
    """
    return not channel.is_shadow and (
        suspect >= max(1, channel.drift_alarm_levels) and suspect * Decimal(100) > channel.drift_alarm_percent * levels
    )


def reconcile(engine: Engine, *, channel: Channel, shift: timedelta | None = None) -> ReconcileRun | None:
    """One whole pass over a channel, or as much of it as fits into `shift`; None when somebody else is at it.

    A pass under way goes on from where it stands. One that fails says why; the next begins where it was cut short.

    Raises:
        ChannelError: the channel could not be asked to the end. Throttled: the pass goes on when it has rested; else it is
            recorded as failed.
    """
    return work(engine, channel=channel, kind=RunKind.PASS, compare=Held.compare_pages, shift=shift)


def work(
    engine: Engine, *, channel: Channel, kind: RunKind, compare: Callable[[Held], object], shift: timedelta | None
) -> ReconcileRun | None:
    """Begin a pass or go on with the one under way: its orders, then its levels by `compare`. As `reconcile`."""
    held = _take(engine, channel, kind, None if shift is None else engine.now() + shift)
    if held is None:
        return None
    try:
        with held.kept():
            if not held.run.has_orders:
                add_missing_levels(merchant_id=channel.merchant_id)
                orders_read, _ = poll_orders(engine, channel=live.ref(channel), on_page=held.note_orders)
                held.save(has_orders=True, orders_read=orders_read)
            compare(held)
    except Halted as halt:
        if halt.rests_for is not None:
            held.rest(halt.rests_for)
        log.info("reconcile.halted", channel_id=channel.pk, why=str(halt))
    except protocol.Throttled as error:
        held.rest(REST if error.retry_after is None else timedelta(seconds=error.retry_after))
        raise
    except sql.AWAY:
        raise  # nothing can be written; the lease runs out
    except Exception as error:
        held.end(RunState.FAILED, str(error))
        raise
    else:
        _finish(held)
    held.run.refresh_from_db()
    return held.run


def under_way(channel_id: int) -> ReconcileRun | None:
    """The pass of this channel that runs, or rests."""
    return ReconcileRun.objects.filter(channel_id=channel_id, state=RunState.RUNNING).first()


def _take(engine: Engine, channel: Channel, kind: RunKind, gives_way_at: datetime | None) -> Held | None:
    token, now = uuid.uuid4(), engine.now()
    ReconcileRun.objects.filter(channel=channel, state=RunState.RUNNING, started_at__lt=now - GIVE_UP_AFTER).update(
        state=RunState.FAILED, finished_at=now, error="not at its end after a day; the next begins where it stood"
    )
    taken = sql.rows(
        """
        UPDATE sync_reconcilerun SET lease_token = %s, leased_until = now() + %s
        WHERE channel_id = %s AND state = 'running' AND kind = %s AND leased_until <= now() RETURNING id
        """,
        [token, LEASE, channel.pk, kind],
    )
    if not taken:
        previous = ReconcileRun.objects.filter(channel=channel).order_by("-id").first()
        begin_behind = 0 if previous is None or previous.state == RunState.DONE else previous.compared_to
        total, _, _ = differences.levels_of(channel.pk)
        taken = sql.rows(
            """
            INSERT INTO sync_reconcilerun (merchant_id, channel_id, kind, state, started_at, began_behind, compared_to,
                levels_total, lease_token, leased_until)
            VALUES (%s, %s, %s, 'running', %s, %s, %s, %s, %s, now() + %s)
            ON CONFLICT (channel_id) WHERE state = 'running' DO NOTHING RETURNING id
            """,
            [channel.merchant_id, channel.pk, kind, now, begin_behind, begin_behind, total, token, LEASE],
        )
    if not taken:
        return None
    channel.refresh_from_db(fields=["drift_alarm_percent", "drift_alarm_levels", "is_shadow"])
    return Held(engine, channel, ReconcileRun.objects.get(pk=taken[0][0]), token, gives_way_at)


def _finish(held: Held) -> None:
    """The pass came to its end: raise the alarm it deserves, or let raises go on that an earlier one has stopped."""
    run, channel = held.run, held.channel
    with transaction.atomic():
        run.refresh_from_db()
        if not run.is_alarming and too_much_differs(channel, run.levels_suspect, run.levels_read):
            held.alarm(run.levels_suspect, run.levels_read)
            run.is_alarming = True
        held.end(RunState.DONE)
        if not run.is_alarming and run.levels_read:
            steering.resume_raises(channel_id=channel.pk, user=None, reason=f"reconciliation {run.pk} found it clean")
    log.info(
        "reconcile.done",
        channel_id=channel.pk,
        kind=run.kind,
        orders=run.orders_read,
        recovered=run.orders_recovered,
        levels=run.levels_read,
        suspects=run.levels_suspect,
    )


@transaction.atomic
def cancel(*, run_id: int, user: User | None, reason: str = "", now: datetime) -> bool:
    """Have a pass end at its next page, or at once if nobody is at it; whether it was still running."""
    run = ReconcileRun.objects.select_for_update(no_key=True).get(pk=run_id)
    if run.state != RunState.RUNNING:
        return False
    ReconcileRun.objects.filter(pk=run_id).update(cancel_requested_at=now, cancelled_by=user)
    sql.execute(
        """
        UPDATE sync_reconcilerun SET state = 'cancelled', finished_at = %s
        WHERE id = %s AND state = 'running' AND leased_until <= now()
        """,
        [now, run_id],
    )
    trail.record(merchant_id=run.merchant_id, action="reconcile.cancel", subject=run, user=user, reason=reason)
    return True
