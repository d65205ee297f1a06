"""Secrets in rows of ours: each column `sealed_<name>` is sealed on its own and bound to its table, merchant, row and name.

A sealed text that is copied to another row or column does not open there (see `synctec.lib.crypto`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db import models, transaction

from synctec.lib.crypto import CryptoError, KeyRing
from synctec.lib.secret import Secret


@lru_cache(maxsize=2)
def _ring(keys: str) -> KeyRing:
    return KeyRing.parse(keys)


def _place(row: Any, name: str) -> str:
    return f"{row._meta.db_table}:{row.merchant_id}:{row.pk}:{name}"


def seal(row: models.Model, name: str, secret: Secret | str) -> None:
    """Put a secret into `sealed_<name>` of a row in memory, which has its primary key already."""
    assert row.pk is not None, "the place of a secret has a number"
    setattr(row, f"sealed_{name}", _ring(settings.CREDENTIAL_KEYS).seal(secret, bound_to=_place(row, name)))


def unseal(row: models.Model, name: str) -> Secret:
    """The secret in `sealed_<name>`. Raises CryptoError when it does not open."""
    return _ring(settings.CREDENTIAL_KEYS).open(getattr(row, f"sealed_{name}"), bound_to=_place(row, name))


def reseal_all(model: type[models.Model], names: Sequence[str]) -> tuple[int, list[tuple[int, str]]]:
    """Seal every secret of a table with the first key of the ring, a row per transaction; may be interrupted and run again.

    Returns how many rows were changed, and those that do not open, with the reason.
    """
    resealed, unreadable = 0, []
    for pk in list(model._default_manager.order_by("pk").values_list("pk", flat=True)):
        try:
            resealed += _reseal(model, pk, names)
        except CryptoError as error:
            unreadable.append((pk, str(error)))
    return resealed, unreadable


@transaction.atomic
def _reseal(model: type[models.Model], pk: int, names: Sequence[str]) -> bool:
    """Whether there was anything to do. Raises CryptoError."""
    row = model._default_manager.select_for_update(no_key=True).filter(pk=pk).first()
    if row is None:
        return False
    ring = _ring(settings.CREDENTIAL_KEYS)
    stale = [name for name in names if (sealed := getattr(row, f"sealed_{name}")) and not ring.is_current(sealed)]
    for name in stale:
        seal(row, name, unseal(row, name))
    if stale:
        row.save(update_fields=[f"sealed_{name}" for name in stale])
    return bool(stale)
