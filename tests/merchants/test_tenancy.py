"""Tenants are kept apart by the database itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, models, transaction

from channels.models import Listing
from inventory.models import Movement, StockLevel
from merchants.models import AuditEvent, Merchant
from merchants.tenancy import CompositeKey
from merchants.trail import record
from tests.factories import make_trade

OURS = ("merchants", "inventory", "channels", "locations", "sync")


def tenant_models() -> list[type[models.Model]]:
    return [
        model
        for app in OURS
        for model in apps.get_app_config(app).get_models()
        if any(field.name == "merchant" for field in model._meta.fields)
    ]


def references() -> Iterator[tuple[type[models.Model], models.ForeignKey[models.Model, models.Model]]]:
    """References from a tenant's row to another row of a tenant."""
    for model in tenant_models():
        for field in model._meta.fields:
            if isinstance(field, models.ForeignKey) and field.related_model in tenant_models():
                yield model, field


def test_every_row_but_a_user_and_what_is_known_of_the_engine_has_its_merchant() -> None:
    without = {
        model.__name__
        for app in OURS
        for model in apps.get_app_config(app).get_models()
        if model not in tenant_models()
    }

    assert without == {
        "User",
        "Merchant",
        "Heartbeat",
        "AuditResult",
        "Presence",
        "RuleCheck",
        "ProcessBeat",
        "SizeSample",
    }


@pytest.mark.parametrize(
    ("model", "field"), list(references()), ids=lambda part: part.__name__ if isinstance(part, type) else part.name
)
def test_every_reference_between_tenants_rows_is_a_composite_key(
    model: type[models.Model], field: models.ForeignKey[models.Model, models.Model]
) -> None:
    if (model.__name__, field.name) in NOT_CHECKED:
        return
    covered = {column for key in model._meta.constraints if isinstance(key, CompositeKey) for column in key.columns}

    assert field.name in covered


#: Links back to the inbox must not keep old events from being removed.
NOT_CHECKED = {("OrderLine", "latest_event"), ("DeadLetter", "event"), ("Attempt", "event")}


@pytest.mark.django_db(transaction=True)
def test_the_database_refuses_a_reference_to_another_merchants_row() -> None:
    alder, birch = make_trade("Alder"), make_trade("Birch")

    with pytest.raises(IntegrityError, match="listing_sku_of_merchant"):
        Listing.objects.filter(pk=alder.shops["north"].listings["MUG"].pk).update(sku=birch.skus["MUG"])


@pytest.mark.django_db(transaction=True)
def test_a_form_says_it_before_the_database_does() -> None:
    alder, birch = make_trade("Alder"), make_trade("Birch")
    listing = alder.shops["north"].listings["MUG"]
    listing.sku = birch.skus["MUG"]

    with pytest.raises(ValidationError, match="belongs to another merchant"):
        listing.full_clean()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("statement", ["UPDATE {} SET merchant_id = merchant_id", "DELETE FROM {}"])
@pytest.mark.parametrize("model", [Movement, AuditEvent])
def test_history_is_written_once(model: type[models.Model], statement: str) -> None:
    alder = make_trade()
    record(merchant_id=alder.merchant.pk, action="test", subject=alder.merchant)
    before = model._default_manager.count()

    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement.format(model._meta.db_table))

    assert model._default_manager.count() == before > 0


@pytest.mark.django_db
def test_available_follows_from_the_three_accounts() -> None:
    merchant = Merchant.objects.create(name="Alder", slug="alder")
    trade = make_trade("Birch")
    StockLevel.objects.filter(sku=trade.skus["MUG"]).update(committed=12)

    assert trade.stock("MUG").available == -2
    assert merchant.pk != trade.merchant.pk
