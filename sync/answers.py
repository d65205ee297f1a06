"""Answers to questions: what a person decides about numbers that were changed in a store by hand.

A channel whose merchant wants to be asked leaves its findings here (`Drift` with action *asked*). Units that are missing
stay out of the pool until the answer; units that are too many were overwritten, so nothing is sold that is not there.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from inventory import stock
from inventory.ledger import Entry
from inventory.models import Cause
from merchants import trail
from merchants.models import User
from sync.models import Drift, DriftAction
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
    stock_level_id = drift.held_at_id or _stock_level_of(drift)
    units = drift.actual - drift.expected if adopt else 0
    if stock_level_id is None and units:
        raise NothingToCount
    if stock_level_id is not None and (units or drift.held):
        _post(drift, stock_level_id, units, reason.strip(), user, now)
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


def _stock_level_of(drift: Drift) -> int | None:
    """The first stock level that the listing's location draws on."""
    found = sql.rows(
        """
        SELECT stock_level.id FROM channels_listinglevel level
        JOIN channels_listing listing ON listing.id = level.listing_id
        JOIN locations_mapping mapping ON mapping.store_location_id = level.store_location_id
        JOIN inventory_stocklevel stock_level
            ON stock_level.warehouse_id = mapping.warehouse_id AND stock_level.sku_id = listing.sku_id
        WHERE level.id = %s ORDER BY mapping.priority LIMIT 1
        """,
        [drift.listing_level_id],
    )
    return found[0][0] if found else None


def _post(drift: Drift, stock_level_id: int, units: int, reason: str, user: User | None, now: datetime) -> None:
    balances = stock.lock_balances([stock_level_id])
    entry = Entry(
        stock_level_id=stock_level_id,
        cause=Cause.CHANNEL_EDIT if units else Cause.CHECK,
        key=f"answer:{drift.pk}",
        reference=f"drift {drift.pk}",
        correlation_id=drift.correlation_id,
        # A count made since then has seen it.
        effective_at=drift.found_at if units else now,
        on_hand=units,
        held=-drift.held,
        reason=reason,
        user_id=user.pk if user else None,
    )
    stock.post(merchant_id=drift.merchant_id, balances=balances, entries=[entry], now=now)
    upkeep.mark_dirty(
        merchant_id=drift.merchant_id,
        sku_ids=[balances[stock_level_id].sku_id],
        correlation_id=drift.correlation_id,
        now=now,
    )
