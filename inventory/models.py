"""How much: SKUs, bundles, warehouses, stock levels and the ledger that explains every unit of them."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from merchants.models import Merchant, User
from merchants.tenancy import SameMerchant, in_choices, tenant_identity


class SkuKind(models.TextChoices):
    """A bundle has BOM lines instead of stock."""

    STOCKED = "stocked"
    BUNDLE = "bundle"


class Strategy(models.TextChoices):
    """How holds on a SKU are decided (design rule 9). All three give out what is available and nothing more."""

    ATOMIC = "atomic", "Atomic: refused in memory, committed together"
    OPTIMISTIC = "optimistic", "Optimistic: read, then write if nothing moved"
    PESSIMISTIC = "pessimistic", "Pessimistic: locked while deciding"


class Sku(models.Model):
    """The merchant's own identifier of one variant; a bundle has BOM lines instead of stock."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="skus")
    code = models.CharField("SKU", max_length=100)
    title = models.CharField(max_length=255, blank=True)
    barcode = models.CharField(max_length=64, blank=True)
    kind = models.CharField(max_length=10, choices=SkuKind.choices, default=SkuKind.STOCKED, db_default=SkuKind.STOCKED)
    strategy = models.CharField(
        "holds are decided",
        max_length=12,
        choices=Strategy.choices,
        default=Strategy.ATOMIC,
        db_default=Strategy.ATOMIC,
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "SKU"
        verbose_name_plural = "SKUs"
        constraints = [
            tenant_identity("sku"),
            models.UniqueConstraint(fields=["merchant", "code"], name="sku_code_once_per_merchant"),
            models.CheckConstraint(condition=~Q(code=""), name="sku_code_not_empty"),
            in_choices("sku_kind_known", "kind", SkuKind),
            in_choices("sku_strategy_known", "strategy", Strategy),
        ]

    def __str__(self) -> str:
        return self.code


class BomLine(models.Model):
    """One component of a bundle: `quantity` units of it go into one bundle."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    bundle = models.ForeignKey(Sku, on_delete=models.CASCADE, related_name="bom_lines", db_constraint=False)
    component = models.ForeignKey(Sku, on_delete=models.PROTECT, related_name="used_in", db_constraint=False)
    quantity = models.PositiveIntegerField(default=1)

    class Meta:
        verbose_name = "BOM line"
        constraints = [
            SameMerchant(field="bundle", name="bom_line_bundle_of_merchant"),
            SameMerchant(field="component", name="bom_line_component_of_merchant"),
            models.UniqueConstraint(fields=["bundle", "component"], name="bom_line_component_once"),
            models.CheckConstraint(condition=~Q(bundle=F("component")), name="bom_line_not_itself"),
            models.CheckConstraint(condition=Q(quantity__gt=0), name="bom_line_quantity_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.component}"


class Warehouse(models.Model):
    """A physical place where units are counted."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="warehouses")
    code = models.CharField(max_length=40)
    name = models.CharField(max_length=120)
    is_active = models.BooleanField(default=True, db_default=True)

    class Meta:
        constraints = [
            tenant_identity("warehouse"),
            models.UniqueConstraint(fields=["merchant", "code"], name="warehouse_code_once_per_merchant"),
        ]

    def __str__(self) -> str:
        return self.name


class StockLevel(models.Model):
    """Units of one SKU in one warehouse. Written by `inventory.stock` alone, always together with its movements.

    `available` may go below zero, because sales are facts: the missing units are then open shortages.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    sku = models.ForeignKey(Sku, on_delete=models.PROTECT, related_name="stock_levels", db_constraint=False)
    warehouse = models.ForeignKey(Warehouse, on_delete=models.PROTECT, related_name="stock_levels", db_constraint=False)
    on_hand = models.IntegerField(default=0, db_default=0)
    committed = models.IntegerField("committed (sold, not shipped)", default=0, db_default=0)
    held = models.IntegerField(default=0, db_default=0)
    available = models.GeneratedField(
        expression=F("on_hand") - F("committed") - F("held"),
        output_field=models.IntegerField(),
        db_persist=True,
    )
    seq = models.BigIntegerField("latest ledger sequence", default=0, db_default=0)
    #: Of the available units, those that holds through the API may still take where the stores divide the stock among
    #: themselves; None: all of them. Set by the publisher; lowered by a hold, raised by its release.
    quota = models.IntegerField("may be held through the API", null=True, blank=True)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            tenant_identity("stock_level"),
            SameMerchant(field="sku", name="stock_level_sku_of_merchant"),
            SameMerchant(field="warehouse", name="stock_level_warehouse_of_merchant"),
            models.UniqueConstraint(fields=["sku", "warehouse"], name="stock_level_once"),
            models.CheckConstraint(condition=Q(committed__gte=0), name="stock_level_committed_not_negative"),
            models.CheckConstraint(condition=Q(held__gte=0), name="stock_level_held_not_negative"),
            models.CheckConstraint(condition=Q(seq__gte=0), name="stock_level_seq_not_negative"),
            models.CheckConstraint(condition=Q(quota__gte=0), name="stock_level_quota_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.sku} in {self.warehouse}"


class Account(models.TextChoices):
    """The three accounts of a stock level."""

    ON_HAND = "on_hand"
    COMMITTED = "committed"
    HELD = "held"


class Cause(models.TextChoices):
    """Why units moved."""

    OPENING = "opening", "Opening stock"
    SALE = "sale", "Sale"
    CANCEL = "cancel", "Cancelled or removed"
    SHIPMENT = "shipment", "Shipped"
    RETURN = "return", "Returned"
    WRITE_OFF = "write_off", "Not restocked"
    ADJUSTMENT = "adjustment", "Manual adjustment"
    CHANNEL_EDIT = "channel_edit", "Changed in the store"
    CHECK = "check", "Held while a store is checked"
    RESERVATION = "reservation", "Reserved through the API"


class Movement(models.Model):
    """One immutable line of the ledger. A trigger refuses updates and deletes."""

    merchant = models.ForeignKey(Merchant, on_delete=models.PROTECT, related_name="+", db_index=False)
    stock_level = models.ForeignKey(
        StockLevel, on_delete=models.PROTECT, related_name="movements", db_constraint=False, db_index=False
    )
    seq = models.BigIntegerField()
    account = models.CharField(max_length=10, choices=Account.choices)
    delta = models.IntegerField()
    balance_after = models.IntegerField()
    cause = models.CharField(max_length=20, choices=Cause.choices)
    idempotency_key = models.CharField(max_length=120)
    reference = models.CharField(max_length=200, blank=True, help_text="What it was for, such as an order's name.")
    reason = models.CharField(max_length=500, blank=True, db_default="")
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False)
    correlation_id = models.UUIDField()
    effective_at = models.DateTimeField(help_text="When it happened, by the clock of whoever reported it.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            SameMerchant(field="stock_level", name="movement_stock_level_of_merchant"),
            # The ledger of one stock level in order, without gaps or forks; also serves its history page.
            models.UniqueConstraint(fields=["stock_level", "seq"], name="movement_seq_once"),
            models.UniqueConstraint(fields=["merchant", "idempotency_key"], name="movement_applied_once"),
            models.CheckConstraint(condition=Q(seq__gt=0), name="movement_seq_positive"),
            models.CheckConstraint(condition=~Q(delta=0), name="movement_moves_something"),
            in_choices("movement_account_known", "account", Account),
            in_choices("movement_cause_known", "cause", Cause),
        ]
        indexes = [
            # The story of one event: every movement it caused.
            models.Index(fields=["correlation_id"], name="movement_by_correlation"),
            # The ledger of one merchant, newest first (admin list, live page).
            models.Index(fields=["merchant", "-id"], name="movement_by_merchant"),
        ]

    def __str__(self) -> str:
        return f"{self.delta:+d} {self.account} ({self.cause})"


class HoldState(models.TextChoices):
    """A hold ends once: committed to an order or released."""

    ACTIVE = "active"
    COMMITTED = "committed"
    RELEASED = "released"


class Hold(models.Model):
    """Units reserved through the API for an order that does not exist yet. Expiry is a predicate, not a timer.

    Its units stay on the account `held` until `ended_at`: a hold committed to an order that no channel has told us of
    yet is committed and not ended.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    sku = models.ForeignKey(Sku, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False)
    quantity = models.PositiveIntegerField()
    state = models.CharField(
        max_length=10, choices=HoldState.choices, default=HoldState.ACTIVE, db_default=HoldState.ACTIVE
    )
    idempotency_key = models.CharField(max_length=255)
    #: What the key was first used for, so that it is not used for anything else.
    asked_sha256 = models.BinaryField(max_length=32, editable=False)
    reference = models.CharField(max_length=200, blank=True)
    #: The order it was committed to, as its channel names it. A number: this app does not know channels.
    order_channel_id = models.BigIntegerField("channel of the order", null=True, blank=True)
    order_id = models.CharField("order", max_length=64, blank=True, db_default="")
    correlation_id = models.UUIDField()
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    ended_at = models.DateTimeField("its units were no longer held", null=True, blank=True)

    class Meta:
        constraints = [
            # Also serves a merchant's holds, newest first.
            tenant_identity("hold"),
            SameMerchant(field="sku", name="hold_sku_of_merchant"),
            models.UniqueConstraint(fields=["merchant", "idempotency_key"], name="hold_made_once"),
            models.CheckConstraint(condition=Q(quantity__gt=0), name="hold_quantity_positive"),
            in_choices("hold_state_known", "state", HoldState),
            models.CheckConstraint(
                condition=Q(state="active", ended_at=None)
                | Q(state="released", ended_at__isnull=False)
                | Q(state="committed") & (Q(ended_at__isnull=False) | Q(order_channel_id__isnull=False)),
                name="hold_ends_with_its_state",
            ),
            models.CheckConstraint(
                condition=Q(order_channel_id=None, order_id="")
                | Q(order_channel_id__isnull=False) & ~Q(order_id="") & ~Q(state="active"),
                name="hold_order_named_when_committed",
            ),
        ]
        indexes = [
            # The holds on one SKU, newest first (API, admin).
            models.Index(fields=["sku", "-id"], name="hold_by_sku"),
            # Which have expired, for the sweep.
            models.Index(fields=["expires_at"], condition=Q(state="active"), name="hold_expiring"),
            # Which wait for an order to be booked.
            models.Index(
                fields=["order_channel_id", "order_id"],
                condition=Q(state="committed", ended_at=None),
                name="hold_waiting_for_order",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.sku} ({self.state})"


class HoldPart(models.Model):
    """What a hold holds of one stock level: one part for a plain SKU in one warehouse, more for bundles and splits."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    hold = models.ForeignKey(Hold, on_delete=models.CASCADE, related_name="parts", db_constraint=False, db_index=False)
    stock_level = models.ForeignKey(
        StockLevel, on_delete=models.PROTECT, related_name="hold_parts", db_constraint=False, db_index=False
    )
    quantity = models.PositiveIntegerField()
    #: The hold's, while it is active: so that one index answers which holds on a stock level have expired.
    expires_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = [
            SameMerchant(field="hold", name="hold_part_hold_of_merchant"),
            SameMerchant(field="stock_level", name="hold_part_stock_level_of_merchant"),
            models.UniqueConstraint(fields=["hold", "stock_level"], name="hold_part_once"),
            models.CheckConstraint(condition=Q(quantity__gt=0), name="hold_part_quantity_positive"),
        ]
        indexes = [
            # The next to expire on a stock level: freed by the next decision about it.
            models.Index(
                fields=["stock_level", "expires_at"],
                condition=Q(expires_at__isnull=False),
                name="hold_part_expiring",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.stock_level}"


class Shortage(models.Model):
    """Units sold beyond stock, until stock or a cancellation covers them.

    Invariant: per stock level, the open units of its shortages are what its `available` lacks to zero.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.PROTECT, related_name="+", db_index=False)
    stock_level = models.ForeignKey(
        StockLevel, on_delete=models.PROTECT, related_name="shortages", db_constraint=False, db_index=False
    )
    quantity = models.PositiveIntegerField("units short")
    quantity_covered = models.PositiveIntegerField("units covered since", default=0, db_default=0)
    cause = models.CharField(max_length=20, choices=Cause.choices)
    reference = models.CharField(max_length=200, blank=True)
    correlation_id = models.UUIDField()
    occurred_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    covered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            SameMerchant(field="stock_level", name="shortage_stock_level_of_merchant"),
            models.CheckConstraint(condition=Q(quantity__gt=0), name="shortage_quantity_positive"),
            models.CheckConstraint(
                condition=Q(quantity_covered__lte=F("quantity")), name="shortage_not_covered_beyond_itself"
            ),
            models.CheckConstraint(
                condition=Q(covered_at__isnull=True, quantity_covered__lt=F("quantity"))
                | Q(covered_at__isnull=False, quantity_covered=F("quantity")),
                name="shortage_covered_exactly_when_dated",
            ),
        ]
        indexes = [
            # Open shortages of the stock levels being posted to, oldest first.
            models.Index(fields=["stock_level", "id"], condition=Q(covered_at__isnull=True), name="shortage_open"),
            # A merchant's shortages, newest first (admin list, page).
            models.Index(fields=["merchant", "-id"], name="shortage_by_merchant"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} short of {self.stock_level}"
