"""How the installation does: heartbeats, audits, sizes."""

from __future__ import annotations

from django.db import models


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
