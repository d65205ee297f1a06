"""Alerts, and what a merchant wants otherwise of their rules."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from channels.models import Channel
from merchants.models import Merchant, Severity, User
from merchants.tenancy import SameMerchant, in_choices


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
