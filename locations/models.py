"""The link: which store locations and warehouses share stock, and how much of it each store location shows."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from channels.models import Channel, Listing, StoreLocation
from inventory.models import Sku, Warehouse
from merchants.models import Merchant
from merchants.tenancy import CompositeKey, SameMerchant, in_choices, tenant_identity


class PolicyChoice(models.TextChoices):
    """How a group divides its stock among its store locations (`locations.publishing.Policy`, for people)."""

    GUARD = "guard", "Guard: shared while there is plenty, split when few are left"
    SHARED = "shared", "Shared: every store shows the whole pool"
    SPLIT = "split", "Split: every unit is for sale in one store at a time"


class Weighting(models.TextChoices):
    """By what the shares of a split are measured."""

    FIXED = "fixed", "The weights given with the store locations"
    VELOCITY = "velocity", "How much each store sells"


class RoutingChoice(models.TextChoices):
    """Which warehouse a sale is taken from, where a store location draws on several (`locations.routing.Routing`)."""

    PRIORITY = "priority", "The first of the mapping matrix that has the units"
    MOST_STOCK = "most_stock", "The one with most of them"


class LocationGroup(models.Model):
    """Store locations and warehouses that share stock under one publishing policy."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="location_groups")
    name = models.CharField(max_length=80)
    policy = models.CharField(
        max_length=10, choices=PolicyChoice.choices, default=PolicyChoice.GUARD, db_default=PolicyChoice.GUARD
    )
    guard_units = models.PositiveIntegerField(
        "guard at or below (units)",
        null=True,
        blank=True,
        help_text="Empty: computed from how fast each SKU sells and how long news takes from store to store.",
    )
    weighting = models.CharField(
        "shares by", max_length=10, choices=Weighting.choices, default=Weighting.FIXED, db_default=Weighting.FIXED
    )
    holds_weight = models.FloatField(
        "weight of holds",
        default=0,
        db_default=0,
        help_text="What reservations through the API weigh against the stores while units are split. "
        "0: they get what no store shows.",
    )
    routing = models.CharField(
        "sales are taken from",
        max_length=10,
        choices=RoutingChoice.choices,
        default=RoutingChoice.PRIORITY,
        db_default=RoutingChoice.PRIORITY,
    )
    allows_split_shipment = models.BooleanField(
        default=False, db_default=False, help_text="The parts of a bundle may be sent from several warehouses."
    )

    class Meta:
        constraints = [
            tenant_identity("location_group"),
            models.UniqueConstraint(fields=["merchant", "name"], name="location_group_name_once"),
            in_choices("location_group_policy_known", "policy", PolicyChoice),
            in_choices("location_group_weighting_known", "weighting", Weighting),
            in_choices("location_group_routing_known", "routing", RoutingChoice),
            models.CheckConstraint(condition=Q(holds_weight__gte=0), name="location_group_holds_weight_not_negative"),
        ]

    def __str__(self) -> str:
        return self.name


class GroupLocation(models.Model):
    """A store location in a group. It belongs to one group at most: its number follows one policy."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    group = models.ForeignKey(LocationGroup, on_delete=models.CASCADE, related_name="locations", db_constraint=False)
    store_location = models.OneToOneField(
        StoreLocation, on_delete=models.CASCADE, related_name="membership", db_constraint=False
    )
    weight = models.FloatField(
        default=1, db_default=1, help_text="Its share of units that are split, in proportion to the others. 0: none."
    )

    class Meta:
        verbose_name = "store location of the group"
        verbose_name_plural = "store locations of the group"
        constraints = [
            models.CheckConstraint(condition=Q(weight__gte=0), name="group_location_weight_not_negative"),
            SameMerchant(field="group", name="group_location_group_of_merchant"),
            SameMerchant(field="store_location", name="group_location_location_of_merchant"),
            models.UniqueConstraint(fields=["group", "store_location"], name="group_location_identity"),
        ]

    def __str__(self) -> str:
        return str(self.store_location)


class GroupWarehouse(models.Model):
    """A warehouse in a group. It belongs to one group at most: its units are promised under one policy."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    group = models.ForeignKey(LocationGroup, on_delete=models.CASCADE, related_name="warehouses", db_constraint=False)
    warehouse = models.OneToOneField(
        Warehouse, on_delete=models.CASCADE, related_name="membership", db_constraint=False
    )

    class Meta:
        verbose_name = "warehouse of the group"
        verbose_name_plural = "warehouses of the group"
        constraints = [
            SameMerchant(field="group", name="group_warehouse_group_of_merchant"),
            SameMerchant(field="warehouse", name="group_warehouse_warehouse_of_merchant"),
            models.UniqueConstraint(fields=["group", "warehouse"], name="group_warehouse_identity"),
        ]

    def __str__(self) -> str:
        return str(self.warehouse)


class Mapping(models.Model):
    """One cell of a group's mapping matrix: this store location draws on this warehouse.

    A sale takes its units from the warehouse with the smallest priority number that has them.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    group = models.ForeignKey(LocationGroup, on_delete=models.CASCADE, related_name="mappings", db_constraint=False)
    store_location = models.ForeignKey(
        StoreLocation, on_delete=models.CASCADE, related_name="mappings", db_constraint=False
    )
    warehouse = models.ForeignKey(Warehouse, on_delete=models.CASCADE, related_name="mappings", db_constraint=False)
    priority = models.PositiveSmallIntegerField(default=1, help_text="1 is drawn on first.")

    class Meta:
        constraints = [
            SameMerchant(field="group", name="mapping_group_of_merchant"),
            # Both ends are members of this very group.
            CompositeKey(
                columns=("group", "store_location"),
                parent="locations.GroupLocation",
                parent_columns=("group", "store_location"),
                name="mapping_location_of_group",
            ),
            CompositeKey(
                columns=("group", "warehouse"),
                parent="locations.GroupWarehouse",
                parent_columns=("group", "warehouse"),
                name="mapping_warehouse_of_group",
            ),
            models.UniqueConstraint(fields=["store_location", "warehouse"], name="mapping_once"),
            models.UniqueConstraint(
                fields=["store_location", "priority"],
                name="mapping_priority_once",
                deferrable=models.Deferrable.DEFERRED,
            ),
        ]
        indexes = [
            # Store locations that draw on a warehouse (publish).
            models.Index(fields=["warehouse", "store_location"], name="mapping_by_warehouse"),
        ]

    def __str__(self) -> str:
        return f"{self.store_location} draws on {self.warehouse}"


class PublishingRule(models.Model):
    """Buffer, cap and floor for a channel, for a SKU on a channel, or for one listing; the most specific wins.

    An empty field falls back to the less specific rule, field by field.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="publishing_rules", db_constraint=False)
    sku = models.ForeignKey(Sku, on_delete=models.CASCADE, null=True, blank=True, related_name="+", db_constraint=False)
    listing = models.ForeignKey(
        Listing,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="publishing_rules",
        db_constraint=False,
    )
    buffer_units = models.PositiveIntegerField(null=True, blank=True, help_text="Units kept back from this channel.")
    buffer_percent = models.DecimalField(
        max_digits=5,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
        help_text="Share of what is available kept back, rounded up to whole units, besides the units.",
    )
    cap = models.PositiveIntegerField(null=True, blank=True, help_text="Never show more than this.")
    floor = models.PositiveIntegerField(null=True, blank=True, help_text="Show zero when less than this is left.")

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="publishing_rule_channel_of_merchant"),
            SameMerchant(field="sku", name="publishing_rule_sku_of_merchant"),
            SameMerchant(field="listing", name="publishing_rule_listing_of_merchant"),
            models.UniqueConstraint(
                fields=["channel"],
                condition=Q(sku__isnull=True, listing__isnull=True),
                name="publishing_rule_once_per_channel",
            ),
            models.UniqueConstraint(
                fields=["channel", "sku"], condition=Q(sku__isnull=False), name="publishing_rule_once_per_sku"
            ),
            models.UniqueConstraint(
                fields=["listing"],
                condition=Q(listing__isnull=False),
                name="publishing_rule_once_per_listing",
            ),
            models.CheckConstraint(
                condition=Q(sku__isnull=True) | Q(listing__isnull=True), name="publishing_rule_one_target"
            ),
            models.CheckConstraint(
                condition=Q(buffer_percent__isnull=True) | Q(buffer_percent__gte=0, buffer_percent__lte=100),
                name="publishing_rule_percent_in_range",
            ),
        ]

    def __str__(self) -> str:
        target = self.listing or (f"{self.sku} on {self.channel}" if self.sku else self.channel)
        return f"rule for {target}"
