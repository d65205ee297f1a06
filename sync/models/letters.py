"""Jobs, dead letters and the attempts behind them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from channels.models import Channel, InboxEvent, ListingLevel, PushBatch
from merchants.models import ApiKey, Merchant, User
from merchants.tenancy import SameMerchant, in_choices, tenant_identity


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
