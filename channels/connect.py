"""From a channel's row to what speaks for it: its connector, its reader of events, its webhook address."""

from __future__ import annotations

import threading
import time
from functools import cache

import redis
from django.conf import settings
from django.urls import reverse
from redis.backoff import NoBackoff
from redis.retry import Retry

from channels import calls, credentials, gate, origins, pacing, protocol
from channels.connectors import REGISTRY
from channels.models import Channel
from synctec.lib.breaker import Standing
from synctec.lib.bucket import BucketState
from synctec.lib.secret import Secret

#: How long a process remembers a channel's token before it looks whether another one is stored.
TOKEN_SECONDS = 5.0


def reader_for(kind: str) -> protocol.EventReader:
    """Who understands what channels of this kind send. Raises KeyError for a kind there is no connector
    for.
    """
    return REGISTRY[kind].reader


def connector_for(channel: Channel) -> protocol.Connector:
    """A connector to the channel, for one task in one thread. Cheap: session, pacer and token are shared.

    It writes nothing to a channel in shadow mode, whoever asks it to.

    Raises:
        origins.SandboxOff: a sandbox store without a sandbox.
    """
    connector = REGISTRY[channel.kind].connect(
        account=channel.account,
        base_url=origins.base_url(channel),
        token=TokenSource(channel),
        session=origins.session_for(channel),
        pacer=pacing.pacer_for(_redis(), channel_id=channel.pk, count=calls.counting_for(channel.pk)),
        downloads=origins.downloads_for(channel),
    )
    return gate.gated(connector, channel_id=channel.pk)


def callback_url(channel: Channel) -> str:
    """Where the channel delivers its webhooks."""
    return settings.PUBLIC_URL + reverse("webhook", kwargs={"kind": channel.kind, "token": channel.webhook_token})


def budget_of(channel: Channel) -> BucketState:
    """What is left of the channel's budget now. Raises redis.RedisError when Redis is away."""
    return pacing.bucket_for(_redis(), channel_id=channel.pk).peek()


def standing_of(channel: Channel) -> Standing:
    """Whether calls to the channel are admitted now. Raises redis.RedisError when Redis is away."""
    return pacing.breaker_for(_redis(), channel_id=channel.pk).peek()


@cache
def _redis() -> redis.Redis:
    # No retries: with Redis away a push waits for the sweep, not in a worker.
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
    )


class TokenSource:
    """Gives a connector its token: `source(False)` one that should do, `source(True)` after that one was
    refused.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._given: Secret | None = None

    def __call__(self, force_refresh: bool) -> Secret:
        """Raises what `credentials.access_token` raises."""
        refused = self._given if force_refresh else None
        token = None if force_refresh else _remembered(self._channel.pk)
        if token is None:
            token = credentials.access_token(self._channel, refused=refused)
            _remember(self._channel.pk, token)
        self._given = token
        return token


_tokens: dict[int, tuple[Secret, float]] = {}
_tokens_lock = threading.Lock()


def _remembered(channel_id: int) -> Secret | None:
    with _tokens_lock:
        token, until = _tokens.get(channel_id, (None, 0.0))
    return token if time.monotonic() < until else None


def _remember(channel_id: int, token: Secret) -> None:
    with _tokens_lock:
        _tokens[channel_id] = (token, time.monotonic() + TOKEN_SECONDS)


def forget_tokens() -> None:
    """Look up every token anew from now on (tests)."""
    with _tokens_lock:
        _tokens.clear()
