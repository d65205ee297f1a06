"""The engine's own records: order registers, where their units were taken, what waits to be published, findings."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from channels.models import Channel, InboxEvent, Listing, ListingLevel, StoreLocation
from inventory.models import Sku, StockLevel
from merchants.models import Merchant, Severity, User
from merchants.tenancy import SameMerchant, in_choices, tenant_identity


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


class DriftAction(models.TextChoices):
    """What was done about a difference."""

    EXPLAINED = "explained", "Explained by orders or pushes"
    ADOPTED = "adopted", "Taken over into the pool"
    OVERRIDDEN = "overridden", "Overwritten with the pool's number"
    ASKED = "asked", "Waits for somebody to decide"


class Drift(models.Model):
    """What a check of a listing level found to differ from what was expected, and what was done about it."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    listing_level = models.ForeignKey(
        ListingLevel, on_delete=models.CASCADE, related_name="drifts", db_constraint=False, db_index=False
    )
    expected = models.IntegerField()
    actual = models.IntegerField()
    action = models.CharField(max_length=20, choices=DriftAction.choices)
    explanation = models.CharField(max_length=500, blank=True)
    is_ambiguous = models.BooleanField(default=False, db_default=False)
    previous_confirmed_at = models.DateTimeField("last good sync", null=True, blank=True)
    #: Units kept out of the pool until somebody has decided, and where.
    held = models.PositiveIntegerField(default=0, db_default=0)
    held_at = models.ForeignKey(
        StockLevel,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    decided_by = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    decided_at = models.DateTimeField(null=True, blank=True)
    correlation_id = models.UUIDField()
    found_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="drift_channel_of_merchant"),
            SameMerchant(field="listing_level", name="drift_listing_level_of_merchant"),
            in_choices("drift_action_known", "action", DriftAction),
            SameMerchant(field="held_at", name="drift_held_at_of_merchant"),
            models.CheckConstraint(
                condition=Q(held=0) | Q(held_at__isnull=False, action="asked"), name="drift_held_while_asked"
            ),
        ]
        indexes = [
            # Questions that wait for an answer.
            models.Index(fields=["merchant", "-id"], condition=Q(action="asked"), name="drift_asked"),
            # A merchant's drifts, newest first (admin list); a level's drifts (its page).
            models.Index(fields=["merchant", "-id"], name="drift_by_merchant"),
            models.Index(fields=["listing_level", "-id"], name="drift_by_level"),
        ]

    def __str__(self) -> str:
        return f"{self.listing_level}: expected {self.expected}, found {self.actual}"


class RunState(models.TextChoices):
    """How far a pass has come."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class ReconcileRun(models.Model):
    """One reconciliation pass over a channel: where it stands and what it found."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="reconcile_runs", db_constraint=False, db_index=False
    )
    state = models.CharField(
        max_length=10, choices=RunState.choices, default=RunState.RUNNING, db_default=RunState.RUNNING
    )
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)
    orders_read = models.PositiveIntegerField(default=0, db_default=0)
    orders_recovered = models.PositiveIntegerField("orders no webhook had told of", default=0, db_default=0)
    levels_read = models.PositiveIntegerField(default=0, db_default=0)
    levels_suspect = models.PositiveIntegerField("levels found to differ", default=0, db_default=0)
    #: The listing whose levels were compared last: should the pass be cut short, the next begins behind it.
    compared_to = models.BigIntegerField(default=0, db_default=0, editable=False)
    error = models.CharField(max_length=500, blank=True, db_default="")

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="reconcile_run_channel_of_merchant"),
            in_choices("reconcile_run_state_known", "state", RunState),
        ]
        indexes = [
            # The latest pass of a channel (schedule, channel page).
            models.Index(fields=["channel", "-id"], name="reconcile_run_by_channel"),
        ]

    def __str__(self) -> str:
        return f"{self.channel} at {self.started_at:%Y-%m-%d %H:%M}"


class AuditResult(models.Model):
    """What the auditor found when it last asked whether an invariant holds (see `sync.auditor`)."""

    name = models.CharField(max_length=60, primary_key=True)
    checked_at = models.DateTimeField()
    #: How long the question took.
    seconds = models.FloatField()
    broken_since = models.DateTimeField(null=True, blank=True)
    #: The first row that breaks it, with its merchant's id.
    offender = models.JSONField(null=True, blank=True)
    error = models.CharField(
        max_length=500, blank=True, db_default="", help_text="Why it could not be asked; the rest is from before."
    )

    def __str__(self) -> str:
        return self.name


class Heartbeat(models.Model):
    """Progress, not process ids: when each part of the engine last did its work."""

    name = models.CharField(max_length=40, primary_key=True)
    beat_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class AlertState(models.TextChoices):
    """How far an alert has come. A rule whose threshold is passed is pending until its hold time is over."""

    PENDING = "pending", "About to be raised"
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RECOVERED = "recovered"


class Alert(models.Model):
    """A rule that does not hold for a subject: one row from the first sign to the recovery. Written by `sync.alerts`.

    Without a merchant it is about the installation. What follows from another open alert names that one as its cause, and
    nobody is told of it.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, null=True, related_name="+", db_index=False)
    rule = models.CharField(max_length=40)
    subject = models.CharField(max_length=120, help_text="Such as channel:3, merchant:1, installation.")
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, null=True, related_name="+", db_constraint=False, db_index=False
    )
    severity = models.CharField(max_length=10, choices=Severity.choices)
    state = models.CharField(max_length=15, choices=AlertState.choices, default=AlertState.PENDING)
    title = models.CharField(max_length=200)
    text = models.TextField(blank=True)
    #: What it consists of, such as SKUs, the gravest first; a sample of them.
    members = models.JSONField(default=list, db_default=[])
    value = models.FloatField()
    worst = models.FloatField()
    #: The rule and subject of the alert it follows from; empty: of none.
    cause = models.CharField(max_length=170, blank=True, db_default="")
    #: Since when the threshold has been passed; when it was raised.
    since = models.DateTimeField()
    raised_at = models.DateTimeField(null=True, blank=True)
    #: Since when it has been better than the threshold that clears it, without a break.
    better_since = models.DateTimeField(null=True, blank=True)
    recovered_at = models.DateTimeField(null=True, blank=True)
    #: When people were last told of it, how often, and of what.
    told_at = models.DateTimeField(null=True, blank=True)
    times_told = models.PositiveIntegerField(default=0, db_default=0)
    told_value = models.FloatField(null=True, blank=True)
    told_members = models.JSONField(default=list, db_default=[])
    told_severity = models.CharField(max_length=10, choices=Severity.choices, blank=True, db_default="")
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    acknowledged_with = models.CharField("API key", max_length=20, blank=True, db_default="")
    note = models.CharField(max_length=500, blank=True, db_default="")
    snoozed_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="alert_channel_of_merchant"),
            # One alert per cause, however many evaluate at the same time.
            models.UniqueConstraint(
                fields=["rule", "subject"], condition=~Q(state="recovered"), name="alert_one_open_per_cause"
            ),
            in_choices("alert_state_known", "state", AlertState),
            in_choices("alert_severity_known", "severity", Severity),
            models.CheckConstraint(
                condition=Q(state="pending", raised_at__isnull=True)
                | (~Q(state="pending") & Q(raised_at__isnull=False)),
                name="alert_raised_exactly_when_dated",
            ),
            models.CheckConstraint(
                condition=Q(state="recovered", recovered_at__isnull=False)
                | (~Q(state="recovered") & Q(recovered_at__isnull=True)),
                name="alert_recovered_exactly_when_dated",
            ),
            models.CheckConstraint(
                condition=~Q(state="acknowledged") | Q(acknowledged_at__isnull=False), name="alert_acknowledged_at"
            ),
        ]
        indexes = [
            # A merchant's alerts, newest first (page, API); those that are open (board).
            models.Index(fields=["merchant", "-id"], name="alert_by_merchant"),
            models.Index(fields=["merchant"], condition=~Q(state="recovered"), name="alert_open"),
            # The old ones.
            models.Index(fields=["recovered_at"], condition=Q(state="recovered"), name="alert_by_age"),
        ]

    def __str__(self) -> str:
        return self.title


class RuleOverride(models.Model):
    """What a merchant wants otherwise than a rule is shipped; empty fields keep what is shipped.

    Without a merchant it is about a rule of the installation.
    """

    merchant = models.ForeignKey(
        Merchant,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="Empty for the rules of the installation.",
    )
    rule = models.CharField(max_length=40)
    is_on = models.BooleanField("on", default=True, db_default=True)
    raise_at = models.FloatField(null=True, blank=True, help_text="The alert is raised from here on.")
    clear_at = models.FloatField(null=True, blank=True, help_text="It recovers from here on.")
    critical_at = models.FloatField(null=True, blank=True, help_text="It is critical from here on.")
    hold_seconds = models.PositiveIntegerField(
        "hold (seconds)", null=True, blank=True, help_text="It must last so long before the alert is raised."
    )

    class Meta:
        verbose_name = "alert rule"
        constraints = [
            models.UniqueConstraint(
                fields=["merchant", "rule"], name="rule_override_once_per_merchant", nulls_distinct=False
            ),
            models.CheckConstraint(condition=~Q(rule=""), name="rule_override_names_a_rule"),
        ]

    def __str__(self) -> str:
        return self.rule


class RuleCheck(models.Model):
    """When a rule's question was last asked, and why it could not be answered."""

    name = models.CharField(max_length=40, primary_key=True)
    first_asked_at = models.DateTimeField()
    asked_at = models.DateTimeField()
    seconds = models.FloatField(default=0, db_default=0)
    error = models.CharField(max_length=300, blank=True, db_default="")
    failing_since = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.name


class ProcessBeat(models.Model):
    """Progress of one process: when it last ended a task, and by how much its clock is ahead of the database's."""

    name = models.CharField(max_length=120, primary_key=True)
    started_at = models.DateTimeField()
    progressed_at = models.DateTimeField()
    clock_ahead_seconds = models.FloatField(default=0, db_default=0)
    stopped_at = models.DateTimeField(null=True, blank=True, help_text="When it ended as it was told to.")

    def __str__(self) -> str:
        return self.name


class SizeSample(models.Model):
    """How large everything is that grows, every few minutes."""

    taken_at = models.DateTimeField(primary_key=True)
    database_bytes = models.BigIntegerField()
    inbox_waiting = models.BigIntegerField("events that wait")
    outbox_waiting = models.BigIntegerField("levels and SKUs that wait to be told")
    redis_bytes = models.BigIntegerField(null=True, blank=True)
    redis_bytes_max = models.BigIntegerField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.taken_at:%Y-%m-%d %H:%M}"
