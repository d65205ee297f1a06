"""Doing a thing once, however often it is asked for: the answer is remembered in the transaction of the deed.

So there is no state "begun" that a crash could leave behind: either both are committed, and a repetition gets the same
bytes, or neither is, and a repetition starts anew. Two at the same moment are kept apart by an advisory lock that ends
with its transaction, whatever ends that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from merchants.models import RememberedAnswer
from synctec.lib import sql

#: How long answers are remembered at least; a client gives up long before.
REMEMBERED_FOR = timedelta(days=3)
_PRUNED_AT_ONCE = 5_000


class InFlight(Exception):
    """The same request is being carried out at this moment."""


class AnotherRequest(Exception):
    """The key was used for a request with another content."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and the bytes that go with it."""

    status: int
    body: str
    is_replay: bool = False


@transaction.atomic
def once(*, merchant_id: int, key: str, request: str, act: Callable[[], Answer]) -> Answer:
    """Carry out `act` unless a request with this key was answered before; `request` is its content, canonical.

    What `act` raises undoes everything and is not remembered: nothing happened, so it may be tried again.

    Raises:
        InFlight: come back in a moment with the same key.
        AnotherRequest: use a new key.
    """
    fingerprint = hashlib.sha256(request.encode()).digest()
    name = f"idempotency:{merchant_id}:{key}"
    if not sql.rows("SELECT pg_try_advisory_xact_lock(hashtextextended(%s::text, 0))", [name])[0][0]:
        raise InFlight
    remembered = RememberedAnswer.objects.filter(merchant_id=merchant_id, key=key).first()
    if remembered is not None:
        if bytes(remembered.request_sha256) != fingerprint:
            raise AnotherRequest
        return Answer(remembered.status, remembered.body, is_replay=True)
    answer = act()
    RememberedAnswer.objects.create(
        merchant_id=merchant_id, key=key, request_sha256=fingerprint, status=answer.status, body=answer.body
    )
    return answer


def forget_old(*, now: datetime) -> int:
    """Delete answers that were remembered long enough, so many at a time; returns how many."""
    return sql.execute(
        """
        DELETE FROM merchants_rememberedanswer WHERE id IN (
            SELECT id FROM merchants_rememberedanswer WHERE created_at < %s ORDER BY created_at LIMIT %s
            FOR UPDATE SKIP LOCKED)
        """,
        [now - REMEMBERED_FOR, _PRUNED_AT_ONCE],
    )
