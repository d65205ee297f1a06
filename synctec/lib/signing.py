"""HMAC-SHA256 as the channels use it: over raw bytes, in constant time, under old and new secret.

Verification answers True or False whatever the header holds: a signature is an attacker's to write, and an
exception would turn a forged request into a 500.
"""

import base64
import hmac
import re
from collections.abc import Iterable, Mapping
from secrets import token_bytes
from typing import Final

from synctec.lib.secret import Secret

# Shopify's authorization-code guide: the shop of the callback must match this, whole.
# `fullmatch`, because `$` would accept a trailing newline. The length is DNS's limit of one label.
SHOP_PATTERN: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-]{0,62}\.myshopify\.com")

#: Standard Webhooks spells secrets so, to be found when they leak.
WEBHOOK_SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # a prefix, no secret


def sign_base64(body: bytes, secret: Secret | str) -> str:
    """Return the header that signs `body`: base64 of HMAC-SHA256. Raises ValueError for an empty secret."""
    if not secret:
        raise ValueError("the signing secret is empty: anyone could make the same signature")
    return base64.b64encode(_digest(body, secret)).decode("ascii")


def verify_base64(body: bytes, header: str | bytes | None, secrets: Iterable[Secret | str]) -> bool:
    """Say whether `header` signs these raw bytes under one of `secrets` (two while a secret is rotated).

    The header is compared in its encoded form, so exactly one spelling is accepted: no spaces, no missing
    padding, no other alphabet. Empty secrets are passed over: an unset setting must not open the door.
    """
    given = _ascii_bytes(header)
    if given is None:
        return False
    # Every secret is tried, also after a match: the time taken tells nothing about which one fits.
    matches = [hmac.compare_digest(base64.b64encode(_digest(body, secret)), given) for secret in secrets if secret]
    return any(matches)


def sign_hex_query(params: Mapping[str, str], secret: Secret | str) -> str:
    """Return the `hmac` parameter Shopify would add to these query parameters."""
    if not secret:
        raise ValueError("the signing secret is empty: anyone could make the same signature")
    return _digest(_canonical_query(params), secret).hex()


def verify_hex_query(params: Mapping[str, str], secret: Secret | str) -> bool:
    """Say whether the `hmac` among an OAuth callback's parameters signs all the others.

    Says nothing about age: check `timestamp` and `state` as well.
    """
    given = _ascii_bytes(params.get("hmac"))
    if given is None or not secret:
        return False
    return hmac.compare_digest(_digest(_canonical_query(params), secret).hex().encode(), given)


def new_webhook_secret() -> Secret:
    """Return a new 256-bit secret in the spelling of Standard Webhooks."""
    return Secret(WEBHOOK_SECRET_PREFIX + base64.b64encode(token_bytes(32)).decode("ascii"))


def sign_webhook(*, message_id: str, timestamp: int, body: bytes, keys: Iterable[Secret]) -> str:
    """Return the `webhook-signature` of Standard Webhooks: one v1 signature per key, the current one first.

    Signed is `id.timestamp.body`, with the decoded bytes of each `whsec_...`. Raises ValueError for another spelling.
    """
    message = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{base64.b64encode(_webhook_digest(message, key)).decode('ascii')}" for key in keys)


def _webhook_digest(message: bytes, key: Secret) -> bytes:
    text = key.reveal()
    if not text.startswith(WEBHOOK_SECRET_PREFIX):
        raise ValueError(f"a webhook secret begins with {WEBHOOK_SECRET_PREFIX}")
    secret = base64.b64decode(text.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True)
    return hmac.digest(secret, message, "sha256")


def is_myshopify_domain(domain: str) -> bool:
    """Say whether `domain` is exactly `<shop>.myshopify.com`: no scheme, port, path or newline about it."""
    return SHOP_PATTERN.fullmatch(domain) is not None


def _digest(message: bytes, secret: Secret | str) -> bytes:
    key = secret.reveal() if isinstance(secret, Secret) else secret
    return hmac.digest(key.encode(), message, "sha256")


def _ascii_bytes(header: str | bytes | None) -> bytes | None:
    # compare_digest raises TypeError for a non-ASCII str; bytes of any length and content are safe.
    if not header:
        return None
    if isinstance(header, bytes):
        return header
    try:
        return header.encode("ascii")
    except UnicodeEncodeError:
        return None


def _canonical_query(params: Mapping[str, str]) -> bytes:
    # Sorted k=v joined by &, hmac left out. Shopify escapes the joiners inside keys and values, so that
    # {"a": "1&b=2"} and {"a": "1", "b": "2"} are different messages.
    pairs = sorted(
        f"{_escape(key).replace('=', '%3D')}={_escape(value)}" for key, value in params.items() if key != "hmac"
    )
    return "&".join(pairs).encode("utf-8", "surrogatepass")


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("&", "%26")
