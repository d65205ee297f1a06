"""Channel secrets: sealed at rest, opened where they are used, refreshed once however many ask at the same
time.

Each column is sealed on its own and bound to its row and name, so that a sealed text copied to another row or
column, even by somebody who can write to the database, does not open there. Nobody else reads or writes these
columns.

An app that serves many merchants' stores has its client secret in the settings; such a channel's row names
the app by its client id and has no client secret of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from channels import origins, protocol, states
from channels.connectors.shopify import auth
from channels.models import Channel, ChannelState, Credential
from merchants import trail
from synctec.lib.crypto import CryptoError, KeyRing
from synctec.lib.failpoints import failpoint
from synctec.lib.secret import Secret

log = structlog.get_logger(__name__)

#: The secrets of a row; each is stored in the column `sealed_<name>`.
SECRETS = ("client_secret", "previous_client_secret", "access_token", "refresh_token")

#: A token is asked for anew this long before it ends, so that no call is under way with one that just ended.
EXPIRY_MARGIN = timedelta(minutes=2)


class CredentialError(protocol.Unavailable):
    """The secrets of a channel cannot be used before an operator mends the key ring, as the text says."""


@lru_cache(maxsize=2)
def _ring(keys: str) -> KeyRing:
    return KeyRing.parse(keys)


def key_ring() -> KeyRing:
    """The ring of CREDENTIAL_KEYS. Raises BadKeyRing for a setting that is none."""
    return _ring(settings.CREDENTIAL_KEYS)


# --- one row ------------------------------------------------------------------------------------------------


def _place(credential: Credential, name: str) -> str:
    return f"channels_credential:{credential.merchant_id}:{credential.pk}:{name}"


def _set(credential: Credential, name: str, secret: Secret | None) -> None:
    """Seal into the row in memory; an empty secret empties the column. The row has its primary key
    already.
    """
    sealed = key_ring().seal(secret, bound_to=_place(credential, name)) if secret else ""
    setattr(credential, f"sealed_{name}", sealed)


def _get(credential: Credential, name: str) -> Secret | None:
    """Raises CredentialError when the sealed text does not open."""
    sealed = getattr(credential, f"sealed_{name}")
    if not sealed:
        return None
    try:
        return key_ring().open(sealed, bound_to=_place(credential, name))
    except CryptoError as error:
        raise CredentialError(f"The {name} of channel {credential.channel_id}: {error}") from None


def store(
    channel: Channel,
    *,
    client_id: str,
    client_secret: Secret | None = None,
    access_token: Secret | None = None,
    refresh_token: Secret | None = None,
    access_token_expires_at: datetime | None = None,
    scopes: Collection[str] | None = None,
) -> Credential:
    """Keep what is given and leave the rest as it is, in the caller's transaction or one of its own.

    A client secret that takes the place of another of the same app keeps that one beside it, since the
    channel signs with the old one until it is revoked (`forget_previous_client_secret`). A new access token
    replaces the refresh token and the expiry with it. Another client id starts from nothing.
    """
    with transaction.atomic():
        credential, _ = Credential.objects.select_for_update().get_or_create(
            channel=channel, defaults={"merchant_id": channel.merchant_id, "client_id": client_id}
        )
        if credential.client_id != client_id:
            for name in SECRETS:
                _set(credential, name, None)
            credential.client_id = client_id
        if client_secret is not None:
            _replace_client_secret(credential, client_secret)
        if access_token is not None:
            _set(credential, "access_token", access_token)
            _set(credential, "refresh_token", refresh_token)
            credential.access_token_expires_at = access_token_expires_at
        if scopes is not None:
            credential.scopes = sorted(scopes)
        credential.save()
    return credential


def _replace_client_secret(credential: Credential, client_secret: Secret) -> None:
    current = _get(credential, "client_secret")
    if current == client_secret:
        return
    _set(credential, "previous_client_secret", current)
    _set(credential, "client_secret", client_secret)


def forget_previous_client_secret(channel: Channel) -> None:
    """End a rotation: webhooks signed with the old client secret are refused from now on."""
    Credential.objects.filter(channel=channel).update(sealed_previous_client_secret="", updated_at=Now())


def wipe(channel: Channel) -> None:
    """Forget every token, as after an uninstall.

    The client secret stays: it is the app's and not the store's, and the last webhooks (`shop/redact` comes
    two days later) are signed with it.
    """
    Credential.objects.filter(channel=channel).update(
        sealed_access_token="",
        sealed_refresh_token="",
        access_token_expires_at=None,
        scopes=[],
        updated_at=Now(),
    )


# --- secrets that sign --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SealedSecrets:
    """What a channel may sign its webhooks with, still sealed: (sealed text, place) each; or the app's
    own.
    """

    sealed: tuple[tuple[str, str], ...] = ()
    of_app: tuple[Secret, ...] = ()

    def open(self) -> list[str]:
        """The current secret and the one before. Raises CredentialError when one does not open."""
        try:
            ring = key_ring()
            own = [ring.open(sealed, bound_to=place).reveal() for sealed, place in self.sealed]
        except CryptoError as error:
            raise CredentialError(f"A client secret does not open: {error}") from None
        return own + [secret.reveal() for secret in self.of_app]


def sealed_webhook_secrets(channel: Channel) -> SealedSecrets:
    """The channel's signing secrets; none for a channel without credentials."""
    credential = getattr(channel, "credential", None)
    if credential is None:
        return SealedSecrets()
    own = tuple(
        (sealed, _place(credential, name))
        for name in ("client_secret", "previous_client_secret")
        if (sealed := getattr(credential, f"sealed_{name}"))
    )
    return SealedSecrets(sealed=own, of_app=() if own else app_secrets(credential.client_id))


def webhook_secrets(channel: Channel) -> list[str]:
    """The secrets a webhook of the channel may be signed with, the current one first."""
    return sealed_webhook_secrets(channel).open()


def app_secrets(client_id: str) -> tuple[Secret, ...]:
    """The client secrets of our own app, current and previous, if `client_id` is its; else none."""
    if not client_id or client_id != settings.SHOPIFY_CLIENT_ID:
        return ()
    configured = (settings.SHOPIFY_CLIENT_SECRET, settings.SHOPIFY_PREVIOUS_CLIENT_SECRET)
    return tuple(Secret(secret) for secret in configured if secret)


# --- tokens -------------------------------------------------------------------------------------------------

#: While one asks the channel for a token under the row's lock, the others wait: longer than usual, as the
#: call may take `synctec.lib.http.DEADLINE_SECONDS`.
_PATIENCE = """
    SELECT set_config('lock_timeout', '40s', true), set_config('statement_timeout', '45s', true),
           set_config('idle_in_transaction_session_timeout', '60s', true)
"""


def access_token(channel: Channel, *, refused: Secret | None = None) -> Secret:
    """A token to call the channel with; asked for or refreshed when the one at hand ends soon.

    `refused` is the token the channel just turned down: another one is got, unless somebody did so already.
    Of callers that need a new token at the same time, one asks for it under the row's lock and the others
    take what it got.

    Raises:
        protocol.NotAuthorized: a person has to authorize again; the channel's state says so from now on.
        protocol.ChannelError: no token could be had for now.
        CredentialError: the stored secrets do not open.
        RuntimeError: called inside a transaction, which could undo the storing of a token pair.
    """
    # Durable, though nothing is written here: whoever calls a channel inside a transaction shall learn it now
    # and not when the token ends a day later.
    with transaction.atomic(durable=True):
        credential = Credential.objects.filter(channel=channel).first()
    token = _usable(credential, refused=refused)
    if token is not None:
        return token
    try:
        return _renewed(channel, refused=refused)
    except protocol.NotAuthorized as error:
        needs_authorization(channel, reason=str(error))
        raise


def _usable(credential: Credential | None, *, refused: Secret | None) -> Secret | None:
    token = _get(credential, "access_token") if credential else None
    if credential is None or token is None or token == refused:
        return None
    expires_at = credential.access_token_expires_at
    if expires_at is not None and expires_at - EXPIRY_MARGIN <= datetime.now(UTC):
        return None
    return token


def _renewed(channel: Channel, *, refused: Secret | None) -> Secret:
    """A new token, asked for under the row's lock; the pair is stored before anyone uses it.

    A crash between the channel's answer and our commit loses the new pair only: Shopify keeps the old refresh
    token usable until the new one is used.
    """
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute(_PATIENCE)
        credential = Credential.objects.select_for_update().filter(channel=channel).first()
        if credential is None:
            raise protocol.NotAuthorized(f"{channel} has no credentials: connect it again.")
        # Another may have done it while this one waited; or have found that the channel turns us down.
        token = _usable(credential, refused=refused)
        if token is not None:
            return token
        state, reason = Channel.objects.values_list("state", "state_reason").get(pk=channel.pk)
        if state == ChannelState.NEEDS_AUTH:
            raise protocol.NotAuthorized(reason)
        grant = _ask_for_token(channel, credential)
        failpoint("credentials.after_grant")
        _set(credential, "access_token", grant.access_token)
        _set(credential, "refresh_token", grant.refresh_token)
        credential.access_token_expires_at = grant.expires_at
        credential.scopes = sorted(grant.scopes)
        credential.save()
    log.info("credentials.token_renewed", channel_id=channel.pk, merchant_id=channel.merchant_id)
    return grant.access_token


def _ask_for_token(channel: Channel, credential: Credential) -> auth.TokenGrant:
    """Refresh when the row has a refresh token, else ask with the channel's own client secret.

    Raises:
        protocol.NotAuthorized: turned down, or there is nothing to ask with.
        protocol.ChannelError: no answer that helps.
    """
    own_secret = _get(credential, "client_secret")
    refresh_token = _get(credential, "refresh_token")
    client_secret = own_secret or next(iter(app_secrets(credential.client_id)), None)
    if refresh_token is not None and client_secret is not None:
        return auth.refresh(
            base_url=origins.base_url(channel),
            client_id=credential.client_id,
            client_secret=client_secret,
            refresh_token=refresh_token,
            session=origins.session_for(channel),
            now=datetime.now(UTC),
        )
    if own_secret is not None:
        return auth.request_by_client_credentials(
            base_url=origins.base_url(channel),
            client_id=credential.client_id,
            client_secret=own_secret,
            session=origins.session_for(channel),
            now=datetime.now(UTC),
        )
    raise protocol.NotAuthorized(f"{channel} no longer accepts our access token: authorize the app again in the store.")


def needs_authorization(channel: Channel, *, reason: str) -> None:
    """Put on record that nothing works until a person authorizes us again. A paused or removed channel stays
    so.
    """
    with transaction.atomic():
        stored = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
        if stored.state not in (ChannelState.CONNECTING, ChannelState.ACTIVE):
            return
        before = {"state": stored.state}
        stored.state, stored.state_reason = ChannelState.NEEDS_AUTH, reason[:500]
        stored.save(update_fields=["state", "state_reason"])
        states.tell_changed(stored)
        trail.record(
            merchant_id=stored.merchant_id,
            action="channel.needs_auth",
            subject=stored,
            before=before,
            after={"state": stored.state},
            reason=stored.state_reason,
        )
    log.warning("credentials.needs_auth", channel_id=stored.pk, merchant_id=stored.merchant_id, reason=reason)


# --- the keys' own rotation ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RotationReport:
    """What a rotation did: rows sealed anew, rows that were current already, and rows that do not open, by
    channel.
    """

    resealed: int
    current: int
    unreadable: tuple[tuple[int, str], ...]


def rotate_all() -> RotationReport:
    """Seal every secret with the first key of the ring, a row per transaction.

    May be stopped and started at any moment: each row is read with whichever key of the ring sealed it.
    """
    resealed = current = 0
    unreadable: list[tuple[int, str]] = []
    for pk in list(Credential.objects.order_by("pk").values_list("pk", flat=True)):
        try:
            if _reseal(pk):
                resealed += 1
            else:
                current += 1
        except CredentialError as error:
            unreadable.append((pk, str(error)))
    return RotationReport(resealed=resealed, current=current, unreadable=tuple(unreadable))


def _reseal(pk: int) -> bool:
    """Whether there was anything to do in this row. Raises CredentialError."""
    ring = key_ring()
    with transaction.atomic():
        credential = Credential.objects.select_for_update().filter(pk=pk).first()
        if credential is None:
            return False
        stale = [
            name
            for name in SECRETS
            if (sealed := getattr(credential, f"sealed_{name}")) and not ring.is_current(sealed)
        ]
        for name in stale:
            _set(credential, name, _get(credential, name))
        if stale:
            credential.save()
    return bool(stale)
