"""Filling the shelves of a practice store, so that there is something to sell in it."""

from __future__ import annotations

from channels import origins
from channels.models import Channel
from channels.protocol import Unavailable
from inventory.models import Sku
from synctec.lib.http import HttpError

#: Enough to try things out; a catalogue of thousands belongs into a real store.
SKUS_MAX = 500


def stock_shelves(channel: Channel) -> int:
    """Put the merchant's SKUs into the practice store, none of them in stock yet; returns how many are new
    there.

    Raises:
        protocol.Unavailable: there is no sandbox, or it does not do it.
    """
    url = origins.sandbox_url()
    store = f"{url}/_control/stores/{channel.account.removesuffix(origins.SHOP_SUFFIX)}"
    session = origins.sandbox_session(url)
    try:
        about, carried = session.get(store), session.get(f"{store}/variants")
        location = about.json()["locations"][0]["name"]
        known = {variant["sku"] for variant in carried.json()}
        skus = Sku.objects.filter(merchant_id=channel.merchant_id).exclude(code__in=known).order_by("pk")
        rows = [
            {"sku": sku.code, "title": sku.code, "product": sku.title or sku.code, "levels": {location: 0}}
            for sku in skus[:SKUS_MAX]
        ]
        answer = session.post(f"{store}/variants", json=rows) if rows else about
    except (HttpError, ValueError, KeyError, TypeError, IndexError) as error:
        raise Unavailable(f"The shelves of {channel} could not be filled: {type(error).__name__}.") from None
    if answer.status_code != 200:
        raise Unavailable(f"The shelves of {channel} could not be filled (HTTP {answer.status_code}).")
    return len(rows)
