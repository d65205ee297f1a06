"""Every command there is, by the name it has in the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from channels.sandbox import access, bulk, catalogue, faults, orders, quantities, subscriptions
from channels.sandbox.store import Refusal, Settings, Store

Command = Callable[..., Any]

REPLAYS = ("stored", "stale")


def configure(store: Store, now_us: int, *, settings: dict[str, Any]) -> dict[str, Any]:
    """Change settings of the store; unknown names are refused."""
    known = {f.name for f in fields(Settings)}
    for name, value in settings.items():
        if name not in known:
            raise Refusal(f"there is no setting {name!r}; known: {', '.join(sorted(known))}", status=400)
        if type(value) is not type(getattr(Settings(), name)) and not isinstance(value, int | float):
            raise Refusal(f"setting {name} cannot be {value!r}", status=400)
    if settings.get("replay", "stored") not in REPLAYS:
        raise Refusal(f"replay must be one of {', '.join(REPLAYS)}", status=400)
    for name, value in settings.items():
        setattr(store.settings, name, value)
    return {f.name: getattr(store.settings, f.name) for f in fields(Settings)}


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
