"""Location groups with their matrix, and publishing rules, in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from channels.models import Channel
from inventory.models import Warehouse
from locations import matrix, publishing
from locations.admin import cell_name, read_cells
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, PolicyChoice, PublishingRule
from locations.pace import UNKNOWN_PROPAGATION_SECONDS, threshold
from merchants.models import AuditEvent, Member, Role, User
from tests.factories import Trade, make_trade

pytestmark = pytest.mark.django_db


@pytest.fixture
def alder() -> Trade:
    return make_trade("Alder")


@pytest.fixture
def barn(alder: Trade) -> Warehouse:
    return Warehouse.objects.create(merchant=alder.merchant, code="BARN", name="Barn")


@pytest.fixture
def manager(client: Client, alder: Trade) -> User:
    user = User.objects.create_user(username="m", email="manager@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=alder.merchant, user=user, role=Role.MANAGER)
    client.force_login(user)
    return user


def save_group(
    client: Client,
    group: LocationGroup,
    *,
    cells: dict[tuple[int, int], object],
    join_location: int | None = None,
    join_warehouse: int | None = None,
    leave_location: int | None = None,
    weight: str = "1",
    **fields: Any,
) -> Any:
    """Send the group's page as it is, with these cells and fields, and with members joining or leaving."""
    data: dict[str, Any] = {
        "name": group.name,
        "policy": group.policy,
        "routing": group.routing,
        "guard_units": "",
        "weighting": group.weighting,
        "holds_weight": "0",
        **fields,
    }
    data |= _rows("locations", "store_location", GroupLocation, group, join_location, leave_location, weight)
    data |= _rows("warehouses", "warehouse", GroupWarehouse, group, join_warehouse, None)
    data |= {cell_name(*key): priority for key, priority in cells.items()}
    return client.post(reverse("admin:locations_locationgroup_change", args=[group.pk]), data)


def _rows(
    prefix: str,
    field: str,
    model: Any,
    group: LocationGroup,
    joining: int | None,
    leaving: int | None,
    weight: str = "1",
) -> dict[str, Any]:
    members = list(model.objects.filter(group=group).order_by("pk"))
    rows = [(member.pk, getattr(member, f"{field}_id")) for member in members]
    rows += [("", joining)] if joining else []
    data: dict[str, Any] = {f"{prefix}-TOTAL_FORMS": len(rows), f"{prefix}-INITIAL_FORMS": len(members)}
    for place, (key, value) in enumerate(rows):
        data |= {
            f"{prefix}-{place}-id": key,
            f"{prefix}-{place}-group": group.pk,
            f"{prefix}-{place}-{field}": value,
            f"{prefix}-{place}-weight": weight,
        }
        if leaving is not None and value == leaving:
            data[f"{prefix}-{place}-DELETE"] = "on"
    return data


def test_the_matrix_is_shown_and_saved_at_once(client: Client, manager: User, alder: Trade, barn: Warehouse) -> None:
    north, south = (alder.shops[name].location.pk for name in ("north", "south"))
    main = alder.warehouse.pk
    matrix.set_matrix(
        group=alder.group,
        cells={(north, main): 1, (south, main): 1, (north, barn.pk): 2},
        user=None,
        now=alder.merchant.created_at,
    )

    page = client.get(reverse("admin:locations_locationgroup_change", args=[alder.group.pk])).content.decode()
    cells: dict[tuple[int, int], object] = {
        (north, main): 2,
        (north, barn.pk): 1,
        (south, main): "",
        (south, barn.pk): 1,
    }
    response = save_group(client, alder.group, cells=cells)

    assert f'name="{cell_name(north, barn.pk)}" value="2"' in page
    assert response.status_code == 302
    assert matrix.matrix_of(alder.group) == {(north, main): 2, (north, barn.pk): 1, (south, barn.pk): 1}
    event = AuditEvent.objects.filter(action="location_group.matrix").latest("pk")
    assert event.user == manager
    assert event.after["South: Shop floor"] == ["1: Barn"]


def test_a_location_that_joins_draws_on_every_warehouse(client: Client, manager: User, alder: Trade) -> None:
    north, south = (alder.shops[name].location.pk for name in ("north", "south"))
    main = alder.warehouse.pk
    matrix.set_matrix(group=alder.group, cells={(north, main): 1}, user=None, now=alder.merchant.created_at)

    save_group(client, alder.group, cells={(north, main): 1}, join_location=south)

    assert matrix.matrix_of(alder.group) == {(north, main): 1, (south, main): 1}


def test_a_location_that_leaves_takes_its_cells_along(client: Client, manager: User, alder: Trade) -> None:
    north, south = (alder.shops[name].location.pk for name in ("north", "south"))
    main = alder.warehouse.pk

    save_group(client, alder.group, cells={(north, main): 1, (south, main): 1}, leave_location=south)

    assert matrix.matrix_of(alder.group) == {(north, main): 1}
    assert not GroupLocation.objects.filter(store_location_id=south).exists()


def test_a_stranger_can_not_join(client: Client, manager: User, alder: Trade) -> None:
    birch = make_trade("Birch", shops=("birchshop",))
    before = matrix.matrix_of(alder.group)

    location = save_group(client, alder.group, cells={}, join_location=birch.shops["birchshop"].location.pk)
    warehouse = save_group(client, alder.group, cells={}, join_warehouse=birch.warehouse.pk)

    for page in (location, warehouse):
        assert page.status_code == 200
        assert "Select a valid choice" in page.content.decode()
    assert matrix.matrix_of(alder.group) == before


def test_a_doubled_priority_is_refused_and_shown_again(
    client: Client, manager: User, alder: Trade, barn: Warehouse
) -> None:
    north, main = alder.shops["north"].location.pk, alder.warehouse.pk
    before = matrix.matrix_of(alder.group)

    page = save_group(client, alder.group, cells={(north, main): 7, (north, barn.pk): 7})

    assert page.status_code == 200
    assert "priority 7 twice" in page.content.decode()
    assert f'name="{cell_name(north, main)}" value="7"' in page.content.decode()
    assert matrix.matrix_of(alder.group) == before


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "first", "99999999999999999999", "²", "<b>"])
def test_a_cell_that_is_no_priority_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="whole numbers from 1 up"):
        read_cells({"cell-1-2": value})


def test_a_new_group_leads_to_its_page(client: Client, manager: User, alder: Trade) -> None:
    response = client.post(
        reverse("admin:locations_locationgroup_add"),
        {"name": "Outlet", "policy": "guard", "routing": "most_stock", "weighting": "fixed", "holds_weight": "0"},
    )

    group = LocationGroup.objects.get(name="Outlet")
    assert group.merchant == alder.merchant
    assert response.headers["Location"] == reverse("admin:locations_locationgroup_change", args=[group.pk])


def test_a_group_can_be_dissolved(client: Client, manager: User, alder: Trade) -> None:
    client.post(reverse("admin:locations_locationgroup_delete", args=[alder.group.pk]), {"post": "yes"})

    assert not LocationGroup.objects.exists()
    assert not GroupLocation.objects.exists()


def test_a_change_of_policy_is_published_and_leaves_its_trace(
    client: Client, manager: User, alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(matrix, "on_change", [lambda *about: told.append(about[:2])])
    cells: dict[tuple[int, int], object] = dict(matrix.matrix_of(alder.group))

    response = save_group(client, alder.group, cells=cells, policy="split", weighting="velocity", holds_weight="0.5")

    alder.group.refresh_from_db()
    assert response.status_code == 302
    assert (alder.group.policy, alder.group.weighting, alder.group.holds_weight) == (
        "split",
        "velocity",
        0.5,
    )
    assert told == [(alder.merchant.pk, None)]


def test_weights_are_saved_with_the_matrix(client: Client, manager: User, alder: Trade) -> None:
    cells: dict[tuple[int, int], object] = dict(matrix.matrix_of(alder.group))

    save_group(client, alder.group, cells=cells, weight="2.5")

    assert set(GroupLocation.objects.values_list("weight", flat=True)) == {2.5}
    event = AuditEvent.objects.filter(action="location_group.matrix").latest("pk")
    assert "weight 2.5" in event.after["South: Shop floor"]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"policy": "hoard"}, "hoard is not one of the available choices"),
        ({"policy": "guard", "guard_units": "0"}, "At 0 nothing is ever divided"),
        ({"policy": "guard", "guard_units": "-1"}, "greater than or equal to 0"),
        ({"policy": "guard", "guard_units": "99999999999"}, "less than or equal to 2147483647"),
        ({"policy": "split", "weight": "0"}, "for sale nowhere"),
        ({"policy": "split", "weight": "-1"}, "from 0.01 to 10,000"),
        ({"policy": "shared", "weight": "nan"}, "Enter a number"),
        ({"policy": "shared", "weight": "1e300"}, "from 0.01 to 10,000"),
        ({"weighting": "size"}, "size is not one of the available choices"),
        ({"holds_weight": "-1"}, "from 0.01 to 10,000"),
        ({"holds_weight": ""}, "This field is required"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    fields: dict[str, Any], complaint: str, client: Client, manager: User, alder: Trade
) -> None:
    before = LocationGroup.objects.values().get(pk=alder.group.pk)

    page = save_group(client, alder.group, cells={}, **fields)

    assert page.status_code == 200
    assert complaint in page.content.decode()
    assert LocationGroup.objects.values().get(pk=alder.group.pk) == before
    assert set(GroupLocation.objects.values_list("weight", flat=True)) == {1}


def test_the_database_refuses_it_too(alder: Trade) -> None:
    for fields in ({"policy": "hoard"}, {"weighting": "size"}, {"holds_weight": -1}):
        with pytest.raises(IntegrityError), transaction.atomic():
            LocationGroup.objects.filter(pk=alder.group.pk).update(**fields)
    with pytest.raises(IntegrityError), transaction.atomic():
        GroupLocation.objects.update(weight=-1)


def test_a_new_group_is_guarded(alder: Trade) -> None:
    assert LocationGroup.objects.create(merchant=alder.merchant, name="Outlet").policy == publishing.Policy.GUARD


def test_the_policies_of_the_models_are_those_that_are_computed() -> None:
    assert set(PolicyChoice.values) == {policy.value for policy in publishing.Policy}


def test_the_page_says_what_policies_cost_and_which_threshold_is_in_force(
    client: Client, manager: User, alder: Trade
) -> None:
    def page(**fields: Any) -> str:
        LocationGroup.objects.filter(pk=alder.group.pk).update(**fields)
        url = reverse("admin:locations_locationgroup_change", args=[alder.group.pk])
        return client.get(url).content.decode()

    unknown = page(policy="guard")
    now = alder.merchant.created_at
    Channel.objects.update(inbound_seconds=1, inbound_observed_at=now, outbound_seconds=2, outbound_observed_at=now)
    Channel.objects.filter(name="South").update(inbound_seconds=28)

    new = client.get(reverse("admin:locations_locationgroup_add")).content.decode()
    assert "Computed per SKU once the group has store locations" in new
    assert "a store can show 0 while another still has some" in unknown
    assert f"{2 * UNKNOWN_PROPAGATION_SECONDS} seconds that news takes. Not every store is measured yet." in unknown
    measured = page(policy="guard")
    assert f"{threshold(1 / 60, 30)} for one that sells once a minute" in measured
    assert "Slowest to tell: South, 28.0 s" in measured
    Channel.objects.filter(name="South").update(state="paused")
    assert "Slowest to tell: North, 1.0 s" in page(policy="guard")
    assert "7 units of every SKU, as set here" in page(guard_units=7)
    assert "split always divides" in page(policy="split")
    assert "shared never divides" in page(policy="shared")


def save_rule(client: Client, **fields: Any) -> Any:
    data = {
        "buffer_units": "",
        "buffer_percent": "",
        "cap": "",
        "floor": "",
        "sku": "",
        "listing": "",
        **fields,
    }
    return client.post(reverse("admin:locations_publishingrule_add"), data)


def test_a_rule_is_published_when_it_is_saved(
    client: Client, manager: User, alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(matrix, "on_change", [lambda *about: told.append(about[:2])])
    north = alder.shops["north"].channel

    save_rule(client, channel=north.pk, buffer_units="2")
    save_rule(client, channel=north.pk, sku=alder.skus["MUG"].pk, cap="4")

    assert PublishingRule.objects.count() == 2
    assert {rule.merchant for rule in PublishingRule.objects.all()} == {alder.merchant}
    assert told == [(alder.merchant.pk, None), (alder.merchant.pk, [alder.skus["MUG"].pk])]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "Set at least one"),
        ({"sku": "MUG", "listing": "north", "cap": "1"}, "not both"),
        ({"listing": "south", "cap": "1"}, "This listing is in South"),
        ({"buffer_percent": "101"}, "less than or equal to 100"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(
    fields: dict[str, Any], complaint: str, client: Client, manager: User, alder: Trade
) -> None:
    if "sku" in fields:
        fields = fields | {"sku": alder.skus[fields["sku"]].pk}
    if "listing" in fields:
        fields = fields | {"listing": alder.shops[fields["listing"]].listings["MUG"].pk}

    page = save_rule(client, channel=alder.shops["north"].channel.pk, **fields)

    assert page.status_code == 200
    assert complaint in page.content.decode()
    assert not PublishingRule.objects.exists()


def test_a_second_rule_for_a_channel_is_refused(client: Client, manager: User, alder: Trade) -> None:
    north = alder.shops["north"].channel
    save_rule(client, channel=north.pk, buffer_units="2")

    page = save_rule(client, channel=north.pk, buffer_units="3")

    assert page.status_code == 200
    assert PublishingRule.objects.get().buffer_units == 2
