"""Whether a channel answers: after failures of the whole account it is left alone for a growing while.

From the second failure in a row on it counts as in outage. What it shows is out of our hands then, so where units are
divided among stores the others have to do with the rest; once it answers, whatever was asked, all is as before.

The breaker that all calls go through (`channels.pacing`) sees each call, and this sees what becomes of the engine's
work. They tell one story: when the channel is called next stands on its row (`next_call_at`), and the breaker only
keeps calls back that do not ask there. The failure that opens it says for how long, and so does each call it refuses;
both move `next_call_at`. So the first work that is due afterwards (the sweep finds some, if nobody has any) is the
probe, and its answer ends both. A refused call was not made, so it counts for nothing; but it tells that the channel is
in outage, whoever found out. Without Redis there is no breaker, and this goes on alone.
"""

from __future__ import annotations

from datetime import timedelta

from channels import protocol
from sync.ports import OUTAGE_FAILURES, ChannelRef, Engine
from synctec.lib.backoff import MAX_ATTEMPTS, delay_seconds

#: The failures in a row after which what the other stores show is computed anew.
_TELLING = frozenset(OUTAGE_FAILURES << doubling for doubling in range(16))


def note_failure(engine: Engine, channel: ChannelRef, error: protocol.ChannelError) -> None:
    """Leave a channel alone for as long as it asks, or for a growing while; say why where people look."""
    if isinstance(error, protocol.NotAuthorized):
        engine.channels.needs_authorization(channel.channel_id, str(error))
    with engine.books.transaction():
        failed(engine, channel, error)


def failed(engine: Engine, channel: ChannelRef, error: protocol.ChannelError) -> float:
    """As `note_failure`, in the caller's transaction; returns the seconds. Throttling is no failure."""
    if isinstance(error, protocol.Refused):
        return 0.0
    if isinstance(error, protocol.Paced) and error.gives_way:
        # There is budget left for what is more urgent: the channel goes on with that.
        return error.retry_after or 1.0
    if isinstance(error, protocol.Throttled):
        wait = error.retry_after or 1.0
        if isinstance(error, protocol.Resting) and engine.books.note_outage(
            channel.channel_id, protocol.cause_of(error), str(error)
        ):
            engine.books.mark_shelves_dirty(channel, engine.now())
    else:
        failures = engine.books.count_failure(channel.channel_id, protocol.cause_of(error), str(error))
        # Again whenever it has gone on for twice as long: the others have to do without what may have been sold there.
        if failures in _TELLING:
            engine.books.mark_shelves_dirty(channel, engine.now())
        wait = max(error.retry_after or 0.0, delay_seconds(min(failures, MAX_ATTEMPTS), engine.rng))
    engine.books.rest_channel(channel.channel_id, timedelta(seconds=wait), str(error))
    return wait


def answered(engine: Engine, channel: ChannelRef) -> None:
    """The channel answers (again)."""
    if engine.books.channel_answered(channel.channel_id) >= OUTAGE_FAILURES:
        engine.books.mark_shelves_dirty(channel, engine.now())
