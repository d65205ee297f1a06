"""Posting to addresses that merchants type in: guarded, within a time limit, signed after Standard Webhooks where asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from django.conf import settings

from synctec.lib.http import AddressRefused, AddressRule, GuardedSession, HttpError, Limits
from synctec.lib.secret import Secret
from synctec.lib.signing import sign_webhook

_RETRY_AFTER_MAX: Final = timedelta(hours=24)
_LIMITS: Final = Limits(read_timeout_seconds=15.0, deadline_seconds=20.0, max_response_bytes=65_536)


class PostRefused(ValueError):
    """An address that nothing is posted to; the text says why."""


@dataclass(frozen=True, slots=True)
class PostAnswer:
    """What came of it: whether it was taken, in a few words, and what the receiver asks for."""

    is_acknowledged: bool
    says: str
    is_gone: bool = False
    retry_after: timedelta = timedelta(0)


def check_url(url: str) -> None:
    """Raises PostRefused for an address that is neither public https nor an origin the operator named."""
    try:
        _rule().judge(url)
    except AddressRefused as refused:
        raise PostRefused(f"{refused}. Give an address that begins with https:// and a public host name.") from None


def post(url: str, body: bytes, *, headers: Mapping[str, str], now: datetime) -> PostAnswer:
    """POST JSON. Whatever goes wrong is an answer; no answer takes longer than 20 seconds."""
    try:
        response = _session(tuple(settings.WEBHOOK_PRIVATE_ORIGINS)).post(
            url, data=body, headers={"Content-Type": "application/json", **headers}
        )
    except HttpError as error:
        return PostAnswer(False, str(error))
    return PostAnswer(
        HTTPStatus.OK <= response.status_code < HTTPStatus.MULTIPLE_CHOICES,
        f"answered {response.status_code}",
        is_gone=response.status_code == HTTPStatus.GONE,
        retry_after=retry_after(response.headers.get("Retry-After", ""), now),
    )


def post_signed(url: str, body: bytes, *, message_id: str, secrets: Sequence[Secret], now: datetime) -> PostAnswer:
    """POST JSON signed after Standard Webhooks 1.0; the same message has the same id whenever it is sent."""
    timestamp = int(now.timestamp())
    signature = sign_webhook(message_id=message_id, timestamp=timestamp, body=body, keys=secrets)
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}
    return post(url, body, headers=headers, now=now)


def retry_after(header: str, now: datetime) -> timedelta:
    """How long an answer asks to be left alone (RFC 9110 10.2.3): seconds or a date, a day at most; 0 for anything else."""
    wait = timedelta(0)
    if header.strip().isdecimal():
        wait = timedelta(seconds=min(int(header.strip()[:10]), _RETRY_AFTER_MAX.total_seconds()))
    elif header:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return wait
        wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), _RETRY_AFTER_MAX)


def _rule() -> AddressRule:
    rule = AddressRule.public_https()
    for origin in settings.WEBHOOK_PRIVATE_ORIGINS:
        rule |= AddressRule.exact_origin(origin)
    return rule


@lru_cache(maxsize=2)
def _session(private_origins: tuple[str, ...]) -> GuardedSession:
    return GuardedSession(_rule(), limits=_LIMITS)
