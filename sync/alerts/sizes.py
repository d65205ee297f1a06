"""How large everything is that grows, sampled every few minutes: what growth is measured by."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from sync.alerts.questions import Observed
from sync.models import SizeSample
from synctec.lib import sql

EVERY: Final = timedelta(minutes=5)
KEPT_FOR: Final = timedelta(days=8)
#: Counts go no further.
_COUNTED_MAX: Final = 200_000


def sample(now: datetime, observed: Observed) -> SizeSample | None:
    """Take a sample, if its time has come."""
    latest = SizeSample.objects.order_by("-taken_at").values_list("taken_at", flat=True).first()
    if latest is not None and now - latest < EVERY:
        return None
    [(database, inbox, outbox)] = sql.rows(
        """
        SELECT pg_database_size(current_database()),
            (SELECT count(*) FROM (SELECT 1 FROM channels_inboxevent WHERE state = 'pending' LIMIT %s) waiting),
            (SELECT count(*) FROM (SELECT 1 FROM channels_listinglevel WHERE is_out_of_sync LIMIT %s) waiting)
                + (SELECT count(*) FROM (SELECT 1 FROM sync_dirtysku LIMIT %s) waiting)
        """,
        [_COUNTED_MAX, _COUNTED_MAX, _COUNTED_MAX],
    )
    taken, _ = SizeSample.objects.get_or_create(
        taken_at=now,
        defaults={
            "database_bytes": database,
            "inbox_waiting": inbox,
            "outbox_waiting": outbox,
            "redis_bytes": observed.redis_bytes,
            "redis_bytes_max": observed.redis_bytes_max,
        },
    )
    SizeSample.objects.filter(taken_at__lt=now - KEPT_FOR).delete()
    return taken


def redis_memory() -> tuple[int | None, int | None]:
    """What Redis uses, and its limit (0: none of its own); unknown where it does not say."""
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
    )
    try:
        said = client.info("memory")
        return int(said["used_memory"]), int(said.get("maxmemory", 0))
    except (redis.RedisError, KeyError, ValueError, TypeError):
        return None, None
    finally:
        client.close()
