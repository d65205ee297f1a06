"""The mapping matrix of a location group: which store location draws on which warehouse, in which order.

A matrix is set as a whole, in one transaction: who is a member and every cell follow from what is given, so
that no half-changed matrix is ever published.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from django.db import transaction

from channels.models import StoreLocation
from inventory.models import Warehouse
from locations.models import GroupLocation, GroupWarehouse, LocationGroup
from locations.models import Mapping as Cell
from merchants import trail
from merchants.models import User

#: (store location, warehouse) -> priority; 1 is drawn on first.
Cells = Mapping[tuple[int, int], int]

#: Told that what a merchant's stores show may have changed: `(merchant_id, sku_ids, now)`, all SKUs when
#: None. Filled by the engine when it starts, since this app may not import it. Called inside the transaction.
on_change: list[Callable[[int, Sequence[int] | None, datetime], object]] = []


class MatrixError(ValueError):
    """A matrix that cannot be. The text says which cell, and what to do."""


@transaction.atomic
def set_matrix(
    *,
    group: LocationGroup,
    cells: Cells,
    user: User | None,
    now: datetime,
    store_location_ids: Collection[int] | None = None,
    warehouse_ids: Collection[int] | None = None,
    weights: Mapping[int, float] | None = None,
) -> bool:
    """Make this the group's matrix, and its members those named in it; returns whether anything changed.

    Members may be given besides: a store location without a cell then stays in the group, drawing on nothing.
    `weights` are those of store locations; who is not named keeps its own.

    Raises:
        MatrixError: a priority is doubled or below 1, or a member belongs to another merchant or another
            group.
    """
    locations = {location for location, _ in cells} | set(store_location_ids or ())
    warehouses = {warehouse for _, warehouse in cells} | set(warehouse_ids or ())
    # Two people saving at once are put in line; the later one's matrix stands, whole.
    LocationGroup.objects.select_for_update().get(pk=group.pk)
    _refuse_bad_priorities(cells)
    _refuse_strangers(group, locations, warehouses)
    before = _described(group)
    changed = _set_members(group, locations, warehouses, cells)
    changed = _set_cells(group, cells) or changed
    changed = _set_weights(group, weights or {}) or changed
    if changed:
        trail.record(
            merchant_id=group.merchant_id,
            action="location_group.matrix",
            subject=group,
            user=user,
            before=before,
            after=_described(group),
        )
        announce(group.merchant_id, now)
    return changed


def announce(merchant_id: int, now: datetime, sku_ids: Sequence[int] | None = None) -> None:
    """Have these SKUs of a merchant (all of them when None) published anew: what stores may show of them has
    changed."""
    for tell in on_change:
        tell(merchant_id, sku_ids, now)


def matrix_of(group: LocationGroup) -> dict[tuple[int, int], int]:
    """The cells as they are."""
    rows = Cell.objects.filter(group=group).values_list("store_location_id", "warehouse_id", "priority")
    return {(location, warehouse): priority for location, warehouse, priority in rows}


def default_matrix(group: LocationGroup) -> dict[tuple[int, int], int]:
    """Every store location of the group draws on every warehouse of it, in the order they joined."""
    locations = GroupLocation.objects.filter(group=group).order_by("pk").values_list("store_location_id", flat=True)
    warehouses = GroupWarehouse.objects.filter(group=group).order_by("pk").values_list("warehouse_id", flat=True)
    return full_matrix(locations, warehouses)


def full_matrix(store_location_ids: Collection[int], warehouse_ids: Collection[int]) -> dict[tuple[int, int], int]:
    """Every store location draws on every warehouse, in the given order."""
    order = list(enumerate(warehouse_ids, start=1))
    return {(location, warehouse): priority for location in store_location_ids for priority, warehouse in order}


def _refuse_bad_priorities(cells: Cells) -> None:
    taken: dict[tuple[int, int], int] = {}
    names: list[tuple[int, int]] = []
    for (location, warehouse), priority in cells.items():
        if not 1 <= priority <= 32_767:
            raise MatrixError(f"Priority {priority} of {_name(location)}: priorities are whole numbers from 1 up.")
        if taken.setdefault((location, priority), warehouse) != warehouse:
            names.append((location, priority))
    if names:
        location, priority = names[0]
        raise MatrixError(
            f"{_name(location)} has priority {priority} twice. Give each of its warehouses a priority of its own."
        )


def _name(store_location_id: int) -> str:
    location = StoreLocation.objects.select_related("channel").filter(pk=store_location_id).first()
    return str(location) if location else f"Store location {store_location_id}"


def _refuse_strangers(group: LocationGroup, locations: Collection[int], warehouses: Collection[int]) -> None:
    """Members are the merchant's own, and in no other group."""
    own_locations = set(
        StoreLocation.objects.filter(pk__in=locations, merchant=group.merchant_id).values_list("pk", flat=True)
    )
    own_warehouses = set(
        Warehouse.objects.filter(pk__in=warehouses, merchant=group.merchant_id).values_list("pk", flat=True)
    )
    if own_locations != set(locations):
        raise MatrixError("A store location belongs to another merchant. Choose one of your own.")
    if own_warehouses != set(warehouses):
        raise MatrixError("A warehouse belongs to another merchant. Choose one of your own.")
    _refuse_members_of_others(group, locations, warehouses)


def _refuse_members_of_others(group: LocationGroup, locations: Collection[int], warehouses: Collection[int]) -> None:
    location = (
        GroupLocation.objects.filter(store_location__in=locations)
        .exclude(group=group)
        .select_related("group", "store_location__channel")
        .first()
    )
    if location:
        raise MatrixError(f"{location} is in the group {location.group}. Take it out there first.")
    warehouse = (
        GroupWarehouse.objects.filter(warehouse__in=warehouses)
        .exclude(group=group)
        .select_related("group", "warehouse")
        .first()
    )
    if warehouse:
        raise MatrixError(f"{warehouse} is in the group {warehouse.group}. Take it out there first.")


def _set_members(group: LocationGroup, locations: Collection[int], warehouses: Collection[int], cells: Cells) -> bool:
    """Let members in and out. Cells of those who leave go with them."""
    Cell.objects.filter(group=group).exclude(store_location__in=locations, warehouse__in=warehouses).delete()
    gone = (
        GroupLocation.objects.filter(group=group).exclude(store_location__in=locations).delete()[0]
        + GroupWarehouse.objects.filter(group=group).exclude(warehouse__in=warehouses).delete()[0]
    )
    merchant = group.merchant_id
    here = set(GroupLocation.objects.filter(group=group).values_list("store_location_id", flat=True))
    come_locations = [
        GroupLocation(merchant_id=merchant, group=group, store_location_id=key) for key in locations if key not in here
    ]
    there = set(GroupWarehouse.objects.filter(group=group).values_list("warehouse_id", flat=True))
    come_warehouses = [
        GroupWarehouse(merchant_id=merchant, group=group, warehouse_id=key)
        for key in _in_order_of_priority(warehouses, cells)
        if key not in there
    ]
    GroupLocation.objects.bulk_create(sorted(come_locations, key=lambda row: row.store_location_id))
    GroupWarehouse.objects.bulk_create(come_warehouses)
    return bool(gone or come_locations or come_warehouses)


def _in_order_of_priority(warehouses: Collection[int], cells: Cells) -> list[int]:
    """The warehouse most often drawn on first comes first, so that the default matrix of later is the same
    again."""
    priorities: dict[int, list[int]] = defaultdict(list)
    for (_, warehouse), priority in cells.items():
        priorities[warehouse].append(priority)

    def rank(warehouse: int) -> tuple[float, int]:
        given = priorities.get(warehouse)
        return (sum(given) / len(given) if given else float("inf"), warehouse)

    return sorted(warehouses, key=rank)


def _set_cells(group: LocationGroup, cells: Cells) -> bool:
    """Write the cells that differ. Priorities may change places: their uniqueness is checked at commit."""
    current = {(cell.store_location_id, cell.warehouse_id): cell for cell in Cell.objects.filter(group=group)}
    gone = [cell.pk for key, cell in current.items() if key not in cells]
    moved = [cell for key, cell in current.items() if key in cells and cell.priority != cells[key]]
    for cell in moved:
        cell.priority = cells[cell.store_location_id, cell.warehouse_id]
    new = [
        Cell(
            merchant_id=group.merchant_id,
            group=group,
            store_location_id=location,
            warehouse_id=warehouse,
            priority=priority,
        )
        for (location, warehouse), priority in cells.items()
        if (location, warehouse) not in current
    ]
    Cell.objects.filter(pk__in=gone).delete()
    Cell.objects.bulk_update(moved, ["priority"], batch_size=500)
    Cell.objects.bulk_create(new, batch_size=500)
    return bool(gone or moved or new)


def _set_weights(group: LocationGroup, weights: Mapping[int, float]) -> bool:
    moved = [
        member
        for member in GroupLocation.objects.filter(group=group)
        if member.weight != weights.get(member.store_location_id, member.weight)
    ]
    for member in moved:
        member.weight = weights[member.store_location_id]
    GroupLocation.objects.bulk_update(moved, ["weight"], batch_size=500)
    return bool(moved)


def _described(group: LocationGroup) -> dict[str, list[str]]:
    """The matrix in words, for the trail: each store location with its warehouses in order, and its weight unless 1."""
    drawn: dict[int, list[str]] = defaultdict(list)
    cells = Cell.objects.filter(group=group).select_related("warehouse").order_by("store_location_id", "priority")
    for cell in cells:
        drawn[cell.store_location_id].append(f"{cell.priority}: {cell.warehouse.name}")
    members = GroupLocation.objects.filter(group=group).select_related("store_location__channel")
    return {
        str(member): drawn[member.store_location_id] + ([f"weight {member.weight:g}"] if member.weight != 1 else [])
        for member in members.order_by("store_location_id")
    }
