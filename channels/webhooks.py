"""Where channels deliver their webhooks: verify, store, commit, and only then answer 200.

| answer | when |
|---|---|
| 200 | stored and committed now, or earlier (a duplicate) |
| 400 | signed, but a header that must be there is missing or absurd; or the body broke off |
| 401 | not signed by this channel's secret, or sent in the name of another account; nothing is stored |
| 404 | no such address |
| 405 | not a POST |
| 413 | more than `BODY_BYTES_MAX` |
| 503 | the database is away, or our keys are, or too many deliver at once: the channel shall try again |

Never 500, whatever the bytes are, since a channel that sees errors gives up its subscription. Nothing is
parsed before the signature is proved, and nothing of the body after it either.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from channels import connect, credentials, inbox, protocol
from channels.models import Channel, ChannelKind
from synctec.lib import metrics, sql, tracing
from synctec.lib.combiner import NotDone
from synctec.lib.failpoints import failpoint

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 5 * 1024 * 1024
RETRY_AFTER_SECONDS = 10

#: How long a channel's account and (sealed) secrets are remembered in this process.
DOOR_SECONDS = 5.0
#: A secret that does not fit is looked up again when it was read longer ago than this: a rotation works at
#: once.
DOOR_DOUBT_SECONDS = 1.0
DOORS_MAX = 10_000
#: After the database was found away, requests are turned back at once for this long instead of piling up
#: behind it.
AWAY_SECONDS = 0.5
#: At most one log line per channel in this time tells of refused deliveries, with their number.
REFUSAL_LOG_SECONDS = 10.0

_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,40}")


@dataclass(frozen=True, slots=True)
class Door:
    """What must be known of a channel to judge what is delivered at its address."""

    channel_id: int
    merchant_id: int
    kind: str
    account: str
    secrets: credentials.SealedSecrets
    read_at: float


class Refusal(Exception):
    """A delivery that is not accepted: the status and the words of the answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@csrf_exempt
def deliver(request: HttpRequest, kind: str, token: str) -> HttpResponse:
    """`POST /webhooks/<kind>/<token>/`: one delivery of one channel.

    A plain view: sender and body are known by the signature alone, so there is nothing to negotiate, parse or permit.
    """
    began_at = time.time()
    response = _deliver(request, kind=kind, token=token)
    known = kind if kind in ChannelKind.values else "unknown"
    metrics.webhooks.labels(known, str(response.status_code)).inc()
    if tracing.is_on():
        about = structlog.contextvars.get_contextvars()
        story = about.get("correlation_id")
        tracing.record(
            "webhook",
            began_at=began_at,
            correlation_ids=[uuid.UUID(story)] if story else [],
            is_error=response.status_code >= 500,
            attributes={
                "status": response.status_code,
                **{name: about[name] for name in ("merchant_id", "channel_id") if name in about},
            },
        )
    return response


def _deliver(request: HttpRequest, *, kind: str, token: str) -> HttpResponse:
    if request.method != "POST":
        response = _answer(405, "Deliveries are POSTed.")
        response["Allow"] = "POST"
        return response
    if _is_database_away():
        return _try_later()
    try:
        return _accept(request, kind=kind, token=token)
    except Refusal as refusal:
        return _answer(refusal.status, refusal.detail)
    except DataError:
        # What the checks let pass and PostgreSQL cannot hold; it would fail the same way for ever.
        log.exception("webhook.not_storable", kind=kind)
        return _answer(400, "The delivery holds a value that cannot be stored.")
    except IntegrityError:
        # The channel was deleted since it was looked up.
        _doors.forget(token)
        return _answer(404, "No such webhook address.")
    except credentials.CredentialError:
        log.exception("webhook.secret_not_readable", kind=kind)
        return _try_later("its secrets cannot be read")
    except NotDone as error:
        log.warning("webhook.not_stored_in_time", kind=kind, error=type(error).__name__)
        return _try_later("too much is waiting, or what it shared a commit with failed")
    except (DatabaseError, InterfaceError) as error:
        _note_database_away()
        log.warning("webhook.database_away", kind=kind, error=type(error).__name__)
        return _try_later()


def _accept(request: HttpRequest, *, kind: str, token: str) -> HttpResponse:
    """The way of one delivery, in this order: address, size, signature, envelope, account, storage.

    Raises:
        Refusal: with the answer to give.
        django.db.Error: nothing is known to be stored.
    """
    door = _doors.at(kind=kind, token=token)
    structlog.contextvars.bind_contextvars(merchant_id=door.merchant_id, channel_id=door.channel_id)
    body = _read_body(request)
    headers = _Headers(request)
    door = _authenticated(door, token=token, headers=headers, body=body)
    delivery = _envelope(connect.reader_for(door.kind), headers)
    if delivery.account.casefold() != door.account.casefold():
        _log_refusal(door, "account")
        raise Refusal(401, "This address belongs to another account than the one the delivery names.")
    failpoint("webhook.before_insert")
    receipt = inbox.receive(
        channel_id=door.channel_id,
        merchant_id=door.merchant_id,
        delivery=delivery,
        body=body,
        now=timezone.now(),
    )
    structlog.contextvars.bind_contextvars(correlation_id=str(receipt.correlation_id))
    log.debug("webhook.stored", topic=delivery.topic, event_id=receipt.event_id, is_duplicate=receipt.is_duplicate)
    return HttpResponse(b"{}", content_type="application/json")


def _read_body(request: HttpRequest) -> bytes:
    """The raw bytes, read once; `request.body` would refuse above another limit, and in another way.

    Raises:
        Refusal: 413, before reading when the sender says how much is coming; 400 when it broke off.
    """
    too_large = Refusal(413, f"A delivery may have {BODY_BYTES_MAX} bytes at most.")
    declared = request.META.get("CONTENT_LENGTH") or ""
    if declared.isdecimal() and (len(declared) > 12 or int(declared) > BODY_BYTES_MAX):
        raise too_large
    # Django reads nothing when the length is not declared (chunked); the server's own stream knows where it
    # ends.
    is_chunked = not declared and "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower()
    stream = request.META["wsgi.input"] if is_chunked else request
    failpoint("webhook.before_body")
    try:
        body: bytes = stream.read(BODY_BYTES_MAX + 1)
    except OSError:
        raise Refusal(400, "The body broke off.") from None
    if len(body) > BODY_BYTES_MAX:
        raise too_large
    return body


class _Headers(Mapping[str, str]):
    """The request's headers by their names in lower case, looked up where the server put them.

    A connector asks for a dozen; turning all names around, those of the environment among them, costs more than the rest
    of a delivery.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._meta = request.META

    def __getitem__(self, name: str) -> str:
        value: str = self._meta["HTTP_" + name.replace("-", "_").upper()]
        return value

    def __iter__(self) -> Iterator[str]:
        return (name[5:].replace("_", "-").lower() for name in self._meta if name[:5] == "HTTP_")

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _authenticated(door: Door, *, token: str, headers: Mapping[str, str], body: bytes) -> Door:
    """The door, read anew when its secrets may have been changed since.

    Raises:
        Refusal: 401, no secret of the channel signs these bytes.
    """
    reader = connect.reader_for(door.kind)
    if reader.authenticate(headers=headers, body=body, secrets=door.secrets.open()):
        return door
    if time.monotonic() - door.read_at > DOOR_DOUBT_SECONDS:
        door = _doors.read(kind=door.kind, token=token)
        if reader.authenticate(headers=headers, body=body, secrets=door.secrets.open()):
            return door
    _log_refusal(door, "signature")
    raise Refusal(401, "The signature does not fit the body. Sign the raw bytes with the channel's client secret.")


def _envelope(reader: protocol.EventReader, headers: Mapping[str, str]) -> protocol.Delivery:
    """The delivery's envelope, each value such that it can be stored.

    The topic and the id make the delivery's identity and are refused when they cannot be kept whole; the rest
    is only information and is cut to size.

    Raises:
        Refusal: 400, naming the header.
    """
    try:
        delivery = reader.read_delivery(headers)
    except protocol.MalformedEvent as error:
        raise Refusal(400, str(error)) from None
    for what, value, length_max in (("topic", delivery.topic, 80), ("webhook id", delivery.webhook_id, 160)):
        if not value or len(value) > length_max or not value.isprintable():
            raise Refusal(400, f"The {what} header must have 1 to {length_max} printable characters.")
    event_id, api_version = _printable(delivery.event_id, 160), _printable(delivery.api_version, 20)
    triggered_at = _sensible(delivery.triggered_at)
    if (event_id, api_version, triggered_at) == (delivery.event_id, delivery.api_version, delivery.triggered_at):
        return delivery
    return replace(delivery, event_id=event_id, api_version=api_version, triggered_at=triggered_at)


def _printable(text: str, length_max: int) -> str:
    text = text[:length_max]
    return text if text.isprintable() else "".join(character for character in text if character.isprintable())


def _sensible(moment: datetime | None) -> datetime | None:
    """The moment, unless it lacks a time zone or lies before there were webhooks. The inbox flags one in the future."""
    return None if moment is None or moment.tzinfo is None or moment.year < 2000 else moment


# --- who lives at an address --------------------------------------------------------------------------------


class _Doors:
    """The doors asked for lately, by token, shared by the threads of this process. Only existing ones are
    kept.
    """

    def __init__(self) -> None:
        self._known: dict[str, Door] = {}

    def at(self, *, kind: str, token: str) -> Door:
        """The door, remembered or read. Raises Refusal (404)."""
        door = self._known.get(token)
        if door is None or door.kind != kind or time.monotonic() - door.read_at > DOOR_SECONDS:
            door = self.read(kind=kind, token=token)
        return door

    def read(self, *, kind: str, token: str) -> Door:
        """The door as it is in the database now. Raises Refusal (404)."""
        channel = None
        if kind in ChannelKind.values and _TOKEN.fullmatch(token):
            channel = Channel.objects.select_related("credential").filter(webhook_token=token, kind=kind).first()
        if channel is None:
            self.forget(token)
            raise Refusal(404, "No such webhook address.")
        # Before the delivery waits for its turn to be stored: whoever stores must find a connection in the pool.
        sql.give_back()
        door = Door(
            channel_id=channel.pk,
            merchant_id=channel.merchant_id,
            kind=channel.kind,
            account=channel.account,
            secrets=credentials.sealed_webhook_secrets(channel),
            read_at=time.monotonic(),
        )
        if len(self._known) >= DOORS_MAX:
            self._known.clear()
        self._known[token] = door
        return door

    def forget(self, token: str) -> None:
        self._known.pop(token, None)

    def forget_all(self) -> None:
        self._known.clear()


_doors = _Doors()


def forget_everything() -> None:
    """Forget what this process remembers of channels and of the database (tests)."""
    global _away_until
    _doors.forget_all()
    _refusals.clear()
    _away_until = 0.0


# --- the database, when it is away --------------------------------------------------------------------------

_away_until = 0.0


def _note_database_away() -> None:
    """Remember it if no connection could be had. A broken one, or a timeout, says nothing about the next
    request.
    """
    global _away_until
    if connection.connection is None:
        _away_until = time.monotonic() + AWAY_SECONDS


def _is_database_away() -> bool:
    return time.monotonic() < _away_until


def _try_later(why: str = "the database is away") -> HttpResponse:
    response = _answer(503, f"Not stored: {why}. Deliver it again.")
    response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def _answer(status: int, detail: str) -> HttpResponse:
    """An answer other than 200. Django would log each with its path, and so the address's secret token."""
    response = JsonResponse({"detail": detail}, status=status)
    response._has_been_logged = True  # type: ignore[attr-defined]  # read by django.utils.log.log_response
    return response


# --- what is refused, in a few lines ------------------------------------------------------------------------

_refusals: dict[int, tuple[float, int]] = {}
_refusals_lock = threading.Lock()


def _log_refusal(door: Door, what: str) -> None:
    """One line per channel every `REFUSAL_LOG_SECONDS`, with the number of refusals since the line before."""
    now = time.monotonic()
    with _refusals_lock:
        logged_at, unlogged = _refusals.get(door.channel_id, (-REFUSAL_LOG_SECONDS, 0))
        is_due = now - logged_at >= REFUSAL_LOG_SECONDS
        _refusals[door.channel_id] = (now, 0) if is_due else (logged_at, unlogged + 1)
    if is_due:
        log.warning(
            "webhook.refused",
            what=what,
            channel_id=door.channel_id,
            merchant_id=door.merchant_id,
            refused=unlogged + 1,
        )
