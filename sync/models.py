"""The engine's own records: order registers, where their units were taken, what waits to be published, findings."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from channels.models import Channel, InboxEvent, Listing, ListingLevel, PushBatch, StoreLocation
from inventory.models import Sku, StockLevel
from merchants.models import ApiKey, Merchant, Severity, User
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


class Cause(models.TextChoices):
    """Why a listing level showed another number than it must (see `sync.explain`). A closed set."""

    RECOVERED_ORDER = "recovered_order", "An order that no webhook had told of"
    ORDER_IN_FLIGHT = "order_in_flight", "An order whose news was on its way"
    MAPPING = "mapping", "An order that waited for a mapping"
    LATE_WRITE = "late_write", "A write of ours that was given up and came true"
    OWN_WRITE = "own_write", "A write of ours that was under way"
    NOT_STOCKED = "not_stocked", "The store does not count the item there, or does again"
    PASSING = "passing", "The next reading showed what was expected"
    BY_HAND = "by_hand", "Changed in the store by hand"
    AMBIGUOUS = "ambiguous", "Changed by hand, or by a write of ours that came true late"


#: Nothing was wrong: the number was only read too early.
TIMING = (Cause.ORDER_IN_FLIGHT, Cause.OWN_WRITE, Cause.PASSING)


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
    cause = models.CharField(max_length=20, choices=Cause.choices, blank=True, db_default="")
    #: The reconciliation that found it; empty: a webhook's hint did, or it was found before this was noted.
    run = models.ForeignKey(
        "sync.ReconcileRun",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="drifts",
        db_constraint=False,
        db_index=False,
    )

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="drift_channel_of_merchant"),
            SameMerchant(field="run", name="drift_run_of_merchant"),
            models.CheckConstraint(
                condition=Q(cause__in=["", *Cause.values]) & (~Q(action="explained") | ~Q(cause="")),
                name="drift_cause_known",
            ),
            # What an order did to a level is told once, however often somebody looks.
            models.UniqueConstraint(
                fields=["correlation_id", "listing_level"],
                condition=Q(cause__in=["recovered_order", "order_in_flight"]),
                name="drift_order_told_once",
            ),
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
            # What was found in a day (daily report, alarms, scorecard).
            models.Index(fields=["merchant", "found_at"], name="drift_by_time"),
            # What a pass found (its page).
            models.Index(fields=["run", "id"], condition=Q(run__isnull=False), name="drift_by_run"),
        ]

    def __str__(self) -> str:
        return f"{self.listing_level}: expected {self.expected}, found {self.actual}"


class RunState(models.TextChoices):
    """How far a pass has come."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunKind(models.TextChoices):
    """How a channel's levels are read."""

    PASS = "pass", "Page by page"
    FULL = "full", "All at once, from a snapshot where the channel makes one"


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
    orders_recovered = models.PositiveIntegerField(
        "orders unknown, or known in an older version", default=0, db_default=0
    )
    levels_read = models.PositiveIntegerField(default=0, db_default=0)
    levels_suspect = models.PositiveIntegerField("levels found to differ", default=0, db_default=0)
    #: The listing whose levels were compared last: should the pass be cut short, the next begins behind it.
    compared_to = models.BigIntegerField(default=0, db_default=0, editable=False)
    error = models.CharField(max_length=500, blank=True, db_default="")
    kind = models.CharField(max_length=10, choices=RunKind.choices, default=RunKind.PASS, db_default=RunKind.PASS)
    #: Of the channel, when the pass began: what its progress is measured by.
    levels_total = models.PositiveIntegerField("levels there are", default=0, db_default=0)
    has_orders = models.BooleanField("its orders were read", default=False, db_default=False)
    #: Behind which listing it began: it goes round once, from there to there.
    began_behind = models.BigIntegerField(default=0, db_default=0, editable=False)
    #: Who is at it. Once the lease has run out, anyone may go on from where it stands.
    lease_token = models.UUIDField(null=True, blank=True, editable=False)
    leased_until = models.DateTimeField(db_default=Now(), editable=False)
    #: The channel's snapshot of its levels that it waits for or reads, and when it asked for it.
    snapshot_id = models.CharField(max_length=120, blank=True, db_default="", editable=False)
    snapshot_at = models.DateTimeField(null=True, blank=True, editable=False)
    cancel_requested_at = models.DateTimeField(null=True, blank=True, editable=False)
    cancelled_by = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False, editable=False
    )
    is_alarming = models.BooleanField("drift alarm", default=False, db_default=False)

    class Meta:
        constraints = [
            tenant_identity("reconcile_run"),
            SameMerchant(field="channel", name="reconcile_run_channel_of_merchant"),
            in_choices("reconcile_run_state_known", "state", RunState),
            in_choices("reconcile_run_kind_known", "kind", RunKind),
            models.UniqueConstraint(
                fields=["channel"], condition=Q(state="running"), name="reconcile_run_one_at_a_time"
            ),
            models.CheckConstraint(
                condition=Q(state="running", finished_at__isnull=True)
                | (~Q(state="running") & Q(finished_at__isnull=False)),
                name="reconcile_run_finished_exactly_when_dated",
            ),
        ]
        indexes = [
            # The latest pass of a channel (schedule, channel page).
            models.Index(fields=["channel", "-id"], name="reconcile_run_by_channel"),
            # The latest full sync of a channel (schedule).
            models.Index(fields=["channel", "-id"], condition=Q(kind="full"), name="reconcile_run_full"),
            # The passes of a day (daily report, scorecard).
            models.Index(fields=["merchant", "started_at"], name="reconcile_run_by_time"),
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


class JobState(models.TextChoices):
    """How far a job has come. Waiting and running ones are found by the sweep; the last three are the end."""

    WAITING = "waiting", "Waiting for a worker"
    RUNNING = "running", "Running"
    CANCELLING = "cancelling", "Ending after the batch that is under way"
    DONE = "done", "Done"
    CANCELLED = "cancelled", "Cancelled"
    FAILED = "failed", "Failed"


#: The states of a job that has something to do yet.
JOB_UNDER_WAY = (JobState.WAITING, JobState.RUNNING, JobState.CANCELLING)


class Job(models.Model):
    """Something that somebody asked for and that takes many batches (see `sync.jobs`)."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    kind = models.CharField(max_length=40)
    parameters = models.JSONField(default=dict, blank=True)
    #: What it was about to touch when it was asked for, in words.
    preview = models.CharField(max_length=500, blank=True, db_default="")
    state = models.CharField(
        max_length=10, choices=JobState.choices, default=JobState.WAITING, db_default=JobState.WAITING
    )
    total = models.PositiveIntegerField("counted beforehand", default=0, db_default=0)
    done = models.PositiveIntegerField(default=0, db_default=0)
    changed = models.PositiveIntegerField(default=0, db_default=0)
    failed = models.PositiveIntegerField(default=0, db_default=0)
    #: Whatever else its kind counts.
    tally = models.JSONField(default=dict, blank=True)
    #: Where the next batch begins, as its kind writes it.
    cursor = models.JSONField(default=dict, blank=True, editable=False)
    result = models.CharField(max_length=500, blank=True, db_default="")
    error = models.CharField(max_length=500, blank=True, db_default="", help_text="Why the latest batch failed.")
    #: Batches that failed in a row.
    failures = models.PositiveSmallIntegerField(default=0, db_default=0, editable=False)
    #: When the next batch may begin; while one is under way, until when its worker is believed to live.
    next_attempt_at = models.DateTimeField(db_default=Now(), editable=False)
    #: The fence: a batch is committed by the worker that claimed the job last, or by nobody.
    lease_token = models.UUIDField(null=True, blank=True, editable=False)
    correlation_id = models.UUIDField()
    created_by = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False, db_constraint=False
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            tenant_identity("job"),
            SameMerchant(field="api_key", name="job_api_key_of_merchant"),
            in_choices("job_state_known", "state", JobState),
            models.CheckConstraint(
                condition=Q(state__in=JOB_UNDER_WAY, finished_at__isnull=True)
                | (~Q(state__in=JOB_UNDER_WAY) & Q(finished_at__isnull=False)),
                name="job_finished_exactly_when_dated",
            ),
        ]
        indexes = [
            # Which jobs have a batch due? (sweep)
            models.Index(fields=["next_attempt_at"], condition=Q(state__in=JOB_UNDER_WAY), name="job_under_way"),
            # The jobs of one merchant, newest first (page, admin list).
            models.Index(fields=["merchant", "-id"], name="job_by_merchant"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class FailureCause(models.TextChoices):
    """Why something was given up. `sync.remedies` says what each means and what to do."""

    UNREADABLE = "unreadable", "The message cannot be read"
    REFUSED = "refused", "The store refuses it"
    NOT_AUTHORIZED = "not_authorized", "The store does not let us in"
    CHANNEL_AWAY = "channel_away", "The store does not answer"
    UNKNOWN_OUTCOME = "unknown_outcome", "The store does not say whether it was done"
    POISON = "poison", "Workers died over it"
    BUG = "bug", "A mistake of SyncTec"


class LetterState(models.TextChoices):
    """What is being done about a dead letter."""

    OPEN = "open", "Needs somebody"
    RETRIED = "retried", "Is being tried again"
    RECOVERED = "recovered", "Recovered"
    DISMISSED = "dismissed", "Dismissed"


class DeadLetter(models.Model):
    """An event that was given up, or a listing level whose pushes were: why, and what became of it.

    It lives until what it is about has come right (`ended_at`), whatever anybody does about it meanwhile, and there is one
    living letter per event or level at most. So one that was dismissed is not opened again for the same trouble.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    #: No key of the database: events are removed when they are old.
    event = models.ForeignKey(
        InboxEvent,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    listing_level = models.ForeignKey(
        ListingLevel,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    cause = models.CharField(max_length=20, choices=FailureCause.choices)
    #: What failures of one and the same kind have in common within their cause: the channel's own code, or the words without
    #: their numbers.
    code = models.CharField(max_length=80, blank=True, db_default="")
    said = models.CharField("what was said last", max_length=500, blank=True, db_default="")
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    correlation_id = models.UUIDField(null=True, blank=True)
    state = models.CharField(
        max_length=10, choices=LetterState.choices, default=LetterState.OPEN, db_default=LetterState.OPEN
    )
    opened_at = models.DateTimeField(db_default=Now(), editable=False)
    ended_at = models.DateTimeField(null=True, blank=True, help_text="When what it is about had come right.")
    outcome = models.CharField(max_length=200, blank=True, db_default="")
    retries = models.PositiveIntegerField(default=0, db_default=0)
    retried_at = models.DateTimeField(null=True, blank=True)
    retried_by_job = models.ForeignKey(
        Job, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_constraint=False, db_index=False
    )
    dismissed_at = models.DateTimeField(null=True, blank=True)
    dismissed_by = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    dismissed_because = models.CharField(max_length=500, blank=True, db_default="")

    class Meta:
        constraints = [
            tenant_identity("dead_letter"),
            SameMerchant(field="channel", name="dead_letter_channel_of_merchant"),
            SameMerchant(field="listing_level", name="dead_letter_level_of_merchant"),
            SameMerchant(field="retried_by_job", name="dead_letter_job_of_merchant"),
            in_choices("dead_letter_cause_known", "cause", FailureCause),
            in_choices("dead_letter_state_known", "state", LetterState),
            models.CheckConstraint(
                condition=Q(event__isnull=False, listing_level__isnull=True)
                | Q(event__isnull=True, listing_level__isnull=False),
                name="dead_letter_about_one_thing",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["open", "retried"], ended_at__isnull=True)
                | Q(state="recovered", ended_at__isnull=False)
                | Q(state="dismissed"),
                name="dead_letter_recovered_when_ended",
            ),
            models.CheckConstraint(
                condition=~Q(state="dismissed") | (Q(dismissed_at__isnull=False) & ~Q(dismissed_because="")),
                name="dead_letter_dismissed_for_a_reason",
            ),
            models.UniqueConstraint(fields=["event"], condition=Q(ended_at=None), name="dead_letter_once_per_event"),
            models.UniqueConstraint(
                fields=["listing_level"], condition=Q(ended_at=None), name="dead_letter_once_per_level"
            ),
        ]
        indexes = [
            # What waits, by cause (page); the letters of one group in order (jobs).
            models.Index(
                fields=["merchant", "channel", "cause", "code", "id"],
                condition=Q(ended_at=None),
                name="dead_letter_living",
            ),
            # The letters of one merchant, newest first (admin list).
            models.Index(fields=["merchant", "-id"], name="dead_letter_by_merchant"),
            # Those of a change (story).
            models.Index(fields=["correlation_id"], name="dead_letter_by_correlation"),
            # Old ones, to be forgotten.
            models.Index(fields=["ended_at"], condition=Q(ended_at__isnull=False), name="dead_letter_by_age"),
            # What became of those that a job tried again.
            models.Index(
                fields=["retried_by_job"], condition=Q(retried_by_job__isnull=False), name="dead_letter_by_job"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_cause_display()} ({self.pk})"


class Attempt(models.Model):
    """One attempt that failed, at applying an event or at sending a write. Written with what the failure leads to."""

    id = models.BigAutoField(primary_key=True)
    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    event = models.ForeignKey(
        InboxEvent,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    batch = models.ForeignKey(
        PushBatch,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    number = models.PositiveIntegerField()
    started_at = models.DateTimeField(null=True, blank=True, help_text="Empty: its worker died without a word.")
    ended_at = models.DateTimeField()
    answer = models.CharField(max_length=500)

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="attempt_channel_of_merchant"),
            SameMerchant(field="batch", name="attempt_batch_of_merchant"),
            models.CheckConstraint(
                condition=Q(event__isnull=False, batch__isnull=True) | Q(event__isnull=True, batch__isnull=False),
                name="attempt_of_one_thing",
            ),
        ]
        indexes = [
            # The attempts behind a dead letter (its page).
            models.Index(fields=["event", "id"], condition=Q(event__isnull=False), name="attempt_by_event"),
            models.Index(fields=["batch", "id"], condition=Q(batch__isnull=False), name="attempt_by_batch"),
            # Old ones, to be forgotten.
            models.Index(fields=["ended_at"], name="attempt_by_age"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.answer[:60]}"


class Difference(models.Model):
    """A level that a pass found to differ, until it is settled and its cause is known: then it becomes a `Drift`.

    It keeps the level's books of the moment at which they were compared: what explains the difference is what they have
    moved by since.
    """

    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    run = models.ForeignKey(
        ReconcileRun, on_delete=models.CASCADE, related_name="differences", db_constraint=False, db_index=False
    )
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    listing_level = models.OneToOneField(
        ListingLevel, on_delete=models.CASCADE, related_name="difference", db_constraint=False
    )
    #: Empty: the store was not to count the item there, or did not.
    expected = models.IntegerField(null=True, blank=True)
    actual = models.IntegerField(null=True, blank=True)
    base = models.IntegerField()
    order_effects = models.IntegerField()
    pushed = models.IntegerField()
    #: The level's latest drift then; those that came after it are about this difference.
    latest_drift_id = models.BigIntegerField(default=0, db_default=0)
    previous_confirmed_at = models.DateTimeField("last good sync", null=True, blank=True)
    found_at = models.DateTimeField()

    class Meta:
        constraints = [
            SameMerchant(field="run", name="difference_run_of_merchant"),
            SameMerchant(field="channel", name="difference_channel_of_merchant"),
            SameMerchant(field="listing_level", name="difference_level_of_merchant"),
        ]
        indexes = [
            # What a pass found that is not explained yet (its page).
            models.Index(fields=["run"], name="difference_by_run"),
        ]

    def __str__(self) -> str:
        return f"{self.listing_level}: expected {self.expected}, found {self.actual}"


class DailyReport(models.Model):
    """What a day of a merchant came to, by the merchant's clock. Computed from the facts; may be computed anew."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    day = models.DateField()
    #: As `sync.reports.figures` computes them.
    figures = models.JSONField()
    computed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            tenant_identity("daily_report"),
            models.UniqueConstraint(fields=["merchant", "day"], name="daily_report_once_a_day"),
        ]

    def __str__(self) -> str:
        return f"{self.merchant} on {self.day}"


class ReportMail(models.Model):
    """A daily report on its way to somebody who wants it."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    report = models.ForeignKey(
        DailyReport, on_delete=models.CASCADE, related_name="mails", db_constraint=False, db_index=False
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+", db_index=False)
    attempts = models.PositiveSmallIntegerField(default=0, db_default=0)
    next_attempt_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True, blank=True)
    #: Not wanted any more, or tried often enough.
    given_up_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True, db_default="")

    class Meta:
        constraints = [
            SameMerchant(field="report", name="report_mail_report_of_merchant"),
            models.UniqueConstraint(fields=["report", "user"], name="report_mail_once"),
            models.CheckConstraint(
                condition=Q(sent_at__isnull=True) | Q(given_up_at__isnull=True), name="report_mail_sent_or_given_up"
            ),
        ]
        indexes = [
            # What is there to send?
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(sent_at__isnull=True, given_up_at__isnull=True),
                name="report_mail_due",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.report} to {self.user}"


class ShadowWrite(models.Model):
    """What would have been written to a store in shadow mode, and what the store showed. Kept for a month."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    listing_level = models.ForeignKey(
        ListingLevel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    from_quantity = models.IntegerField("the store showed")
    to_quantity = models.IntegerField("would have been written")
    #: Numbers that were computed within a minute are one row: this many of them.
    changes = models.PositiveIntegerField(default=1, db_default=1)
    correlation_ids = ArrayField(models.UUIDField(), default=list, db_default=[])
    caused_at = models.DateTimeField(null=True, blank=True, help_text="When the oldest event behind it arrived.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)
    #: What the store showed when it was read for the latest comparison, and when that was.
    actual = models.IntegerField(null=True, blank=True)
    compared_at = models.DateTimeField(null=True, blank=True)
    #: Another number took its place, or the store shows it by itself.
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "intended write"
        constraints = [
            SameMerchant(field="channel", name="shadow_write_channel_of_merchant"),
            SameMerchant(field="listing_level", name="shadow_write_level_of_merchant"),
            models.UniqueConstraint(
                fields=["listing_level"], condition=Q(ended_at__isnull=True), name="shadow_write_one_open_per_level"
            ),
        ]
        indexes = [
            # The log of a channel, newest first (its page), and what is too old (retention).
            models.Index(fields=["channel", "-id"], name="shadow_write_by_channel"),
            models.Index(fields=["updated_at"], name="shadow_write_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.listing_level}: {self.from_quantity} to {self.to_quantity} (not written)"


class ShadowReport(models.Model):
    """A comparison of a store in shadow mode with what it would be told: the latest of each day."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="shadow_reports", db_constraint=False, db_index=False
    )
    day = models.DateField()
    compared_at = models.DateTimeField()
    levels = models.PositiveIntegerField("levels compared", default=0)
    exact = models.PositiveIntegerField("exactly equal", default=0)
    near = models.PositiveIntegerField("within 1 %", default=0)
    #: How many differ for which likely reason (`sync.comparison.Reason`).
    reasons = models.JSONField(default=dict)
    #: The levels that differ, the greatest differences first, up to a limit; `levels - exact - near` are all.
    rows = models.JSONField(default=list)

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="shadow_report_channel_of_merchant"),
            models.UniqueConstraint(fields=["channel", "day"], name="shadow_report_once_a_day"),
            models.CheckConstraint(condition=Q(levels__gte=F("exact") + F("near")), name="shadow_report_adds_up"),
        ]

    def __str__(self) -> str:
        return f"{self.channel} on {self.day}"

    @property
    def differing(self) -> int:
        """Levels that are neither equal nor near."""
        return self.levels - self.exact - self.near


class HoldKind(models.TextChoices):
    """Why a channel's levels are kept from showing what is computed."""

    BIG_RUN = "big_run", "Too many big changes at once"
    RESTORE = "restore", "Restored to what was shown before"


class HoldState(models.TextChoices):
    """What became of a hold."""

    HELD = "held", "Held"
    CONFIRMED = "confirmed", "Confirmed"
    CANCELLED = "cancelled", "Ended without"


class PushHold(models.Model):
    """Changes of a channel that wait for a person (see `sync.bigruns`), or levels that were restored (`sync.rewind`)."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="push_holds", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=10, choices=HoldKind.choices)
    state = models.CharField(
        max_length=10, choices=HoldState.choices, default=HoldState.HELD, db_default=HoldState.HELD
    )
    reason = models.CharField(max_length=500)
    restored_to = models.DateTimeField("as of", null=True, blank=True)
    #: When it was made: so many of the channel's levels would be taken to zero, changed by more than half, of so many.
    zeroed = models.PositiveIntegerField(default=0)
    changed = models.PositiveIntegerField(default=0)
    of_levels = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    decision_reason = models.CharField(max_length=500, blank=True, db_default="")

    class Meta:
        verbose_name = "held change"
        constraints = [
            tenant_identity("push_hold"),
            SameMerchant(field="channel", name="push_hold_channel_of_merchant"),
            in_choices("push_hold_kind_known", "kind", HoldKind),
            in_choices("push_hold_state_known", "state", HoldState),
            models.UniqueConstraint(
                fields=["channel", "kind"], condition=Q(state="held"), name="push_hold_one_open_per_channel"
            ),
            models.CheckConstraint(
                condition=Q(state="held", decided_at__isnull=True) | (~Q(state="held") & Q(decided_at__isnull=False)),
                name="push_hold_decided_exactly_when_dated",
            ),
        ]
        indexes = [
            # A merchant's holds, newest first (their page); those that wait (board).
            models.Index(fields=["merchant", "-id"], name="push_hold_by_merchant"),
            models.Index(fields=["merchant"], condition=Q(state="held"), name="push_hold_waiting"),
        ]

    def __str__(self) -> str:
        return f"{self.channel}: {self.get_kind_display().lower()}"


class HeldState(models.TextChoices):
    """How far a big change of a level has come."""

    WATCHED = "watched", "Waits until the whole run is known"
    HELD = "held", "Held"
    PASSED = "passed", "Let through: few"
    CONFIRMED = "confirmed", "Confirmed"
    RELEASED = "released", "Not big any more"


class HeldLevel(models.Model):
    """A big change of what a level shows that no sales explain: watched, held, or let through and counted for a while."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    listing_level = models.ForeignKey(
        ListingLevel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    hold = models.ForeignKey(
        PushHold,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="levels",
        db_constraint=False,
        db_index=False,
    )
    state = models.CharField(max_length=10, choices=HeldState.choices)
    kind = models.CharField(max_length=5, choices=[("zero", "To zero"), ("much", "By more than half")])
    #: What is kept, before what is sold from `sold_from` on is taken off it; what is computed by now.
    from_quantity = models.IntegerField()
    to_quantity = models.IntegerField(null=True, blank=True)
    sold_from = models.DateTimeField()
    cause = models.CharField(max_length=200, blank=True, db_default="")
    correlation_id = models.UUIDField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "held level"
        constraints = [
            SameMerchant(field="channel", name="held_level_channel_of_merchant"),
            SameMerchant(field="listing_level", name="held_level_level_of_merchant"),
            SameMerchant(field="hold", name="held_level_hold_of_merchant"),
            in_choices("held_level_state_known", "state", HeldState),
            models.CheckConstraint(
                condition=~Q(state="held") | Q(hold__isnull=False), name="held_level_held_by_something"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["watched", "held"], settled_at__isnull=True)
                | (~Q(state__in=["watched", "held"]) & Q(settled_at__isnull=False)),
                name="held_level_settled_exactly_when_dated",
            ),
            models.UniqueConstraint(
                fields=["listing_level"],
                condition=Q(state__in=["watched", "held"]),
                name="held_level_one_open_per_level",
            ),
        ]
        indexes = [
            # What a channel was told of late, and one of its levels (publish); what waits to be judged (sweep).
            models.Index(
                fields=["listing_level", "settled_at"],
                condition=Q(state__in=["passed", "confirmed"]),
                name="held_level_by_level",
            ),
            models.Index(
                fields=["channel", "settled_at"],
                condition=Q(state__in=["passed", "confirmed"]),
                name="held_level_let_through",
            ),
            models.Index(fields=["channel"], condition=Q(state="watched"), name="held_level_watched"),
            # The levels of a hold (its page).
            models.Index(fields=["hold", "id"], name="held_level_by_hold"),
        ]

    def __str__(self) -> str:
        return f"{self.listing_level}: {self.from_quantity} to {self.to_quantity} ({self.state})"


class Presence(models.Model):
    """In which minutes of an hour a part of the system was there: bit n is the hour's minute n (see `sync.presence`)."""

    name = models.CharField(max_length=40)
    hour = models.DateTimeField()
    minutes = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "presences"
        constraints = [
            models.UniqueConstraint(fields=["name", "hour"], name="presence_once_per_hour"),
            models.CheckConstraint(condition=Q(minutes__gt=0, minutes__lt=1 << 60), name="presence_minutes_of_an_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.name} at {self.hour:%Y-%m-%d %H}h"


class BufferUse(models.Model):
    """What became of a channel's buffers within one hour, read from the ledger (see `sync.buffers`)."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    hour = models.DateTimeField()
    levels = models.PositiveIntegerField("listing levels with a buffer")
    entered = models.PositiveIntegerField("times that stock fell into a buffer")
    below_zero = models.PositiveIntegerField("times that stock fell below zero")
    used = models.PositiveIntegerField("most units used of one buffer")
    size = models.PositiveIntegerField("units of that buffer")

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="buffer_use_channel_of_merchant"),
            models.UniqueConstraint(fields=["channel", "hour"], name="buffer_use_once_per_hour"),
        ]
        indexes = [
            # The hours of a merchant in a span of time (scorecard).
            models.Index(fields=["merchant", "hour"], name="buffer_use_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.channel} at {self.hour:%Y-%m-%d %H}h"


class ScorecardDay(models.Model):
    """The facts of one day, by the merchant's own clock: of a channel, or of the whole merchant (see `sync.history`)."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, null=True, blank=True, related_name="+", db_constraint=False, db_index=False
    )
    day = models.DateField()
    #: As `sync.score.Facts` reads and writes them; figures and verdicts are made of them anew.
    facts = models.JSONField()
    computed_at = models.DateTimeField()

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="scorecard_day_channel_of_merchant"),
            # Also serves the days of a merchant in a span of time.
            models.UniqueConstraint(
                fields=["merchant", "day", "channel"], name="scorecard_day_once", nulls_distinct=False
            ),
        ]
        indexes = [
            # The rows of a channel (deletion).
            models.Index(fields=["channel"], name="scorecard_day_by_channel"),
        ]

    def __str__(self) -> str:
        return f"{self.channel or self.merchant} on {self.day}"


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
