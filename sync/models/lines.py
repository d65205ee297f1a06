"""Order registers, where their units were taken, and what waits to be published."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from channels.models import Channel, InboxEvent, Listing, ListingLevel, StoreLocation
from inventory.models import Sku, StockLevel
from merchants.models import Merchant
from merchants.tenancy import SameMerchant, tenant_identity


class OrderLine(models.Model):
    """The register of one order line: the joined state of everything its channel ever said of it.

    `desired_*` follows from the facts (see `sync.register`), `applied_*` is what the ledger has booked. They differ
    only while the line waits for a mapping.
    """

    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    order_id = models.CharField(max_length=120)
    line_id = models.CharField(max_length=120)
    order_name = models.CharField(max_length=80, blank=True)
    remote_variant_id = models.CharField(max_length=120, blank=True)
    listing = models.ForeignKey(Listing, on_delete=models.PROTECT, null=True, related_name="+", db_constraint=False)
    sku = models.ForeignKey(
        Sku, on_delete=models.PROTECT, null=True, related_name="+", db_constraint=False, db_index=False
    )
    listing_level = models.ForeignKey(
        ListingLevel, on_delete=models.PROTECT, null=True, related_name="+", db_constraint=False, db_index=False
    )
    store_location = models.ForeignKey(
        StoreLocation,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    #: The joined facts, as `sync.register.Register` reads and writes them.
    facts = models.JSONField()
    desired_committed = models.IntegerField()
    desired_on_hand = models.IntegerField()
    applied_committed = models.IntegerField(default=0, db_default=0)
    applied_on_hand = models.IntegerField(default=0, db_default=0)
    #: Counts the postings of this line; part of their idempotency keys.
    postings = models.PositiveIntegerField(default=0, db_default=0)
    waiting_for = models.CharField(max_length=120, blank=True, db_default="")
    latest_event = models.ForeignKey(
        InboxEvent, on_delete=models.PROTECT, null=True, related_name="+", db_constraint=False, db_index=False
    )
    correlation_id = models.UUIDField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            tenant_identity("order_line"),
            SameMerchant(field="channel", name="order_line_channel_of_merchant"),
            SameMerchant(field="sku", name="order_line_sku_of_merchant"),
            SameMerchant(field="listing", name="order_line_listing_of_merchant"),
            SameMerchant(field="listing_level", name="order_line_level_of_merchant"),
            SameMerchant(field="store_location", name="order_line_location_of_merchant"),
            models.UniqueConstraint(fields=["channel", "order_id", "line_id"], name="order_line_once"),
            models.CheckConstraint(
                condition=~Q(waiting_for="")
                | Q(applied_committed=F("desired_committed"), applied_on_hand=F("desired_on_hand")),
                name="order_line_applied_is_desired",
            ),
            models.CheckConstraint(condition=Q(applied_committed__gte=0), name="order_line_committed_not_negative"),
        ]
        indexes = [
            # Lines to take up again once what they wait for is mapped.
            models.Index(fields=["channel", "waiting_for"], condition=~Q(waiting_for=""), name="order_line_waiting"),
            # The lines an event touched (story).
            models.Index(fields=["correlation_id"], name="order_line_by_correlation"),
            # Orders of a SKU, newest first (page of a SKU).
            models.Index(fields=["sku", "-id"], name="order_line_by_sku"),
            # The lines that took from a level's counter of late (audit), and all of them (deletion).
            models.Index(fields=["listing_level", "updated_at"], name="order_line_by_level"),
        ]

    def __str__(self) -> str:
        return f"{self.order_name or self.order_id} / {self.line_id}"


class Allocation(models.Model):
    """Units of an order line taken from one stock level; a bundle's line has one row per component and warehouse."""

    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    order_line = models.ForeignKey(
        OrderLine, on_delete=models.CASCADE, related_name="allocations", db_constraint=False, db_index=False
    )
    stock_level = models.ForeignKey(
        StockLevel, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    #: Units of this stock level in one unit of the line (BOM quantity; 1 for a plain SKU).
    units_per_line_unit = models.PositiveIntegerField(default=1)
    committed = models.IntegerField(default=0, db_default=0)
    on_hand = models.IntegerField(default=0, db_default=0)

    class Meta:
        constraints = [
            SameMerchant(field="order_line", name="allocation_order_line_of_merchant"),
            SameMerchant(field="stock_level", name="allocation_stock_level_of_merchant"),
            models.UniqueConstraint(fields=["order_line", "stock_level"], name="allocation_once"),
            models.CheckConstraint(condition=Q(committed__gte=0), name="allocation_committed_not_negative"),
            models.CheckConstraint(condition=Q(units_per_line_unit__gt=0), name="allocation_units_positive"),
        ]
        indexes = [
            # Orders behind a stock level's committed units (its page, the auditor).
            models.Index(fields=["stock_level"], name="allocation_by_stock_level"),
        ]

    def __str__(self) -> str:
        return f"{self.order_line} from {self.stock_level}"


class Placement(models.Model):
    """What an order line that has been at several places of its store has done at one of them, in units of the line.

    A line that never was anywhere but at its own level has none: there it has done all that was applied.
    """

    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    order_line = models.ForeignKey(
        OrderLine, on_delete=models.CASCADE, related_name="placements", db_constraint=False, db_index=False
    )
    listing_level = models.ForeignKey(
        ListingLevel, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    committed = models.IntegerField()
    on_hand = models.IntegerField()
    changed_at = models.DateTimeField()

    class Meta:
        constraints = [
            SameMerchant(field="order_line", name="placement_order_line_of_merchant"),
            SameMerchant(field="listing_level", name="placement_level_of_merchant"),
            models.UniqueConstraint(fields=["order_line", "listing_level"], name="placement_once"),
            models.CheckConstraint(condition=Q(committed__gte=0), name="placement_committed_not_negative"),
        ]
        indexes = [
            # What of late has come to a level's counter and left it (audit).
            models.Index(fields=["listing_level", "changed_at"], name="placement_by_level"),
        ]

    def __str__(self) -> str:
        return f"{self.order_line} at {self.listing_level}"


class DirtySku(models.Model):
    """A mark: what this SKU's listings should show may have changed. Only added and taken away, marks never wait."""

    id = models.BigAutoField(primary_key=True)
    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    sku = models.ForeignKey(Sku, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    correlation_id = models.UUIDField()
    caused_at = models.DateTimeField(help_text="When the event behind it arrived: the start of the sync latency.")

    class Meta:
        verbose_name = "dirty SKU"
        constraints = [SameMerchant(field="sku", name="dirty_sku_of_merchant")]
        indexes = [
            # What is there to publish for a merchant? (publish, sweep)
            models.Index(fields=["merchant", "sku"], name="dirty_sku_by_merchant"),
        ]

    def __str__(self) -> str:
        return f"{self.sku_id} since {self.caused_at:%H:%M:%S}"
