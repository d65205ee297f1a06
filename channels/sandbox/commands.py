"""Every command there is, by the name it has in the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from channels.sandbox import access, bulk, catalogue, faults, orders, quantities, subscriptions
from channels.sandbox.store import Refusal, Settings, Store

Command = Callable[..., Any]

_CHOICES = {
    "replay": ("stored", "stale"),
    "currency": ("AUD", "CAD", "CHF", "DKK", "EUR", "GBP", "JPY", "NOK", "NZD", "PLN", "SEK", "USD"),
}


def configure(store: Store, now_us: int, *, settings: dict[str, Any]) -> dict[str, Any]:
    """Change settings of the store; unknown names and values of the wrong kind are refused."""
    for name, value in settings.items():
        _check_setting(name, value)
    for name, value in settings.items():
        setattr(store.settings, name, value)
    return asdict(store.settings)


def _check_setting(name: str, value: Any) -> None:
    usual = asdict(Settings())
    if name not in usual:
        raise Refusal(f"there is no setting {name!r}; known: {', '.join(sorted(usual))}", status=400)
    kind = type(usual[name])
    fits = isinstance(value, kind) or (kind is float and type(value) is int)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise Refusal(f"setting {name} must be of type {kind.__name__}", status=400)
    if name in _CHOICES and value not in _CHOICES[name]:
        raise Refusal(f"{name} must be one of {', '.join(_CHOICES[name])}", status=400)
    if name == "utc_offset_minutes":
        if abs(value) >= 24 * 60:
            raise Refusal("utc_offset_minutes must be less than a day", status=400)
    elif isinstance(value, int | float) and value < (name == "webhook_concurrency"):
        raise Refusal(f"setting {name} is too small", status=400)
    elif isinstance(value, list) and not all(isinstance(one, str) for one in value):
        raise Refusal(f"{name} must be a list of texts", status=400)


def set_faults(store: Store, now_us: int, *, switches: dict[str, Any]) -> dict[str, Any]:
    """Replace all switches: what is not given is off."""
    faults.parse_faults(switches)
    store.faults = dict(switches)
    return store.faults


COMMANDS: dict[str, Command] = {
    function.__name__: function
    for function in (
        configure,
        set_faults,
        access.install,
        access.issue_for_client,
        access.issue_code,
        access.exchange_code,
        access.refresh,
        access.expire_tokens,
        access.uninstall,
        catalogue.add_location,
        catalogue.rename_location,
        catalogue.set_location_active,
        catalogue.delete_location,
        catalogue.add_variants,
        catalogue.rename_sku,
        catalogue.delete_product,
        catalogue.adjust,
        catalogue.connect_level,
        catalogue.disconnect_level,
        orders.place_order,
        orders.cancel_order,
        orders.refund_order,
        orders.move_order,
        orders.fulfill_order,
        orders.edit_order,
        quantities.set_quantities,
        quantities.adjust_quantities,
        quantities.move_quantities,
        quantities.activate,
        quantities.deactivate,
        subscriptions.create_subscription,
        subscriptions.update_subscription,
        subscriptions.delete_subscription,
        subscriptions.deliveries_done,
        subscriptions.delivery_lost,
        subscriptions.delivery_failed,
        subscriptions.send_compliance,
        bulk.start,
        bulk.run,
        bulk.finish,
        bulk.cancel,
    )
}
