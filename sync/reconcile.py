"""Reconciliation: what webhooks did not tell, read from the channel, through the same path as everything else.

1. orders changed since the watermark, minus an overlap, go to the inbox like webhooks (known ones are duplicates);
2. all levels are read and compared with what they must show; those that differ become suspect and are checked.

Invariant: how far the list was read moves only in the transaction that stored the page, so a crash at any point reads a
page again and loses none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from channels.protocol import Connector, LevelState, PolledOrder
from sync import outage
from sync.ports import ChannelRef, Differs, Engine, Reached, Seen
from synctec.lib.failpoints import failpoint

POLLED_TOPIC = "orders/polled"
#: Why the levels that differ become suspect.
REASON = "reconciliation differs"


def poll_orders(
    engine: Engine, *, channel: ChannelRef, on_page: Callable[[Sequence[PolledOrder]], object] | None = None
) -> tuple[int, int]:
    """Put orders changed since the watermark into the inbox; returns how many were read and how many were news.

    `on_page` is told of each page before it is stored.

    Raises:
        ChannelError: the channel could not be asked to the end; what was stored so far stays.
    """
    began_at = engine.now()
    connector = engine.channels.connector(channel.channel_id)
    watermark, cut_short_at = engine.books.orders_reached(channel.channel_id)
    newest = watermark or began_at
    # No overlap with what was at rest: where more orders changed within it than one poll can read, none would get further.
    since = at_rest = cut_short_at or newest - engine.poll_overlap
    read = news = 0
    cursor: str | None = None
    while True:
        page = connector.read_orders_since(since, cursor=cursor)
        failpoint("reconcile.after_page")
        versions = [order.version for order in page.orders]
        newest = max([newest, *versions])
        # Indexes lag: an order changed just now may still be listed where it stood before, ahead of others that were not
        # read yet. How far the list was read, before it was to its end, is told by what has been at rest for a while.
        at_rest = max([at_rest, *(version for version in versions if version <= began_at - engine.poll_overlap)])
        reached = Reached(newest) if page.cursor is None else Reached(watermark, at_rest)
        if on_page is not None:
            on_page(page.orders)
        news += engine.books.store_orders(channel, POLLED_TOPIC, page.orders, reached, engine.now())
        read += len(page.orders)
        cursor = page.cursor
        if cursor is None:
            break
    engine.books.orders_read(channel.channel_id, began_at)
    outage.answered(engine, channel)
    if news:
        engine.channels.received(channel.merchant_id)
    return read, news


class Compared(NamedTuple):
    """A page of levels that were read: how many, those of them that differ, and of which listing the last one is."""

    levels: int
    differing: tuple[Differs, ...]
    after: int
    is_last: bool = False  # it closes the round


def compare_levels(
    engine: Engine,
    *,
    channel: ChannelRef,
    begin_behind: int = 0,
    at: int | None = None,
    on_page: Callable[[Compared], object] | None = None,
) -> int:
    """Read every mapped level of the channel; those that differ become suspect. Returns how many did.

    It goes round once, from behind the listing `begin_behind`: where one that was cut short has ended. `at`: the listing
    that this very round has come to before. `on_page` is told of each page; what it raises ends the round there.

    Raises:
        ChannelError: the channel could not be asked to the end.
    """
    connector = engine.channels.connector(channel.channel_id)
    suspects, after = 0, begin_behind if at is None else at
    has_turned = after < begin_behind or not begin_behind
    while True:
        after, page = engine.books.levels_page(channel.channel_id, after, connector.capabilities.levels_per_read)
        if not after:
            if has_turned:
                return suspects
            has_turned = True
            continue
        differing = compare_page(engine, connector, page)
        suspects += len(differing)
        is_last = has_turned and 0 < begin_behind <= after
        if on_page is not None:
            on_page(Compared(len(page), differing, after, is_last))
        if is_last:
            return suspects


def compare_page(engine: Engine, connector: Connector, page: Sequence[Seen]) -> tuple[Differs, ...]:
    """Read these levels of the connector's channel; those that differ become suspect and are returned.

    Raises:
        ChannelError: the channel could not be asked.
    """
    states = connector.read_levels(sorted({seen.inventory_item_id for seen in page}))
    differing = _differing(engine, page, states)
    engine.books.suspect_unsuspected([found.level_id for found in differing], REASON, engine.now())
    return differing


def _differing(engine: Engine, page: Sequence[Seen], states: Sequence[LevelState]) -> tuple[Differs, ...]:
    """Levels that did not move while they were read and yet show another number than they must."""
    found = {(state.inventory_item_id, state.location_id): state for state in states}
    told = {seen.level_id: found.get((seen.inventory_item_id, seen.location_id)) for seen in page}
    versions = {seen.level_id: seen.version for seen in page}
    differing = []
    for level, reported, version, is_stocked, has_open_push in engine.books.standing(list(told)):
        state = told[level]
        shows = state.available if state is not None and state.is_stocked else None
        expected = reported if is_stocked else None
        if version == versions[level] and shows != expected and not has_open_push:
            differing.append(Differs(level, version, expected, shows))
    return tuple(differing)
