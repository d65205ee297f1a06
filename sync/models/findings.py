"""Passes over channels, what they found, and the daily report of it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from channels.models import Channel, ListingLevel
from inventory.models import StockLevel
from merchants.models import Merchant, User
from merchants.tenancy import SameMerchant, in_choices, tenant_identity


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
