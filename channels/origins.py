"""Where a channel's API lives, and the guarded session that reaches it and nothing else."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings

from channels import protocol
from channels.models import Channel, ChannelKind
from synctec.lib.http import AddressRule, GuardedSession

SHOP_SUFFIX = ".myshopify.com"
#: Where the results of bulk operations are, by the examples of Shopify's documentation.
SHOPIFY_FILES = "storage.googleapis.com"


class SandboxOff(protocol.Unavailable):
    """No sandbox is running for this system: set SANDBOX_URL."""


def base_url(channel: Channel) -> str:
    """The address every API path of the channel starts with, without a slash at the end.

    Raises:
        SandboxOff: a sandbox store without a sandbox.
    """
    if channel.kind == ChannelKind.SANDBOX:
        return f"{sandbox_url()}/{channel.account.removesuffix(SHOP_SUFFIX)}"
    return shopify_base_url(channel.account)


def shopify_base_url(account: str) -> str:
    """The address of a real Shopify store."""
    return f"https://{account}"


def sandbox_url() -> str:
    """The sandbox's own address. Raises SandboxOff when there is none."""
    url: str = settings.SANDBOX_URL
    if not url:
        raise SandboxOff("There is no sandbox here: set SANDBOX_URL to its address, such as http://127.0.0.1:41000.")
    return url.rstrip("/")


def session_for(channel: Channel) -> GuardedSession:
    """This process's session for the channel's account, allowed to talk to that account's address only."""
    if channel.kind == ChannelKind.SANDBOX:
        return sandbox_session(sandbox_url())
    return shopify_session(channel.account)


def downloads_for(channel: Channel) -> GuardedSession:
    """This process's session for files that the channel has written for us; it carries no token."""
    return sandbox_session(sandbox_url()) if channel.kind == ChannelKind.SANDBOX else shopify_downloads()


@lru_cache(maxsize=1)
def shopify_downloads() -> GuardedSession:
    """The session for the results of Shopify's bulk operations."""
    return GuardedSession(AddressRule.https_hosts(SHOPIFY_FILES))


@lru_cache(maxsize=4)
def sandbox_session(url: str) -> GuardedSession:
    """The session for everything the sandbox offers. It may be on loopback: the operator set its address."""
    return GuardedSession(AddressRule.exact_origin(url), pool_size=32, purpose="sandbox")


@lru_cache(maxsize=1024)
def shopify_session(account: str) -> GuardedSession:
    """The session for one Shopify store; the domain was checked before it was stored."""
    return GuardedSession(AddressRule.https_hosts(account), purpose="shopify")
