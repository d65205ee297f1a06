"""Writing the audit trail: the one way an `AuditEvent` comes to be."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.db import models

from merchants.models import ActorKind, ApiKey, AuditEvent, User


def record(
    *,
    merchant_id: int,
    action: str,
    subject: models.Model,
    user: User | None = None,
    api_key: ApiKey | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
    correlation_id: uuid.UUID | None = None,
) -> AuditEvent:
    """Append one event in the caller's transaction, so that the deed and its record stand or fall together.

    Without a user or an API key the actor is the system itself. Values must be JSON; secrets never belong in them.
    """
    return AuditEvent.objects.create(
        merchant_id=merchant_id,
        actor_kind=ActorKind.USER if user else ActorKind.API if api_key else ActorKind.SYSTEM,
        user=user,
        api_key=api_key,
        action=action,
        object_type=subject._meta.label_lower,
        object_id=str(subject.pk),
        object_label=str(subject)[:200],
        before=dict(before or {}),
        after=dict(after or {}),
        reason=reason,
        correlation_id=correlation_id,
    )
