"""What the scorecard is computed from, and the days of it that are kept."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from channels.models import Channel
from merchants.models import Merchant
from merchants.tenancy import SameMerchant


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
