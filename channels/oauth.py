"""Connecting a Shopify store by the authorization-code flow: out to the store, and back with a code.

The way back is proved by a nonce that was left in the browser's session on the way out (once, ten minutes),
by the app's signature, and by the shop and age of the answer (`channels.connectors.shopify.auth`). Whatever
goes wrong ends in a page that says what to do, and in no change.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from channels import credentials, onboarding, origins, protocol
from channels.connectors.shopify import auth
from channels.models import Channel, ChannelKind
from merchants.access import Seat, Seats, member_page, seats_of
from merchants.models import Role, User
from synctec.lib.secret import Secret
from synctec.lib.signing import is_myshopify_domain

log = structlog.get_logger(__name__)

#: The session's key of the one connection under way; a new one takes its place.
PENDING_KEY = "shopify_connection"
PENDING_SECONDS_MAX = 600


@dataclass(frozen=True, slots=True)
class Pending:
    """A connection that was begun in this browser."""

    state: str
    shop: str
    merchant_id: int
    user_id: int
    begun_at: float


class ConnectionFailed(Exception):
    """The connection ends here. The text says what to do."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@never_cache
@require_http_methods(["GET", "POST"])
@member_page(minimum=Role.MANAGER)
def install(request: HttpRequest, seats: Seats) -> HttpResponse:
    """Ask for the store (GET) and send the browser there to grant access (POST)."""
    assert request.user.pk is not None
    wanted = (request.POST if request.method == "POST" else request.GET).get("shop", "")
    if not settings.SHOPIFY_CLIENT_ID or not settings.SHOPIFY_CLIENT_SECRET:
        reason = (
            "This system has no Shopify app yet: its operator has to set SHOPIFY_CLIENT_ID and SHOPIFY_CLIENT_SECRET."
        )
        return _page(request, seat=seats.current, shop=wanted, failure=reason, status=503)
    if request.method == "GET":
        return _page(request, seat=seats.current, shop=wanted)
    shop = shop_domain(wanted)
    if not is_myshopify_domain(shop):
        reason = (
            "Give the store's own domain, such as north.myshopify.com. "
            "Shopify's admin shows it under Settings, Domains."
        )
        return _page(request, seat=seats.current, shop=wanted, failure=reason, status=400)
    pending = Pending(
        state=secrets.token_urlsafe(32),
        shop=shop,
        merchant_id=seats.current.merchant.pk,
        user_id=request.user.pk,
        begun_at=datetime.now(UTC).timestamp(),
    )
    request.session[PENDING_KEY] = asdict(pending)
    return HttpResponseRedirect(
        auth.authorization_url(
            base_url=origins.shopify_base_url(shop),
            client_id=settings.SHOPIFY_CLIENT_ID,
            redirect_uri=settings.PUBLIC_URL + reverse("shopify-callback"),
            state=pending.state,
        )
    )


@never_cache
@require_GET
@login_required
def callback(request: HttpRequest) -> HttpResponse:
    """Take the store's answer: check it, turn its code into tokens, store them, have the channel
    activated.
    """
    now = datetime.now(UTC)
    user = request.user
    assert isinstance(user, User)
    try:
        pending = _take_pending(request, now)
        seat = _seat(user, pending)
        channel = _finish(request, pending, seat, user=user, now=now)
    except ConnectionFailed as failure:
        log.info("oauth.failed", user_id=user.pk, reason=str(failure))
        return _page(request, seat=None, shop="", failure=str(failure), status=failure.status)
    messages.success(request, f"{channel} is connected. Its catalogue is being read.")
    return HttpResponseRedirect(f"{settings.LOGIN_REDIRECT_URL}?merchant={seat.merchant.slug}")


def shop_domain(typed: str) -> str:
    """The domain that somebody means who typed a store's handle, domain or address."""
    shop = typed.strip().lower().removeprefix("https://").removeprefix("http://").split("/", 1)[0]
    return shop if "." in shop or not shop else shop + origins.SHOP_SUFFIX


def _take_pending(request: HttpRequest, now: datetime) -> Pending:
    """The connection this answer belongs to; it can be taken once.

    An answer with another state takes nothing, so that no foreign page can spoil a connection under way.
    """
    left: dict[str, Any] | None = request.session.get(PENDING_KEY)
    state = request.GET.get("state", "")
    if left is None or not secrets.compare_digest(state.encode(errors="replace"), left["state"].encode()):
        raise ConnectionFailed("This answer belongs to no connection begun in this browser. Begin again from here.")
    del request.session[PENDING_KEY]
    # Saved now and not with the response: what follows takes time, and the state must not be good for a
    # second answer.
    request.session.save()
    pending = Pending(**left)
    if now.timestamp() - pending.begun_at > PENDING_SECONDS_MAX:
        raise ConnectionFailed("The store's answer took more than ten minutes. Begin again.")
    return pending


def _seat(user: User, pending: Pending) -> Seat:
    """The person's seat at the merchant, as of now: a role may have been taken away meanwhile."""
    for seat in seats_of(user):
        if seat.merchant.pk == pending.merchant_id and user.pk == pending.user_id and seat.may(Role.MANAGER):
            return seat
    raise ConnectionFailed(
        "Only an owner or manager of the merchant can connect a store. Sign in as the one who began.",
        status=403,
    )


def _finish(request: HttpRequest, pending: Pending, seat: Seat, *, user: User, now: datetime) -> Channel:
    """Raises ConnectionFailed, with nothing stored."""
    answer, client_secret = _checked_answer(request, pending, now)
    # Before the code is spent; the unique key on the account decides for good when the channel is stored.
    others = Channel.objects.filter(kind=ChannelKind.SHOPIFY, account=answer.shop).exclude(merchant=seat.merchant)
    if others.exists():
        raise ConnectionFailed(
            f"{answer.shop} is already connected by another merchant. It has to be disconnected there first.",
            status=409,
        )
    try:
        grant = auth.exchange_code(
            base_url=origins.shopify_base_url(answer.shop),
            client_id=settings.SHOPIFY_CLIENT_ID,
            client_secret=client_secret,
            code=answer.code,
            session=origins.shopify_session(answer.shop),
            now=now,
        )
    except protocol.NotAuthorized:
        raise ConnectionFailed(
            f"{answer.shop} does not accept the code it just gave. Begin again; if that does not help, "
            "the client secret set here is not the app's."
        ) from None
    except protocol.ChannelError as error:
        raise ConnectionFailed(f"{answer.shop} gave no access. {error} Begin again in a minute.", status=502) from None
    missing = auth.missing_scopes(grant.scopes)
    if missing:
        raise ConnectionFailed(f"{answer.shop} did not grant {', '.join(missing)}. Begin again and accept all of them.")
    try:
        return _store(answer.shop, grant, seat, user=user)
    except onboarding.OnboardingError as error:
        raise ConnectionFailed(str(error), status=409) from None


def _checked_answer(request: HttpRequest, pending: Pending, now: datetime) -> tuple[auth.Callback, Secret]:
    """The answer and the app's current secret. While the secret is rotated either may sign."""
    failure: auth.CallbackError | None = None
    app_secrets = credentials.app_secrets(settings.SHOPIFY_CLIENT_ID)
    for client_secret in app_secrets:
        try:
            answer = auth.check_callback(
                request.GET.dict(),
                expected_state=pending.state,
                client_secret=client_secret,
                now=now,
                expected_shop=pending.shop,
            )
        except auth.CallbackError as error:
            failure = failure or error
        else:
            return answer, app_secrets[0]
    raise ConnectionFailed(str(failure) if failure else "This system has no Shopify app any more.")


@transaction.atomic
def _store(shop: str, grant: auth.TokenGrant, seat: Seat, *, user: User) -> Channel:
    channel = onboarding.claim_account(
        merchant=seat.merchant,
        kind=ChannelKind.SHOPIFY,
        account=shop,
        name=shop.removesuffix(origins.SHOP_SUFFIX),
        user=user,
    )
    credentials.store(
        channel,
        client_id=settings.SHOPIFY_CLIENT_ID,
        access_token=grant.access_token,
        refresh_token=grant.refresh_token,
        access_token_expires_at=grant.expires_at,
        scopes=grant.scopes,
    )
    onboarding.tell_connected(channel)
    return channel


def _page(request: HttpRequest, *, seat: Seat | None, shop: str, failure: str = "", status: int = 200) -> HttpResponse:
    context = {"merchant": seat.merchant if seat else None, "shop": shop[:255], "failure": failure}
    return render(request, "channels/shopify_install.html", context, status=status)
