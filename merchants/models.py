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
