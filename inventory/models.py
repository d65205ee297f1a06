"""How much: SKUs, bundles, warehouses, stock levels and the ledger that explains every unit of them."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from merchants.models import ApiKey, Merchant, User
from merchants.tenancy import SameMerchant, in_choices, tenant_identity
from synctec.lib.ids import uuid7


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
    low_stock_at = models.PositiveIntegerField(
        "low stock at", null=True, blank=True, help_text="Alert when so many or fewer are available. Empty: never."
    )
    reorder_point = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Order more at so many or fewer. Empty: what sells during the lead time, and the safety stock.",
    )
    reorder_quantity = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="How many to order at once. Empty: up to the reorder point and what sells during another lead time.",
    )
    lead_time_days = models.PositiveSmallIntegerField(
        "lead time (days)", null=True, blank=True, help_text="From the order to the units on the shelf."
    )
    safety_stock = models.PositiveIntegerField(
        null=True, blank=True, help_text="Units to keep for demand or suppliers that surprise. Empty: none."
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
        indexes = [
            # SKUs of which somebody wants to hear when they run low (alerts).
            models.Index(
                fields=["merchant"],
                condition=Q(low_stock_at__isnull=False)
                | Q(reorder_point__isnull=False)
                | Q(lead_time_days__isnull=False),
                name="sku_watched",
            ),
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
    is_active = models.BooleanField(
        default=True,
        db_default=True,
        help_text="Switched off, nothing of it is offered in the stores or to holds; what was sold stays booked here.",
    )

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
    counted_at = models.DateTimeField("as of its newest count", null=True, blank=True, editable=False)
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
    RECEIPT = "receipt", "Purchase order received"
    DAMAGE = "damage", "Damaged or lost"
    TRANSFER_OUT = "transfer_out", "Sent to another warehouse"
    TRANSFER_IN = "transfer_in", "Received from another warehouse"
    TRANSFER_BACK = "transfer_back", "Back from a cancelled transfer"
    COUNT = "count", "Counted"


class CurrentTransaction(models.Func):
    """The number of the transaction that writes the row: what the feed is ordered by (see `inventory.feed`)."""

    template = "(pg_current_xact_id()::text::bigint)"
    arity = 0
    output_field = models.BigIntegerField()


class Movement(models.Model):
    """One immutable line of the ledger. A trigger refuses updates and deletes."""

    merchant = models.ForeignKey(
        Merchant, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
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
    source = models.CharField(
        max_length=20, blank=True, db_default="", help_text="How the API key begins that told of it."
    )
    transaction_id = models.BigIntegerField(db_default=CurrentTransaction(), editable=False)
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
            # The feed of one merchant, in an order to which nothing is added behind what can be read.
            models.Index(fields=["merchant", "transaction_id", "id"], name="movement_feed"),
            # What moved a level's on_hand after a count.
            models.Index(
                fields=["stock_level", "effective_at"], condition=Q(account="on_hand"), name="movement_on_hand_by_time"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.delta:+d} {self.account} ({self.cause})"


class CountState(models.TextChoices):
    """A count is the base of its level when it arrives, or older than the base."""

    APPLIED = "applied"
    SUPERSEDED = "superseded", "Superseded by a newer count"


class StockCount(models.Model):
    """Somebody counted the units of a SKU in a warehouse, as of a moment (see `inventory.counts`)."""

    merchant = models.ForeignKey(Merchant, on_delete=models.PROTECT, related_name="+", db_index=False)
    stock_level = models.ForeignKey(
        StockLevel, on_delete=models.PROTECT, related_name="counts", db_constraint=False, db_index=False
    )
    quantity = models.IntegerField("units counted")
    counted_at = models.DateTimeField("as of")
    said_at = models.DateTimeField(
        "as of, by the reporter's clock", null=True, blank=True, help_text="Never later than ours is what counts."
    )
    state = models.CharField(max_length=10, choices=CountState.choices)
    correction = models.IntegerField(
        "booked difference", help_text="What on_hand was moved by; 0 when the books agreed."
    )
    idempotency_key = models.CharField(max_length=80)
    reason = models.CharField(max_length=500, blank=True)
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False)
    source = models.CharField(max_length=20, blank=True, help_text="How the API key begins that told of it.")
    correlation_id = models.UUIDField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "count"
        constraints = [
            SameMerchant(field="stock_level", name="stock_count_stock_level_of_merchant"),
            models.UniqueConstraint(fields=["merchant", "idempotency_key"], name="stock_count_taken_once"),
            models.CheckConstraint(condition=Q(quantity__gte=0), name="stock_count_quantity_not_negative"),
            models.CheckConstraint(
                condition=Q(state="applied") | Q(correction=0), name="stock_count_superseded_moves_nothing"
            ),
            in_choices("stock_count_state_known", "state", CountState),
        ]
        indexes = [
            # The base of a level: its newest count.
            models.Index(fields=["stock_level", "-counted_at"], name="stock_count_base"),
            # A merchant's counts, newest first (admin list).
            models.Index(fields=["merchant", "-id"], name="stock_count_by_merchant"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} counted of {self.stock_level}"


class TransferState(models.TextChoices):
    """A transfer ends when nothing of it is in transit any more."""

    IN_TRANSIT = "in_transit"
    RECEIVED = "received"
    CANCELLED = "cancelled"


class Transfer(models.Model):
    """Units on their way from one warehouse to another: gone from the one, not yet in the other."""

    merchant = models.ForeignKey(Merchant, on_delete=models.PROTECT, related_name="+", db_index=False)
    uid = models.UUIDField("transfer", default=uuid7, editable=False)
    origin = models.ForeignKey(
        Warehouse, on_delete=models.PROTECT, related_name="+", db_constraint=False, verbose_name="from"
    )
    destination = models.ForeignKey(
        Warehouse, on_delete=models.PROTECT, related_name="+", db_constraint=False, verbose_name="to"
    )
    state = models.CharField(
        max_length=10,
        choices=TransferState.choices,
        default=TransferState.IN_TRANSIT,
        db_default=TransferState.IN_TRANSIT,
    )
    reference = models.CharField(max_length=200, blank=True)
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False)
    source = models.CharField(max_length=20, blank=True, help_text="How the API key begins that made it.")
    correlation_id = models.UUIDField()
    sent_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            tenant_identity("transfer"),
            models.UniqueConstraint(fields=["merchant", "uid"], name="transfer_sent_once"),
            SameMerchant(field="origin", name="transfer_origin_of_merchant"),
            SameMerchant(field="destination", name="transfer_destination_of_merchant"),
            models.CheckConstraint(condition=~Q(origin=F("destination")), name="transfer_goes_elsewhere"),
            models.CheckConstraint(
                condition=Q(state="in_transit", closed_at__isnull=True)
                | (~Q(state="in_transit") & Q(closed_at__isnull=False)),
                name="transfer_closed_exactly_when_dated",
            ),
            in_choices("transfer_state_known", "state", TransferState),
        ]
        indexes = [
            # A merchant's transfers, newest first, and those under way among them.
            models.Index(fields=["merchant", "-id"], name="transfer_by_merchant"),
            models.Index(fields=["merchant", "-id"], condition=Q(state="in_transit"), name="transfer_open"),
        ]

    def __str__(self) -> str:
        return f"{self.origin} to {self.destination}, {self.sent_at:%Y-%m-%d}"


class TransferLine(models.Model):
    """Units of one SKU in a transfer. In transit are those sent, less those received and those taken back."""

    merchant = models.ForeignKey(Merchant, on_delete=models.PROTECT, related_name="+", db_index=False)
    transfer = models.ForeignKey(
        Transfer, on_delete=models.PROTECT, related_name="lines", db_constraint=False, db_index=False
    )
    sku = models.ForeignKey(Sku, on_delete=models.PROTECT, related_name="+", db_constraint=False)
    quantity = models.PositiveIntegerField("sent")
    received = models.PositiveIntegerField(default=0, db_default=0)
    returned = models.PositiveIntegerField("taken back", default=0, db_default=0)

    class Meta:
        constraints = [
            SameMerchant(field="transfer", name="transfer_line_transfer_of_merchant"),
            SameMerchant(field="sku", name="transfer_line_sku_of_merchant"),
            models.UniqueConstraint(fields=["transfer", "sku"], name="transfer_line_sku_once"),
            models.CheckConstraint(condition=Q(quantity__gt=0), name="transfer_line_quantity_positive"),
            models.CheckConstraint(
                condition=Q(quantity__gte=F("received") + F("returned")), name="transfer_line_ends_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.sku}"

    @property
    def in_transit(self) -> int:
        return self.quantity - self.received - self.returned


class EndpointState(models.TextChoices):
    """Whether an endpoint is told of changes."""

    ACTIVE = "active"
    OFF = "off", "Switched off"
    FAILED = "failed", "Switched off: it did not answer"


class WebhookEndpoint(models.Model):
    """Where a merchant wants to be told of changes of stock. Written by `inventory.delivery`, secrets sealed.

    The cursor is the place in the feed up to which the endpoint has acknowledged: no row is kept per change.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    url = models.URLField("address", max_length=500)
    description = models.CharField(max_length=120, blank=True)
    skipped_key = models.ForeignKey(
        ApiKey,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
        verbose_name="but not of changes made with",
        help_text="Its own key, so that an integration does not hear its echo.",
    )
    state = models.CharField(
        max_length=10, choices=EndpointState.choices, default=EndpointState.ACTIVE, db_default=EndpointState.ACTIVE
    )
    state_reason = models.CharField(max_length=300, blank=True)
    sealed_secret = models.TextField(blank=True, editable=False)
    sealed_previous_secret = models.TextField(blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)
    cursor_transaction = models.BigIntegerField(default=0, editable=False)
    cursor_movement = models.BigIntegerField(default=0, editable=False)
    failures = models.PositiveIntegerField("failures in a row", default=0, db_default=0, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    next_attempt_at = models.DateTimeField(db_default=Now(), editable=False)
    lease = models.UUIDField(null=True, editable=False)
    last_delivered_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            tenant_identity("webhook_endpoint"),
            SameMerchant(field="skipped_key", name="webhook_endpoint_skipped_key_of_merchant"),
            models.UniqueConstraint(fields=["merchant", "url"], name="webhook_endpoint_url_once"),
            in_choices("webhook_endpoint_state_known", "state", EndpointState),
        ]
        indexes = [
            # Endpoints whose turn it is.
            models.Index(fields=["next_attempt_at"], condition=Q(state="active"), name="webhook_endpoint_due"),
        ]

    def __str__(self) -> str:
        return self.description or self.url


class DeliveryState(models.TextChoices):
    """A message is on its way, acknowledged, or took too long and made room for a newer one."""

    OPEN = "open", "On its way"
    DELIVERED = "delivered"
    REPLACED = "replaced", "Replaced by a newer one"


class WebhookDelivery(models.Model):
    """One message to an endpoint: the changes between two places of the feed, sent until it is acknowledged."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    endpoint = models.ForeignKey(
        WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries", db_constraint=False, db_index=False
    )
    message_id = models.CharField(max_length=60, unique=True)
    state = models.CharField(max_length=10, choices=DeliveryState.choices, default=DeliveryState.OPEN)
    changes = models.PositiveIntegerField("levels told of")
    body = models.TextField()
    to_transaction = models.BigIntegerField()
    to_movement = models.BigIntegerField()
    attempts = models.PositiveIntegerField(default=0)
    answer = models.CharField("latest answer", max_length=300, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "webhook deliveries"
        constraints = [
            SameMerchant(field="endpoint", name="webhook_delivery_endpoint_of_merchant"),
            models.UniqueConstraint(fields=["endpoint"], condition=Q(state="open"), name="webhook_delivery_one_open"),
            in_choices("webhook_delivery_state_known", "state", DeliveryState),
        ]
        indexes = [
            # Those of one endpoint, newest first (its page); those of one merchant (admin list); the old ones.
            models.Index(fields=["endpoint", "-id"], name="webhook_delivery_by_endpoint"),
            models.Index(fields=["merchant", "-id"], name="webhook_delivery_by_merchant"),
            models.Index(fields=["created_at"], condition=~Q(state="open"), name="webhook_delivery_by_age"),
        ]

    def __str__(self) -> str:
        return self.message_id


class HoldState(models.TextChoices):
    """A hold ends once: released, or committed to an order or to a sale of its own, which ends fulfilled or cancelled."""

    ACTIVE = "active"
    COMMITTED = "committed"
    RELEASED = "released"
    FULFILLED = "fulfilled"
    CANCELLED = "cancelled"


class Hold(models.Model):
    """Units reserved through the API for an order that does not exist yet. Expiry is a predicate, not a timer.

    Its units stay on the account `held` until `ended_at`: a hold committed to an order that no channel has told us of
    yet is committed and not ended. Those of a sale without an order are committed units until `closed_at`.
    """

    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
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
    source = models.CharField(
        max_length=20, blank=True, db_default="", help_text="How the API key begins that made it."
    )
    correlation_id = models.UUIDField()
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    committed_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField("its units were no longer held", null=True, blank=True)
    closed_at = models.DateTimeField("its sale was fulfilled or cancelled", null=True, blank=True)

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
                | Q(state="committed") & (Q(ended_at__isnull=False) | Q(order_channel_id__isnull=False))
                | Q(state__in=["fulfilled", "cancelled"], ended_at__isnull=False, order_channel_id=None),
                name="hold_ends_with_its_state",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["fulfilled", "cancelled"], closed_at__isnull=False)
                | ~Q(state__in=["fulfilled", "cancelled"]) & Q(closed_at=None),
                name="hold_closed_exactly_when_dated",
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

    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
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

    Invariant: per stock level, the open units of its shortages are those committed beyond what is on hand.
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
            # Those of a merchant in a span of time (scorecard).
            models.Index(fields=["merchant", "created_at"], name="shortage_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} short of {self.stock_level}"
