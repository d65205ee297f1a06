"""Answers to questions: what a person decides about numbers that were changed in a store by hand.

A channel whose merchant wants to be asked leaves its findings here (`Drift` with action *asked*). Units that are missing
stay out of the pool until the answer; units that are too many were overwritten, so nothing is sold that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from inventory import stock
from inventory.ledger import Entry
from inventory.models import Cause
from locations.routing import in_use, route
from merchants import trail
from merchants.models import User
from sync.models import Drift, DriftAction
from sync.ports import held_first
from sync.tables import upkeep
from synctec.lib import sql


class AlreadyAnswered(ValueError):
    """Somebody has decided before."""


class NothingToCount(ValueError):
    """The listing is not mapped to stock any more: there is nothing to add units to or to take them from."""


@transaction.atomic
def answer(*, drift_id: int, adopt: bool, reason: str, user: User | None, now: datetime) -> Drift:
    """Take the store's number over into the pool (`adopt`), or stand by the pool's.

    Raises:
        AlreadyAnswered: the question was answered before; nothing is changed.
        NothingToCount: the listing is mapped to no stock any more.
        InsufficientReason: the reason is empty.
    """
    if not reason.strip():
        raise stock.InsufficientReason("Give a reason: it is shown with the movement for ever.")
    drift = Drift.objects.select_for_update(of=("self",), no_key=True).get(pk=drift_id)
    if drift.action != DriftAction.ASKED:
        raise AlreadyAnswered
    places = held_first(drift.held_at_id, _drawn_on(drift))
    units = drift.actual - drift.expected if adopt else 0
    if not places and units:
        raise NothingToCount
    if places and (units or drift.held):
        _post(drift, places, units, reason.strip(), user, now)
    drift.action = DriftAction.ADOPTED if adopt else DriftAction.OVERRIDDEN
    drift.held, drift.held_at_id = 0, None
    drift.decided_by, drift.decided_at = user, now
    drift.save(update_fields=["action", "held", "held_at", "decided_by", "decided_at"])
    trail.record(
        merchant_id=drift.merchant_id,
        action=f"drift.{drift.action}",
        subject=drift,
        user=user,
        before={"action": DriftAction.ASKED, "expected": drift.expected, "actual": drift.actual},
        after={"action": drift.action},
        reason=reason.strip(),
        correlation_id=drift.correlation_id,
    )
    return drift


def _drawn_on(drift: Drift) -> tuple[int, ...]:
    """The stock levels in use that the listing's location draws on, of the SKU that units are held of, by priority."""
    return in_use(
        sql.rows(
            """
            SELECT stock_level.id, warehouse.is_active FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id
            LEFT JOIN inventory_stocklevel holding ON holding.id = %s
            JOIN locations_mapping mapping ON mapping.store_location_id = level.store_location_id
            JOIN inventory_warehouse warehouse ON warehouse.id = mapping.warehouse_id
            JOIN inventory_stocklevel stock_level ON stock_level.warehouse_id = warehouse.id
                AND stock_level.sku_id = coalesce(holding.sku_id, listing.sku_id)
            WHERE level.id = %s ORDER BY mapping.priority
            """,
            [drift.held_at_id, drift.listing_level_id],
        )
    )


def _post(drift: Drift, places: Sequence[int], units: int, reason: str, user: User | None, now: datetime) -> None:
    """Give the held units, which are at the first of these places, back, and take what is missing from all of them."""
    balances = stock.lock_balances(places)
    available = {level: balance.available for level, balance in balances.items()}
    available[places[0]] += drift.held
    moved = {places[0]: max(0, units)}
    if units < 0:
        moved |= {level: -lost for level, lost in route(-units, places, available).items()}
    entries = [
        Entry(
            stock_level_id=level,
            cause=Cause.CHANNEL_EDIT if change else Cause.CHECK,
            key=f"answer:{drift.pk}:{level}",
            reference=f"drift {drift.pk}",
            correlation_id=drift.correlation_id,
            # A count made since then has seen it.
            effective_at=drift.found_at if change else now,
            on_hand=change,
            held=-drift.held if level == places[0] else 0,
            reason=reason,
            user_id=user.pk if user else None,
        )
        for level, change in moved.items()
    ]
    stock.post(merchant_id=drift.merchant_id, balances=balances, entries=entries, now=now)
    upkeep.mark_dirty(
        merchant_id=drift.merchant_id,
        sku_ids={balances[level].sku_id for level in moved},
        correlation_id=drift.correlation_id,
        now=now,
    )
