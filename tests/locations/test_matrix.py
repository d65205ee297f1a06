"""Setting a group's mapping matrix at once."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from inventory.models import Warehouse
from locations import matrix
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, Mapping
from merchants.models import AuditEvent
from tests.factories import NOON, Trade, make_trade

pytestmark = pytest.mark.django_db


@pytest.fixture
def alder() -> Trade:
    return make_trade("Alder")


@pytest.fixture
def barn(alder: Trade) -> Warehouse:
    return Warehouse.objects.create(merchant=alder.merchant, code="BARN", name="Barn")


def set_cells(trade: Trade, cells: dict[tuple[int, int], int], **members: Any) -> bool:
    changed = matrix.set_matrix(group=trade.group, cells=cells, user=None, now=NOON, **members)
    connection.check_constraints()
    return changed


def test_priorities_change_places_in_one_go(alder: Trade, barn: Warehouse) -> None:
    north, main = alder.shops["north"].location.pk, alder.warehouse.pk
    set_cells(alder, {(north, main): 1, (north, barn.pk): 2})

    set_cells(alder, {(north, main): 2, (north, barn.pk): 1})

    assert matrix.matrix_of(alder.group) == {(north, main): 2, (north, barn.pk): 1}


def test_members_follow_from_the_cells(alder: Trade, barn: Warehouse) -> None:
    north, south = (alder.shops[name].location.pk for name in ("north", "south"))

    set_cells(alder, {(north, barn.pk): 1})

    assert list(GroupLocation.objects.values_list("store_location_id", flat=True)) == [north]
    assert list(GroupWarehouse.objects.values_list("warehouse_id", flat=True)) == [barn.pk]
    assert not Mapping.objects.filter(store_location_id=south).exists()


def test_a_member_may_be_without_a_cell(alder: Trade) -> None:
    north, south = (alder.shops[name].location.pk for name in ("north", "south"))
    main = alder.warehouse.pk

    set_cells(alder, {(north, main): 1}, store_location_ids=[north, south], warehouse_ids=[main])

    assert set(GroupLocation.objects.values_list("store_location_id", flat=True)) == {north, south}
    assert matrix.matrix_of(alder.group) == {(north, main): 1}


def test_a_change_is_recorded_and_told(alder: Trade, barn: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(matrix, "on_change", [lambda *about: told.append(about)])
    north, main = alder.shops["north"].location, alder.warehouse.pk

    set_cells(alder, {(north.pk, main): 2, (north.pk, barn.pk): 1})

    assert told == [(alder.merchant.pk, None, NOON)]
    event = AuditEvent.objects.get(action="location_group.matrix")
    assert event.before == {
        "North: Shop floor": ["1: Alder's warehouse"],
        "South: Shop floor": ["1: Alder's warehouse"],
    }
    assert event.after == {"North: Shop floor": ["1: Barn", "2: Alder's warehouse"]}


def test_the_same_matrix_again_changes_and_tells_nothing(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(matrix, "on_change", [lambda *about: told.append(about)])

    changed = set_cells(alder, matrix.matrix_of(alder.group))

    assert changed is False
    assert told == []
    assert not AuditEvent.objects.filter(action="location_group.matrix").exists()


def test_a_doubled_priority_is_refused_and_nothing_changes(alder: Trade, barn: Warehouse) -> None:
    before = matrix.matrix_of(alder.group)
    north, main = alder.shops["north"].location.pk, alder.warehouse.pk

    with pytest.raises(matrix.MatrixError, match="North: Shop floor has priority 1 twice"):
        set_cells(alder, {(north, main): 1, (north, barn.pk): 1})

    assert matrix.matrix_of(alder.group) == before


@pytest.mark.parametrize("priority", [0, -1, 40_000])
def test_a_priority_out_of_range_is_refused(priority: int, alder: Trade) -> None:
    cell = (alder.shops["north"].location.pk, alder.warehouse.pk)

    with pytest.raises(matrix.MatrixError, match="whole numbers from 1 up"):
        set_cells(alder, {cell: priority})


def test_another_merchants_location_or_warehouse_is_refused(alder: Trade) -> None:
    birch = make_trade("Birch", shops=("birchshop",))
    own = (alder.shops["north"].location.pk, alder.warehouse.pk)
    theirs = (birch.shops["birchshop"].location.pk, birch.warehouse.pk)

    with pytest.raises(matrix.MatrixError, match="store location belongs to another merchant"):
        set_cells(alder, {(theirs[0], own[1]): 1})
    with pytest.raises(matrix.MatrixError, match="warehouse belongs to another merchant"):
        set_cells(alder, {(own[0], theirs[1]): 1})

    assert len(matrix.matrix_of(birch.group)) == 1


def test_a_location_of_another_group_is_refused_and_the_group_is_named(alder: Trade, barn: Warehouse) -> None:
    outlet = LocationGroup.objects.create(merchant=alder.merchant, name="Outlet")

    with pytest.raises(matrix.MatrixError, match="North: Shop floor is in the group Everywhere"):
        matrix.set_matrix(group=outlet, cells={(alder.shops["north"].location.pk, barn.pk): 1}, user=None, now=NOON)


def test_the_default_matrix_draws_on_every_warehouse_in_order(alder: Trade, barn: Warehouse) -> None:
    GroupWarehouse.objects.create(merchant=alder.merchant, group=alder.group, warehouse=barn)
    north, south = (alder.shops[name].location.pk for name in ("north", "south"))

    assert matrix.default_matrix(alder.group) == {
        (north, alder.warehouse.pk): 1,
        (north, barn.pk): 2,
        (south, alder.warehouse.pk): 1,
        (south, barn.pk): 2,
    }
