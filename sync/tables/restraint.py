"""Big changes that no sales explain, on their way from what is computed to what levels are told (`sync.blast`).

Each is first written down: `watched` until the whole run is known (`sync.bigruns` judges it), or `passed` while there
are few. What a channel was told of late counts with what it would be told, and those who publish to one channel take
turns from the first such change on; so a run is measured as a whole, in however many batches and by however many workers
it is computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sync import blast
from sync.blast import Kind, Terms
from sync.ports import Desire
from synctec.lib import sql

#: Class of the advisory locks that put those in line who tell a channel of big changes.
RUN_LOCK = 7003
#: Movements by which units are sold and come back. What somebody counted, adjusted, received or transferred is none.
SALES = ("sale", "cancel", "shipment", "return", "write_off", "reservation")


#: A sale is dated when its transaction begins: what was under way for so long, when a change was first watched, counts
#: as since.
UNDER_WAY = timedelta(seconds=1)


class _Open(NamedTuple):
    """A big change that is watched or held."""

    id: int
    level_id: int
    first: int
    sold_from: datetime
    to: int | None
    is_restored: bool


class Big(NamedTuple):
    """A big change that no sales explain."""

    desire: Desire
    kind: Kind


class RestraintTables:
    """`sync.ports.PublishBooks.restrain`."""

    def restrain(self, merchant_id: int, wished: Sequence[Desire], now: datetime) -> list[Desire]:
        levels = [desire.target.level_id for desire in wished]
        kept = _open(levels)
        big = _unexplained([desire for desire in wished if desire.target.level_id not in kept and _looks_big(desire)])
        if not kept and not big:
            return list(wished)
        # In line from here on, with who judges and who decides; which may have happened just before.
        channels = {desire.target.channel_id for desire in wished if desire.target.level_id in kept}
        for channel_id in sorted(channels | big.keys()):
            sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [RUN_LOCK, channel_id % 2**31])
        kept = _open(levels)
        told = {desire.target.level_id: desire.desired for desire in wished}
        told |= _under_holds([desire for desire in wished if desire.target.level_id in kept], kept)
        told |= _watch(merchant_id, big, kept)
        return [desire._replace(desired=told[desire.target.level_id]) for desire in wished]


def big_changes(wished: Sequence[Desire]) -> dict[int, list[Big]]:
    """Those of the wishes that are big and unexplained, by channel; of levels that are watched or held already, none."""
    kept = _open([desire.target.level_id for desire in wished])
    return _unexplained([desire for desire in wished if desire.target.level_id not in kept and _looks_big(desire)])


def _looks_big(desire: Desire) -> bool:
    target = desire.target
    return (
        not target.is_shadow  # nothing is written there
        and desire.desired is not None
        and desire.desired != target.desired
        and blast.kind_of(target.shown, desire.desired) is not None
    )


def _open(level_ids: Collection[int]) -> dict[int, _Open]:
    return {
        row[1]: _Open(*row)
        for row in sql.rows(
            """
            SELECT held.id, held.listing_level_id, held.from_quantity, held.sold_from, held.to_quantity,
                coalesce(hold.kind = 'restore', false)
            FROM sync_heldlevel held LEFT JOIN sync_pushhold hold ON hold.id = held.hold_id
            WHERE held.listing_level_id = ANY(%s::bigint[]) AND held.state IN ('watched', 'held')
            """,
            [list(level_ids)],
        )
    }


# --- what is held already -----------------------------------------------------------------------------------------


def _under_holds(wished: Sequence[Desire], kept: Mapping[int, _Open]) -> dict[int, int | None]:
    """What levels show meanwhile; a change that is not big any more, or was sold, is let go."""
    sold = sold_since(
        [(desire.target.level_id, desire.target.sku_id, kept[desire.target.level_id].sold_from) for desire in wished]
    )
    divided = _divided({desire.target.group_id for desire in wished if kept[desire.target.level_id].is_restored})
    told: dict[int, int | None] = {}
    let_go: list[int] = []
    for desire in wished:
        level_id, wish = desire.target.level_id, desire.desired
        row, units = kept[level_id], sold.get(level_id, 0)
        if row.is_restored and desire.target.is_publishable:
            told[level_id] = blast.restored_number(
                first=row.first, sold=units, wished=wish, is_divided=desire.target.group_id in divided
            )
        elif wish is None or blast.unexplained(row.first, wish, units) is None:
            told[level_id] = wish
            let_go.append(row.id)
        else:
            told[level_id] = blast.held_number(first=row.first, sold=units, wished=wish, current=desire.target.desired)
    _note(let_go, {kept[desire.target.level_id].id: desire.desired for desire in wished})
    return told


def _note(let_go: Sequence[int], wishes: Mapping[int, int | None]) -> None:
    sql.execute(
        """
        UPDATE sync_heldlevel held
        SET to_quantity = told.wished, state = CASE WHEN told.is_let_go THEN 'released' ELSE held.state END,
            settled_at = CASE WHEN told.is_let_go THEN now() END
        FROM unnest(%s::bigint[], %s::int[], %s::bool[]) AS told (id, wished, is_let_go)
        WHERE held.id = told.id AND (told.is_let_go OR held.to_quantity IS DISTINCT FROM told.wished)
        """,
        [list(wishes), list(wishes.values()), [row in set(let_go) for row in wishes]],
    )


def _divided(group_ids: Collection[int | None]) -> set[int | None]:
    wanted = [group for group in group_ids if group is not None]
    if not wanted:
        return set()
    found = sql.rows(
        "SELECT id FROM locations_locationgroup WHERE id = ANY(%s::bigint[]) AND policy <> 'shared'", [wanted]
    )
    return {group for (group,) in found}


def sold_since(asked: Collection[tuple[int, int, datetime | None]]) -> dict[int, int]:
    """Units of SKUs that were sold since a moment, less what was put back, by place.

    `asked` are (place, SKU, since; None: as long as a run takes). Of a bundle, as many as its component that sold most.
    """
    if not asked:
        return {}
    return {
        place: int(units)
        for place, units in sql.rows(
            """
            WITH RECURSIVE asked (place, sku, since) AS (
                SELECT place, sku, coalesce(since, now() - %s) FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[])
                    AS told (place, sku, since)
            ), part (place, sku, units, since) AS (
                SELECT place, sku, 1, since FROM asked
                UNION ALL
                SELECT part.place, line.component_id, part.units * line.quantity, part.since
                FROM part JOIN inventory_bomline line ON line.bundle_id = part.sku
            ), moved AS (
                SELECT part.place, part.sku, part.units, sum(recent.units) AS sold FROM part
                JOIN inventory_stocklevel shelf ON shelf.sku_id = part.sku
                -- Backwards along the ledger of one stock level, no further than it has to be.
                CROSS JOIN LATERAL (
                    SELECT sum(CASE movement.account WHEN 'on_hand' THEN -movement.delta ELSE movement.delta END) AS units
                    FROM inventory_movement movement
                    WHERE movement.stock_level_id = shelf.id AND movement.cause = ANY(%s::text[])
                        AND movement.seq > coalesce((
                            SELECT before.seq FROM inventory_movement before
                            WHERE before.stock_level_id = shelf.id AND before.created_at < part.since
                            ORDER BY before.seq DESC LIMIT 1), 0)
                ) recent
                GROUP BY part.place, part.sku, part.units
            )
            SELECT place, max(ceil(sold / units::numeric)) FROM moved WHERE sold IS NOT NULL GROUP BY place
            """,
            [
                blast.WINDOW,
                [place for place, _, _ in asked],
                [sku for _, sku, _ in asked],
                [since for _, _, since in asked],
                list(SALES),
            ],
        )
    }


# --- what is new --------------------------------------------------------------------------------------------------


def _watch(merchant_id: int, by_channel: Mapping[int, Sequence[Big]], kept: Collection[int]) -> dict[int, int | None]:
    """Let few through, and have more watched; returns what the watched ones show meanwhile: what they were told before."""
    told: dict[int, int | None] = {}
    for channel_id, terms in sorted(_terms(by_channel).items()):
        candidates = [big for big in by_channel[channel_id] if big.desire.target.level_id not in kept]
        let_through = _let_through([big.desire.target.level_id for big in candidates])
        new = [big for big in candidates if not _is_let_through(big, let_through)]
        if not new:
            continue
        is_few = _is_few(channel_id, [big.desire.target.level_id for big in new], terms)
        _write(merchant_id, channel_id, new, "passed" if is_few else "watched")
        if not is_few:
            told |= {big.desire.target.level_id: big.desire.target.desired for big in new}
    return told


def _unexplained(fresh: Sequence[Desire]) -> dict[int, list[Big]]:
    sold = sold_since([(desire.target.level_id, desire.target.sku_id, None) for desire in fresh])
    by_channel: dict[int, list[Big]] = defaultdict(list)
    for desire in fresh:
        assert desire.desired is not None
        kind = blast.unexplained(desire.target.shown, desire.desired, sold.get(desire.target.level_id, 0))
        if kind is not None:
            by_channel[desire.target.channel_id].append(Big(desire, kind))
    return by_channel


def _terms(channel_ids: Collection[int]) -> dict[int, Terms]:
    if not channel_ids:
        return {}
    return {
        channel: Terms(*terms)
        for channel, *terms in sql.rows(
            """
            SELECT id, big_run_levels, big_run_zero_percent, big_run_change_percent FROM channels_channel
            WHERE id = ANY(%s::bigint[]) AND holds_big_runs
            """,
            [sorted(channel_ids)],
        )
    }


def _let_through(level_ids: Collection[int]) -> dict[int, list[tuple[int, int]]]:
    """The changes of these levels that were let through or confirmed of late: from, to."""
    let_through: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for level, first, to in sql.rows(
        """
        SELECT listing_level_id, from_quantity, to_quantity FROM sync_heldlevel
        WHERE listing_level_id = ANY(%s::bigint[]) AND to_quantity IS NOT NULL
            AND (state = 'passed' AND settled_at > now() - %s OR state = 'confirmed' AND settled_at > now() - %s)
        """,
        [list(level_ids), blast.WINDOW, blast.CONFIRMED_FOR],
    ):
        let_through[level].append((first, to))
    return let_through


def _is_few(channel_id: int, level_ids: Collection[int], terms: Terms) -> bool:
    """Whether these levels with those of the run under way are so few that nobody need see them. Counts no further."""
    [(others, is_held)] = sql.rows(
        """
        SELECT (SELECT count(*) FROM (
                SELECT DISTINCT listing_level_id FROM sync_heldlevel
                WHERE channel_id = %s AND listing_level_id <> ALL(%s::bigint[])
                    AND (state = 'watched' OR state = 'passed' AND settled_at > now() - %s)
                LIMIT %s) AS counted),
            EXISTS (SELECT 1 FROM sync_pushhold WHERE channel_id = %s AND kind = 'big_run' AND state = 'held')
        """,
        [channel_id, list(level_ids), blast.WINDOW, terms.levels, channel_id],
    )
    return not is_held and others + len(level_ids) < terms.levels


def _is_let_through(big: Big, let_through: Mapping[int, Sequence[tuple[int, int]]]) -> bool:
    """Whether this number lies on the way of a change that was let through or confirmed."""
    wish = big.desire.desired
    assert wish is not None
    return any(min(change) <= wish <= max(change) for change in let_through.get(big.desire.target.level_id, ()))


def _write(merchant_id: int, channel_id: int, new: Sequence[Big], state: str) -> None:
    sql.execute(
        """
        INSERT INTO sync_heldlevel (merchant_id, channel_id, listing_level_id, state, kind, from_quantity, to_quantity,
            sold_from, settled_at)
        SELECT %s, %s, told.level, %s, told.kind, told.first, told.wished, now() - %s,
            CASE WHEN %s = 'passed' THEN now() END
        FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::int[]) AS told (level, kind, first, wished)
        ON CONFLICT DO NOTHING
        """,
        [
            merchant_id,
            channel_id,
            state,
            UNDER_WAY,
            state,
            [big.desire.target.level_id for big in new],
            [str(big.kind) for big in new],
            [big.desire.target.shown for big in new],
            [big.desire.desired for big in new],
        ],
    )
