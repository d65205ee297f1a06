"""Reconciliation: what webhooks did not tell, read from the channel, through the same path as everything else.

1. orders changed since the watermark, minus an overlap, go to the inbox like webhooks (known ones are duplicates);
2. all levels are read and compared with what they must show; those that differ become suspect and are checked.

Invariant: how far the list was read moves only in the transaction that stored the page, so a crash at any point reads a
page again and loses none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from channels.protocol import LevelState
from sync import outage
from sync.ports import ChannelRef, Engine, Reached, Seen
from synctec.lib.failpoints import failpoint

POLLED_TOPIC = "orders/polled"


def poll_orders(engine: Engine, *, channel: ChannelRef) -> tuple[int, int]:
    """Put orders changed since the watermark into the inbox; returns how many were read and how many were news.

    Raises:
        ChannelError: the channel could not be asked to the end; what was stored so far stays.
    """
    began_at = engine.now()
    connector = engine.channels.connector(channel.channel_id)
    watermark, cut_short_at = engine.books.orders_reached(channel.channel_id)
    newest = watermark or began_at
    # No overlap with what was at rest: where more orders changed within it than one poll can read, none would get further.
    since = at_rest = cut_short_at or newest - engine.poll_overlap
    read = recovered = 0
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
        recovered += engine.books.store_orders(channel, POLLED_TOPIC, page.orders, reached, engine.now())
        read += len(page.orders)
        cursor = page.cursor
        if cursor is None:
            break
    engine.books.orders_read(channel.channel_id, began_at)
    outage.answered(engine, channel)
    if recovered:
        engine.channels.received(channel.merchant_id)
    return read, recovered


def compare_levels(
    engine: Engine,
    *,
    channel: ChannelRef,
    begin_behind: int = 0,
    on_page: Callable[[int, int, int], object] | None = None,
) -> int:
    """Read every mapped level of the channel; those that differ become suspect. Returns how many did.

    It goes round once, from behind the listing `begin_behind`: where one that was cut short has ended. `on_page` is told
    after each page how many levels were read, how many of them differ, and of which listing the last one is.

    Raises:
        ChannelError: the channel could not be asked to the end.
    """
    connector = engine.channels.connector(channel.channel_id)
    suspects, after, has_turned = 0, begin_behind, not begin_behind
    while True:
        after, page = engine.books.levels_page(channel.channel_id, after, connector.capabilities.levels_per_read)
        if not after:
            if has_turned:
                return suspects
            has_turned = True
            continue
        states = connector.read_levels(sorted({seen.inventory_item_id for seen in page}))
        differing = _differing(engine, page, states)
        engine.books.suspect_unsuspected(differing, "reconciliation differs", engine.now())
        suspects += len(differing)
        if on_page is not None:
            on_page(len(page), len(differing), after)
        if has_turned and begin_behind and after >= begin_behind:
            return suspects


def _differing(engine: Engine, page: Sequence[Seen], states: Sequence[LevelState]) -> list[int]:
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
            differing.append(level)
    return differing
