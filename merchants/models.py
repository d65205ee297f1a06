"""Who: merchants, their people, and the trail of what people and the system did."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from merchants.tenancy import SameMerchant, in_choices, tenant_identity


class User(AbstractUser):
    """A person. What they may do for a merchant is on their `Member` rows."""

    email = models.EmailField("e-mail address", unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["username"]

    def __str__(self) -> str:
        return self.email


class Merchant(models.Model):
    """The tenant: every other row belongs to one."""

    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=60, unique=True)
    timezone = models.CharField(max_length=60, default="UTC", db_default="UTC")
    is_active = models.BooleanField(default=True, db_default=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    quiet_hour = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        default=3,
        db_default=3,
        validators=[MaxValueValidator(23)],
        help_text="The hour of the day (0 to 23, by the merchant's clock) from which on every level of every store is read "
        "once a day. Empty: never; the usual reconciliations go on.",
    )

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(quiet_hour__lte=23), name="merchant_quiet_hour_is_one")]

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    """What a member may do."""

    OWNER = "owner"
    MANAGER = "manager"
    VIEWER = "viewer"


class Member(models.Model):
    """A person's role at a merchant."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="members")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.VIEWER)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    wants_daily_report = models.BooleanField(
        "daily report by e-mail",
        default=False,
        db_default=False,
        help_text="What reconciliations found the day before.",
    )

    class Meta:
        constraints = [
            tenant_identity("member"),
            models.UniqueConstraint(fields=["merchant", "user"], name="member_once_per_merchant"),
            in_choices("member_role_known", "role", Role),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"


class Scope(models.TextChoices):
    """What an API key may do. Every route of the API names the one it asks for."""

    STOCK_READ = "stock:read", "Read stock and transfers"
    STOCK_WRITE = "stock:write", "Report movements, transfers and counts"
    HOLDS_WRITE = "holds:write", "Reserve stock"
    FEED_READ = "feed:read", "Follow every change of stock"
    SYNC_READ = "sync:read", "Read dead letters and jobs"
    SYNC_WRITE = "sync:write", "Try dead letters again, replay events, have listings read again"
    HEALTH_READ = "health:read", "Read the health scorecard"
    ALERTS_READ = "alerts:read", "Read alerts"
    ALERTS_WRITE = "alerts:write", "Acknowledge and snooze alerts"
    CHANNELS_READ = "channels:read", "See how channels do, what is held and what shadow mode compares"
    CHANNELS_WRITE = "channels:write", "Stop and resume writing, go live, decide about held changes, restore"


class ApiKey(models.Model):
    """A program's key to one merchant's data. The secret is shown once; only its SHA-256 is kept."""

    merchant = models.ForeignKey(Merchant, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=80, help_text="Which program uses it, such as: warehouse system.")
    prefix = models.CharField(
        max_length=20, unique=True, editable=False, help_text="How the key begins, to tell keys apart."
    )
    secret_sha256 = models.BinaryField(max_length=32, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope.choices))
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField("last used (to within minutes)", null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_by = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, related_name="+", editable=False, db_index=False
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "API key"
        verbose_name_plural = "API keys"
        constraints = [
            tenant_identity("api_key"),
            models.CheckConstraint(
                condition=Q(scopes__contained_by=Scope.values) & Q(scopes__len__gt=0), name="api_key_scopes_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"


class RememberedAnswer(models.Model):
    """What was answered to a request with an Idempotency-Key, written in the transaction of what the request did."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    key = models.CharField(max_length=255)
    request_sha256 = models.BinaryField(max_length=32)
    status = models.PositiveSmallIntegerField()
    body = models.TextField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["merchant", "key"], name="remembered_answer_once")]
        indexes = [
            # Old answers, to be forgotten.
            models.Index(fields=["created_at"], name="remembered_answer_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.key}: {self.status}"


class ActorKind(models.TextChoices):
    """Who did it."""

    USER = "user"
    SYSTEM = "system"
    CHANNEL = "channel"
    API = "api"


class AuditEvent(models.Model):
    """One thing somebody did, with what was before and after. Append-only: a trigger refuses changes."""

    merchant = models.ForeignKey(Merchant, on_delete=models.PROTECT, related_name="+", db_index=False)
    at = models.DateTimeField(db_default=Now(), editable=False)
    actor_kind = models.CharField(max_length=10, choices=ActorKind.choices)
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False)
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False, db_constraint=False
    )
    action = models.CharField(max_length=60)
    object_type = models.CharField(max_length=60)
    object_id = models.CharField(max_length=64)
    object_label = models.CharField(max_length=200, blank=True)
    before = models.JSONField(default=dict, blank=True)
    after = models.JSONField(default=dict, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    correlation_id = models.UUIDField(null=True, blank=True)

    class Meta:
        constraints = [
            in_choices("audit_event_actor_known", "actor_kind", ActorKind),
            SameMerchant(field="api_key", name="audit_event_api_key_of_merchant"),
        ]
        indexes = [
            # The trail of one merchant, newest first (admin list).
            models.Index(fields=["merchant", "-id"], name="audit_event_by_merchant"),
            # The trail of one object (link from its page).
            models.Index(fields=["object_type", "object_id", "-id"], name="audit_event_by_object"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.object_label or self.object_id}"


class Severity(models.TextChoices):
    """How grave it is, the gravest last."""

    INFO = "info", "For your information"
    WARNING = "warning", "Warning: look at it today"
    CRITICAL = "critical", "Critical: look at it now"


class NoticeKind(models.TextChoices):
    """What a notice is about, for those who want to hear of some things only."""

    STOCK = "stock", "Stock: shortages, low stock, reordering"
    SYNC = "sync", "Sync: delays, dead letters, numbers that are wrong"
    CHANNELS = "channels", "Channels: outages, permissions, subscriptions"
    MACHINE = "machine", "The installation: workers, schedule, databases"


class TargetWay(models.TextChoices):
    """How a target is told."""

    EMAIL = "email", "E-mail"
    SLACK = "slack", "Slack, or whatever takes its incoming webhooks"
    WEBHOOK = "webhook", "Signed webhook (Standard Webhooks)"


class TargetState(models.TextChoices):
    """Whether a target is told of anything."""

    ACTIVE = "active"
    OFF = "off", "Switched off"
    GONE = "gone", "Switched off: it said that it is gone"


class NotificationTarget(models.Model):
    """Who is told when something is wrong: an address of the merchant's, or one of its members by e-mail.

    Written by `merchants.targets` and, while it is told, by `merchants.notices`. Addresses that are secrets are sealed.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="notification_targets")
    name = models.CharField(max_length=80)
    way = models.CharField(max_length=10, choices=TargetWay.choices)
    member = models.ForeignKey(
        Member,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="notification_targets",
        db_constraint=False,
        help_text="This person, at the e-mail address they sign in with.",
    )
    address = models.CharField(
        max_length=500, blank=True, help_text="Shown to people; of a Slack address its host only."
    )
    sealed_address = models.TextField(blank=True, editable=False)
    sealed_secret = models.TextField(blank=True, editable=False)
    state = models.CharField(
        max_length=10, choices=TargetState.choices, default=TargetState.ACTIVE, db_default=TargetState.ACTIVE
    )
    state_reason = models.CharField(max_length=300, blank=True)
    minimum_severity = models.CharField(
        "tell from", max_length=10, choices=Severity.choices, default=Severity.WARNING, db_default=Severity.WARNING
    )
    kinds = ArrayField(models.CharField(max_length=10, choices=NoticeKind.choices), verbose_name="about")
    quiet_from = models.TimeField(
        null=True, blank=True, help_text="From here to the end of the quiet hours only critical alerts are told of."
    )
    quiet_until = models.TimeField("quiet until", null=True, blank=True, help_text="By the merchant's clock.")
    hourly_max = models.PositiveSmallIntegerField(
        "messages an hour at most",
        default=12,
        db_default=12,
        help_text="The rest waits and comes together in the next one. A critical alert is told at once, once.",
    )
    failures = models.PositiveIntegerField("failures in a row", default=0, db_default=0, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    next_attempt_at = models.DateTimeField(db_default=Now(), editable=False)
    lease = models.UUIDField(null=True, editable=False)
    last_delivered_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            tenant_identity("notification_target"),
            SameMerchant(field="member", name="notification_target_member_of_merchant"),
            models.UniqueConstraint(fields=["merchant", "name"], name="notification_target_name_once"),
            models.UniqueConstraint(fields=["member"], name="notification_target_once_per_member"),
            in_choices("notification_target_way_known", "way", TargetWay),
            in_choices("notification_target_state_known", "state", TargetState),
            in_choices("notification_target_severity_known", "minimum_severity", Severity),
            models.CheckConstraint(
                condition=Q(kinds__contained_by=NoticeKind.values) & Q(kinds__len__gt=0),
                name="notification_target_kinds_known",
            ),
            models.CheckConstraint(
                condition=Q(member__isnull=True) | Q(way="email"), name="notification_target_member_by_email"
            ),
            models.CheckConstraint(
                condition=Q(quiet_from__isnull=True, quiet_until__isnull=True)
                | Q(quiet_from__isnull=False, quiet_until__isnull=False),
                name="notification_target_quiet_hours_whole",
            ),
            models.CheckConstraint(condition=Q(hourly_max__gt=0), name="notification_target_hourly_max_positive"),
        ]
        indexes = [
            # Targets whose turn it is.
            models.Index(fields=["next_attempt_at"], condition=Q(state="active"), name="notification_target_due"),
            # Targets that do not take what they are told (board, alerts).
            models.Index(
                fields=["merchant"], condition=Q(failing_since__isnull=False), name="notification_target_failing"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class MessageState(models.TextChoices):
    """A message is on its way, taken, or was given up."""

    OPEN = "open", "On its way"
    SENT = "sent"
    FAILED = "failed", "Given up: what came after it is told in its place"


class NotificationMessage(models.Model):
    """What one target is sent at once: committed before it is sent, and sent with the same id until it is taken."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    target = models.ForeignKey(
        NotificationTarget, on_delete=models.CASCADE, related_name="messages", db_constraint=False, db_index=False
    )
    message_id = models.CharField(max_length=60, unique=True)
    subject = models.CharField(max_length=200)
    #: What is told, as data: each way makes its own words of it.
    content = models.JSONField()
    severity = models.CharField(max_length=10, choices=Severity.choices)
    is_test = models.BooleanField(default=False, db_default=False)
    state = models.CharField(
        max_length=10, choices=MessageState.choices, default=MessageState.OPEN, db_default=MessageState.OPEN
    )
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    #: The latest attempts: when, what was answered, how many seconds it took.
    log = models.JSONField("attempts", default=list, db_default=[])
    answer = models.CharField("latest answer", max_length=300, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            tenant_identity("notification_message"),
            SameMerchant(field="target", name="notification_message_target_of_merchant"),
            models.UniqueConstraint(
                fields=["target"], condition=Q(state="open", is_test=False), name="notification_message_one_open"
            ),
            in_choices("notification_message_state_known", "state", MessageState),
            in_choices("notification_message_severity_known", "severity", Severity),
            models.CheckConstraint(
                condition=Q(state="open", settled_at__isnull=True) | (~Q(state="open") & Q(settled_at__isnull=False)),
                name="notification_message_settled_exactly_when_dated",
            ),
        ]
        indexes = [
            # Those of one target, newest first (its page, its hour); those of one merchant (admin list); the old ones.
            models.Index(fields=["target", "-id"], name="notification_message_by_target"),
            models.Index(fields=["merchant", "-id"], name="notification_message_newest"),
            models.Index(fields=["created_at"], condition=~Q(state="open"), name="notification_message_by_age"),
        ]

    def __str__(self) -> str:
        return self.message_id


class Notification(models.Model):
    """One thing to tell one target, written in the transaction of what it tells of; several share a message."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    target = models.ForeignKey(
        NotificationTarget, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    message = models.ForeignKey(
        NotificationMessage,
        on_delete=models.CASCADE,
        null=True,
        related_name="notifications",
        db_constraint=False,
        db_index=False,
    )
    #: What makes it the same thing when it is told a second time.
    key = models.CharField(max_length=120)
    severity = models.CharField(max_length=10, choices=Severity.choices)
    is_recovery = models.BooleanField(default=False, db_default=False)
    title = models.CharField(max_length=200)
    text = models.TextField(blank=True)
    path = models.CharField(max_length=200, blank=True, help_text="The page of ours that shows it.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            SameMerchant(field="target", name="notification_target_of_merchant"),
            SameMerchant(field="message", name="notification_message_of_merchant"),
            models.UniqueConstraint(fields=["target", "key"], name="notification_once_per_target"),
            in_choices("notification_severity_known", "severity", Severity),
        ]
        indexes = [
            # What a target has not been told yet.
            models.Index(fields=["target", "id"], condition=Q(message__isnull=True), name="notification_waiting"),
            # What a message tells (its page, deletion).
            models.Index(fields=["message"], condition=Q(message__isnull=False), name="notification_by_message"),
        ]

    def __str__(self) -> str:
        return self.title
