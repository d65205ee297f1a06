"""Secrets at rest: AES-256-GCM under a ring of keys, each text bound to the place it belongs to.

A sealed text reads `v1.<key id>.<base64url of nonce and ciphertext>`. The place (`bound_to`, for instance
"channels_credential:17:3:access_token": table, tenant, row, column) is authenticated but not stored, so a
text copied into another row, column or tenant does not open.

Bytes that come by the thousand (webhook bodies) are sealed under a key that this process derives for itself from the first
of the ring, since one key with random nonces is good for 2**32 texts only. Sealed bytes begin with what finds that key again.

Errors:

    CryptoError
    |-- BadKeyRing     the configured keys cannot be used
    |-- NotSealed      the text, or the bytes, are not of that form
    |-- UnknownKey     its key id is not on the ring: bring the key back, or enter the secret anew
    `-- Tampered       changed, moved from another place, or sealed by another key of the same id
"""

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from synctec.lib.secret import Secret

KEY_BYTES: Final = 32
# NIST SP 800-38D 8.3: with random 96-bit nonces one key may seal 2**32 texts. Credentials stay far below.
NONCE_BYTES: Final = 12
SALT_BYTES: Final = 16
_VERSION: Final = "v1"
_BYTES_VERSION: Final = b"\x01"
_DERIVED: Final = b"synctec bytes"
#: Keys of other processes that are kept at hand: each serves for the life of one process.
_DERIVED_AT_HAND: Final = 256
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


class CryptoError(Exception):
    """Base of this module's errors. Their texts name key ids and places, never keys or secrets."""


class BadKeyRing(CryptoError):
    """The configured keys cannot be used; the text says which entry and why."""


class NotSealed(CryptoError):
    """The text was not made by `KeyRing.seal`."""


class UnknownKey(CryptoError):
    """The text was sealed by a key that is not on the ring."""


class Tampered(CryptoError):
    """The text does not open in this place."""


def generate_key() -> str:
    """Return a new random 256-bit key as base64, ready to be put behind `id:` in CREDENTIAL_KEYS."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii")


class KeyRing:
    """Named keys; the first seals, all of them open. Rotation: put a new key first, reseal, drop the old."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Take raw keys by id in order, the primary first. Raises BadKeyRing."""
        if not keys:
            raise BadKeyRing("no keys given: set at least one as id:base64key")
        for key_id, key in keys.items():
            _check_key(key_id, key)
        self._keys = dict(keys)
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.primary_id: Final = next(iter(keys))
        self._salt = secrets.token_bytes(SALT_BYTES)
        self._derived = lru_cache(maxsize=_DERIVED_AT_HAND)(self._derive)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "id:base64key,id2:base64key" (first = primary). Raises BadKeyRing, never quoting a key."""
        keys: dict[str, bytes] = {}
        for position, entry in enumerate(text.split(","), start=1):
            key_id, colon, encoded = entry.strip().partition(":")
            if not colon:
                raise BadKeyRing(f"key {position} has no id: write it as id:base64key")
            if key_id in keys:
                raise BadKeyRing(f"key id {key_id!r} is given twice: ids must be unique")
            keys[key_id] = _decode_key(encoded, position=position)
        return cls(keys)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._ciphers)})"

    def seal(self, secret: Secret | str, *, bound_to: str) -> str:
        """Encrypt under the primary key for the place `bound_to`. Two calls never give the same text."""
        plain = secret.reveal() if isinstance(secret, Secret) else secret
        nonce = secrets.token_bytes(NONCE_BYTES)
        cipher = self._ciphers[self.primary_id]
        ciphertext = cipher.encrypt(nonce, plain.encode(), _place(bound_to))
        return f"{_VERSION}.{self.primary_id}.{_encode(nonce + ciphertext)}"

    def open(self, sealed: str, *, bound_to: str) -> Secret:
        """Decrypt a text sealed for the same place. Raises NotSealed, UnknownKey or Tampered."""
        key_id, payload = _split(sealed)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnknownKey(f"sealed with key {key_id!r}, which is not on the ring: add it again")
        try:
            plain = cipher.decrypt(payload[:NONCE_BYTES], payload[NONCE_BYTES:], _place(bound_to))
        except InvalidTag:
            raise Tampered(f"does not open as {bound_to!r}: it was changed or belongs elsewhere") from None
        return Secret(plain.decode())

    def seal_bytes(self, plain: bytes, *, bound_to: str) -> bytes:
        """Encrypt bytes for the place `bound_to`, at the cost of some 60 bytes more."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        ciphertext = self._derived(self.primary_id, self._salt).encrypt(nonce, plain, _place(bound_to))
        key_id = self.primary_id.encode()
        return b"".join((_BYTES_VERSION, bytes((len(key_id),)), key_id, self._salt, nonce, ciphertext))

    def open_bytes(self, sealed: bytes, *, bound_to: str) -> bytes:
        """Decrypt bytes sealed for the same place. Raises NotSealed, UnknownKey or Tampered."""
        if len(sealed) < 2 or sealed[:1] != _BYTES_VERSION:
            raise NotSealed("not sealed bytes: they begin otherwise")
        salt_at = 2 + sealed[1]
        nonce_at = salt_at + SALT_BYTES
        key_id = sealed[2:salt_at].decode("ascii", errors="replace")
        if key_id not in self._keys:
            raise UnknownKey(f"sealed with key {key_id!r}, which is not on the ring: add it again")
        nonce, ciphertext = sealed[nonce_at : nonce_at + NONCE_BYTES], sealed[nonce_at + NONCE_BYTES :]
        try:
            return self._derived(key_id, sealed[salt_at:nonce_at]).decrypt(nonce, ciphertext, _place(bound_to))
        except (InvalidTag, ValueError):  # the latter for bytes that were cut short
            raise Tampered(f"does not open as {bound_to!r}: it was changed or belongs elsewhere") from None

    def _derive(self, key_id: str, salt: bytes) -> AESGCM:
        derivation = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_DERIVED)
        return AESGCM(derivation.derive(self._keys[key_id]))

    def is_current(self, sealed: str) -> bool:
        """Return False for what a rotation has still to reseal: another key, or no sealed text at all."""
        try:
            key_id, _payload = _split(sealed)
        except NotSealed:
            return False
        return key_id == self.primary_id


def _check_key(key_id: str, key: bytes) -> None:
    if not _KEY_ID.fullmatch(key_id):
        raise BadKeyRing(f"key id {key_id!r} is not usable: 1 to 32 letters, digits, - or _")
    if len(key) != KEY_BYTES:
        raise BadKeyRing(f"key {key_id!r} has {len(key)} bytes, not {KEY_BYTES}: see generate_key()")


def _decode_key(encoded: str, *, position: int) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        # `from None`: the message of the decoder quotes nothing today, but the key is its argument.
        raise BadKeyRing(f"key {position} is not base64: make one with generate_key()") from None


def _place(bound_to: str) -> bytes:
    if not bound_to:
        raise ValueError("bound_to is empty: name the table, tenant, row and column")
    return bound_to.encode()


def _split(sealed: str) -> tuple[str, bytes]:
    version, _, rest = sealed.partition(".")
    key_id, _, encoded = rest.partition(".")
    if version != _VERSION or not _KEY_ID.fullmatch(key_id):
        raise NotSealed("not a sealed text: expected v1.<key id>.<payload>")
    try:
        payload = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise NotSealed("the payload of the sealed text is not base64url") from None
    # One payload, one spelling: unused bits of the last character must be zero.
    if _encode(payload) != encoded:
        raise NotSealed("the payload of the sealed text is not base64url")
    if len(payload) <= NONCE_BYTES:
        raise Tampered("the sealed text was cut short")
    return key_id, payload


def _encode(payload: bytes) -> str:
    return base64.urlsafe_b64encode(payload).rstrip(b"=").decode("ascii")
