"""What a change of settings would have stores told, before it is made; and the word that it is meant.

The person who changes a group's policy has just said what they want: to be held by the guard against big runs
afterwards, until they find it, would ask them a second time. So the form asks once, with the numbers in sight, and that
is the hold's confirmation (`sync.bigruns`): a run that was confirmed, written down as one.

It is computed by the publisher's own code on the changed rows, inside the transaction of the change, which the form undoes
unless it is confirmed. Nothing is locked for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from channels.models import Channel
from locations.impact import ChannelImpact, Impact, LevelChange
from merchants.models import User
from sync import bigruns, blast, live, publish
from sync.blast import Run
from sync.publish import BATCH_SKUS, Foreseen
from sync.tables.publishing import families_of
from sync.tables.restraint import big_changes
from synctec.lib import sql


def foresee(merchant_id: int, sku_ids: Sequence[int] | None = None) -> Impact:
    """What the merchant's channels would be told in the end: of all mapped SKUs, or of these and their families."""
    by_channel: dict[int, list[Foreseen]] = defaultdict(list)
    big: dict[int, Run] = {}
    for batch in _batches(merchant_id, sku_ids):
        found = publish.foresee(live.engine(), merchant_id=merchant_id, skus=batch)
        for one in found:
            by_channel[one.target.channel_id].append(one)
        for channel_id, changes in big_changes([one.desire for one in found]).items():
            known = big.get(channel_id, Run(0, 0, 0))
            zeroed = sum(change.kind == blast.Kind.ZERO for change in changes)
            big[channel_id] = Run(known.zeroed + zeroed, known.changed + len(changes), 0)
    channels = Channel.objects.in_bulk(by_channel)
    return Impact(
        tuple(
            _impact(channel, by_channel[channel.pk], big.get(channel.pk, Run(0, 0, 0)))
            for channel in sorted(channels.values(), key=lambda channel: channel.name)
        )
    )


def _batches(merchant_id: int, sku_ids: Sequence[int] | None) -> Iterator[list[int]]:
    """SKUs a batch at a time, those that share units together."""
    rows = sql.rows(
        """
        SELECT DISTINCT sku_id FROM channels_listing
        WHERE merchant_id = %s AND sku_id IS NOT NULL AND deleted_at IS NULL AND (%s::bigint[] IS NULL OR sku_id = ANY(%s))
        ORDER BY 1
        """,
        [merchant_id, sku_ids and list(sku_ids), list(sku_ids or ())],
    )
    wanted = [sku for (sku,) in rows]
    families = families_of(wanted)
    taken: set[int] = set()
    batch: set[int] = set()
    for sku in wanted:
        if sku in taken:
            continue
        family = families.get(sku, {sku})
        taken |= family
        batch |= family
        if len(batch) >= BATCH_SKUS:
            yield sorted(batch)
            batch = set()
    if batch:
        yield sorted(batch)


def _impact(channel: Channel, found: Sequence[Foreseen], big: Run) -> ChannelImpact:
    """What the guard would say of the run counts with what it has seen in this channel of late."""
    so_far = bigruns.measure(channel.pk)
    run = Run(so_far.zeroed + big.zeroed, so_far.changed + big.changed, so_far.of_levels)
    terms = blast.Terms(channel.big_run_levels, channel.big_run_zero_percent, channel.big_run_change_percent)
    lowered = [one for one in found if one.desired < one.target.shown]
    return ChannelImpact(
        channel_id=channel.pk,
        name=channel.name,
        of_levels=so_far.of_levels,
        lowered=len(lowered),
        zeroed=sum(one.desired == 0 for one in lowered),
        raised=sum(one.desired > one.target.shown for one in found),
        changes=tuple(LevelChange(one.target.level_id, one.target.shown, one.least, one.greatest) for one in found),
        is_large=bool(big.changed) and blast.is_big(run, terms),
    )


def confirm(impact: Impact, what: str, user: User | None, reason: str) -> None:
    """Let what was foreseen be shown by every channel for which it is large; in the transaction of the change."""
    for told in impact.channels:
        if told.is_large:
            channel = Channel.objects.get(pk=told.channel_id)
            big = [
                bigruns.Change(change.level_id, change.shown, to)
                for change in told.changes
                for to in {change.least, change.greatest}
                if blast.kind_of(change.shown, to) is not None
            ]
            bigruns.note_confirmed(channel, big, why=what, user=user, reason=reason)
