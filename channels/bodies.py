"""The bodies of events: compressed, sealed, and apart from their rows, by the day on which they came.

Apart, because a row is written again whenever its event is claimed and settled, and its body never is; by the day, because
what is too old then goes with its day's partition, at no cost for each body. What stays of an event is its row, with the
SHA-256 of what was sent.

A body is bound to its channel: moved to another one's row it does not open.

Invariant: a body is stored in the statement that stores its event; a body that waits to be applied outlives its day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, LiteralString

import structlog
from django.conf import settings
from django.db import connection, transaction

from channels.credentials import key_ring
from channels.models import InboxEvent
from synctec.lib import sql
from synctec.lib.compression import compress, decompress
from synctec.lib.crypto import CryptoError

log = structlog.get_logger(__name__)

#: Partitions are made so many days ahead; a body that meets none is kept in the one for all other days.
DAYS_AHEAD: Final = 7
#: Bodies carried along with one statement, and deleted likewise where they share a partition.
BATCH: Final = 2_000
#: Who wants to drop a partition must wait for the statements on it; meanwhile, others wait behind. So it gives up soon.
_GIVE_UP_SOON: Final = "SET LOCAL lock_timeout = '500ms'"
#: One maintainer at a time.
_MAINTENANCE_LOCK: Final = 7005


class Unreadable(Exception):
    """A body that nobody can look at; the text says why."""


_STORE: LiteralString = """
    INSERT INTO channels_inboxbody (merchant_id, event_id, kept_on, sealed)
    SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::date[], %s::bytea[])
"""


def seal(raw: bytes, *, channel_id: int) -> bytes:
    """A body as it is stored."""
    return key_ring().seal_bytes(compress(raw), bound_to=_place(channel_id))


def unseal(sealed: bytes, *, channel_id: int) -> bytes:
    """The body that `seal` was given. Raises CryptoError: its key is gone, or it was tampered with."""
    return decompress(key_ring().open_bytes(sealed, bound_to=_place(channel_id)))


def _place(channel_id: int) -> str:
    return f"channels_inboxbody:{channel_id}"


def day_of(received_at: datetime) -> date:
    """The day that a body is kept by: in UTC, the same all over the world."""
    return received_at.astimezone(UTC).date()


def keep(events: Sequence[InboxEvent], raw: Sequence[bytes]) -> None:
    """Store the bodies of events that were not stored by `channels.inbox`."""
    sql.execute(
        _STORE,
        [
            [event.merchant_id for event in events],
            [event.pk for event in events],
            [event.body_kept_on for event in events],
            [seal(body, channel_id=event.channel_id) for event, body in zip(events, raw, strict=True)],
        ],
    )


def sealed(kept_on: Mapping[int, date]) -> dict[int, bytes]:
    """The bodies of these events, as they are stored; those that are not kept any more are left out."""
    if not kept_on:
        return {}
    found = sql.rows(
        "SELECT event_id, sealed FROM channels_inboxbody WHERE kept_on = ANY(%s::date[]) AND event_id = ANY(%s::bigint[])",
        [sorted(set(kept_on.values())), list(kept_on)],
        binary=True,
    )
    return {event_id: bytes(body) for event_id, body in found}


def read(event: InboxEvent) -> bytes:
    """What was sent. Raises Unreadable."""
    found = sealed({event.pk: event.body_kept_on})
    if not found:
        raise Unreadable(f"not kept any more: bodies are, for {settings.INBOX_BODY_DAYS} days")
    try:
        return unseal(found[event.pk], channel_id=event.channel_id)
    except CryptoError as error:
        raise Unreadable(str(error)) from None


# --- time -------------------------------------------------------------------------------------------------------


def make_room(today: date) -> int:
    """Make the partitions of today and the days to come; returns how many were missing."""
    made = 0
    with transaction.atomic():
        if not _is_ours():
            return 0
        known = set(_partitions())
        for day in (today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)):
            if day in known or _has_strays(day):
                continue  # a partition cannot be put where others hold its rows; those stay where they are
            # Made beside and attached, which keeps nobody from writing; made as a part, it would.
            bounds = f"FROM ('{day}') TO ('{day + timedelta(days=1)}')"
            _change(f"CREATE TABLE {_name(day)} (LIKE channels_inboxbody INCLUDING ALL)")
            _change(f"ALTER TABLE channels_inboxbody ATTACH PARTITION {_name(day)} FOR VALUES {bounds}")
            made += 1
    return made


def forget(*, before: date, today: date) -> int:
    """Drop the bodies of the days before; returns how many days. Those of events that wait to be applied, or to be mended,
    are carried along to today.
    """
    dropped = 0
    for day in sorted(day for day in _partitions() if day < before):
        with transaction.atomic():
            if not _is_ours():
                return dropped
            _carry_along(day, today)
            _change(_GIVE_UP_SOON)
            _change(f"DROP TABLE {_name(day)}")
        dropped += 1
        log.info("bodies.forgotten", day=day.isoformat())
    strays = sql.rows("SELECT DISTINCT kept_on FROM channels_inboxbody_other WHERE kept_on < %s", [before])
    for (day,) in strays:
        with transaction.atomic():
            if not _is_ours():
                return dropped
            _carry_along(day, today)
            while sql.execute(
                """
                DELETE FROM channels_inboxbody_other WHERE event_id = ANY(ARRAY(
                    SELECT event_id FROM channels_inboxbody_other WHERE kept_on = %s LIMIT %s)) AND kept_on = %s
                """,
                [day, BATCH, day],
            ):
                pass
        dropped += 1
    return dropped


def _carry_along(day: date, today: date) -> None:
    """Move the bodies of a day to today that may still be needed. Few by nature: somebody is to see to each of them."""
    sql.execute(
        """
        WITH waiting AS (
            SELECT event.id FROM channels_inboxbody body JOIN channels_inboxevent event ON event.id = body.event_id
            WHERE body.kept_on = %s AND event.body_kept_on = body.kept_on
                AND (event.state IN ('pending', 'dead') OR (event.state = 'ignored' AND event.reason LIKE 'unmapped %%'))
            ORDER BY event.id FOR NO KEY UPDATE OF event
        ), moved AS (
            UPDATE channels_inboxevent event SET body_kept_on = %s FROM waiting WHERE event.id = waiting.id RETURNING event.id
        )
        INSERT INTO channels_inboxbody (merchant_id, event_id, kept_on, sealed)
        SELECT body.merchant_id, body.event_id, %s, body.sealed FROM moved
        JOIN channels_inboxbody body ON body.event_id = moved.id AND body.kept_on = %s
        """,
        [day, today, today, day],
    )


def _partitions() -> list[date]:
    return [
        datetime.strptime(name.rsplit("_", 1)[1], "%Y%m%d").date()  # noqa: DTZ007  # a day has no zone
        for (name,) in sql.rows(
            """
            SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
            WHERE inhparent = 'channels_inboxbody'::regclass AND child.relname ~ '_[0-9]{8}$'
            """
        )
    ]


def _has_strays(day: date) -> bool:
    return bool(sql.rows("SELECT 1 FROM channels_inboxbody_other WHERE kept_on = %s LIMIT 1", [day]))


def _name(day: date) -> str:
    return f"channels_inboxbody_{day:%Y%m%d}"


def _change(statement: str) -> None:
    """A change of tables, whose names and bounds cannot be parameters: they are made of days alone."""
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _is_ours() -> bool:
    [(is_ours,)] = sql.rows("SELECT pg_try_advisory_xact_lock(%s)", [_MAINTENANCE_LOCK])
    return bool(is_ours)
