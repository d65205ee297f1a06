"""What a cause of failure means for a merchant, and what there is to press. Pure: words and the names of pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Remedy:
    """A cause in words. `page` is the admin list where it is mended, `query` what that list shows; empty: nowhere there."""

    title: str
    explanation: str
    action: str
    button: str = ""
    page: str = ""
    query: str = ""
    #: Whether trying again can help before anything was mended.
    is_worth_a_try: bool = True


_CHANNEL = "channels_channel"
_LISTINGS = "channels_listing"
_LOCATIONS = "channels_storelocation"

_BY_CAUSE: Final = {
    "unreadable": Remedy(
        "The message cannot be read",
        "The store sent something that does not have the form it should have. No other message waits for it.",
        "If the store changed its form, SyncTec must learn it first: report what was said below. Then try again. A later "
        "change of the same order arrives with its whole state, so nothing of it is lost for good.",
        is_worth_a_try=False,
    ),
    "refused": Remedy(
        "The store refuses it",
        "The store understood the request and will not do it. The number there stays as it is until this is mended.",
        "Mend in the store what it complains about, then try again. It is also tried every 15 minutes, and whenever the "
        "number changes.",
        "Open the listings",
        _LISTINGS,
    ),
    "not_authorized": Remedy(
        "The store does not let us in",
        "The store refuses our credentials, or a permission is missing. Nothing is written there, and its shoppers see "
        "numbers that grow old.",
        "Connect the store again, or give it a new token. Everything that waits then goes on by itself.",
        "Open the channels",
        _CHANNEL,
    ),
    "channel_away": Remedy(
        "The store does not answer",
        "The store failed many times in a row. It is asked again and again, ever more slowly; the other stores are kept in "
        "step meanwhile, and where stock is divided they do without what this one may still sell.",
        "Look whether the store is up. When it answers, everything goes on by itself; trying again asks it at once.",
        "Open the channels",
        _CHANNEL,
    ),
    "unknown_outcome": Remedy(
        "The store does not say whether it was done",
        "A write was sent many times without a whole answer. It is asked again under the same key, so it cannot be done "
        "twice; in the end the store is read instead.",
        "Usually nothing. Have it read again if it does not end by itself.",
        "Open the listing levels",
        "channels_listinglevel",
    ),
    "poison": Remedy(
        "Workers died over it",
        "Workers ended in the middle of this message again and again, without a word. No other message waits for it.",
        "Look for workers that were killed at that time (memory). Then try this one alone, and watch.",
        is_worth_a_try=False,
    ),
    "bug": Remedy(
        "A mistake of SyncTec",
        "The message could not be applied because of an error of ours, after six attempts. No other message waits for it.",
        "Report what was said below. After an upgrade that mends it, try again: applying a message twice changes nothing.",
        is_worth_a_try=False,
    ),
}

_ITEM_GONE = (
    "The store no longer knows this item. Probably its product was deleted and made anew.",
    "Have the channel brought in again so that the new listing is found, then map it.",
    "Open the listings",
    _LISTINGS,
)
_PLACE_GONE = (
    "The store no longer knows this location, or it was switched off there.",
    "Take the location out of its group, or switch it on in the store.",
    "Open the store locations",
    _LOCATIONS,
)
#: What is said of an event whose body is gone (`sync.tables.inbox`).
_BODY_GONE: Final = Remedy(
    "The message is gone",
    "What the store sent is kept for a while only, and can no longer be read.",
    "Have the channel reconciled: what became of its orders is read from the store. Then dismiss this.",
    "Open the channels",
    _CHANNEL,
    is_worth_a_try=False,
)
#: By a store's own code of what it refuses: (explanation, action, button, page).
_BY_CODE: Final = {
    "NON_MUTABLE_INVENTORY_ITEM": (
        "The store computes the stock of this bundle from its parts and takes no number for it.",
        "Unmap the listing, or make it a plain product in the store.",
        "Open the listings",
        _LISTINGS,
    ),
    "INVALID_INVENTORY_ITEM": _ITEM_GONE,
    "INVENTORY_ITEM_NOT_FOUND": _ITEM_GONE,
    "INVALID_LOCATION": _PLACE_GONE,
    "LOCATION_NOT_FOUND": _PLACE_GONE,
    "INVALID_QUANTITY_TOO_HIGH": (
        "The number is higher than the store can hold.",
        "Count the SKU, or cap what is published to this store.",
        "Open the publishing rules",
        "locations_publishingrule",
    ),
}


def remedy(cause: str, code: str = "") -> Remedy:
    """What the cause means and what to do, more closely where the store's own code is known.

    Raises:
        KeyError: there is no such cause.
    """
    general = _BY_CAUSE[cause]
    if cause == "unreadable" and code.startswith("its body is not kept"):
        return _BODY_GONE
    if cause != "refused" or code not in _BY_CODE:
        return general
    explanation, action, button, page = _BY_CODE[code]
    return Remedy(general.title, explanation, action, button, page)
