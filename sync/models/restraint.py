"""What keeps a channel from being told what is computed: shadow mode, and holds."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from channels.models import Channel, ListingLevel
from merchants.models import Merchant, User
from merchants.tenancy import SameMerchant, in_choices, tenant_identity


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
