"""The schedule of django_celery_beat, which also says that it makes progress: when it last handed a message to the broker."""

from __future__ import annotations

import time
from typing import Any, Final

import structlog
from django.db import DatabaseError, InterfaceError, connection
from django_celery_beat.schedulers import DatabaseScheduler

from synctec.lib import sql

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 5.0


class Scheduler(DatabaseScheduler):  # type: ignore[misc]  # the package has no types
    """Writes the heartbeat `beat`. A broker that takes no message, or a beat that stands still, leaves it to grow old."""

    _noted_at = 0.0

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        result = super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        if time.monotonic() - self._noted_at >= EVERY_SECONDS:
            self._noted_at = time.monotonic()
            note_progress()
        return result


def note_progress() -> None:
    """Write the heartbeat. Never raises: beat goes on without a database, as far as it can."""
    try:
        sql.execute(
            """
            INSERT INTO sync_heartbeat (name, beat_at) VALUES ('beat', clock_timestamp())
            ON CONFLICT (name) DO UPDATE SET beat_at = excluded.beat_at
            """
        )
    except (DatabaseError, InterfaceError) as error:
        log.warning("beat.not_noted", error=type(error).__name__)
        connection.close()
