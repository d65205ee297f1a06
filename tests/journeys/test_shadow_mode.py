"""A store in shadow mode is written to not once, by its own count, and its comparison is right about each planted mistake."""

from __future__ import annotations

import csv
import io

import pytest

from tests.journeys.town import Town, say
from tests.local.conftest import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("stack")]

UNITS = 60
#: What changed of late may still be on its way, and is reported so: mistakes are made to be older than that.
AGE_MINUTES = 20


def requests_to_write(town: Town, handle: str) -> int:
    """Mutations that a store was sent, its own count, and those it carried out."""
    carried_out: int = town.stores.stats(handle).get("writes", 0)
    return town.stats_since_start(handle).get("api_writes", 0) + carried_out


def set_mapping(town: Town, handle: str, code: str, *, sku: str) -> None:
    """Map a listing of the store, or take its mapping away, on its page in the admin."""
    ((listing_id,),) = town.rows(
        "SELECT id FROM channels_listing WHERE channel_id = %s AND remote_sku = %s", [town.channel_id(handle), code]
    )
    town.owner.fill_in(f"/admin/channels/listing/{listing_id}/change/", sku=sku)


def make_older(town: Town, handle: str, codes: list[str]) -> None:
    """Have what changed about these levels of the store lie back for a while."""
    channel_id = town.channel_id(handle)
    town.execute(
        """
        UPDATE channels_listinglevel level SET waiting_since = waiting_since - make_interval(mins => %s),
            sold_at = sold_at - make_interval(mins => %s)
        FROM channels_listing listing WHERE listing.id = level.listing_id AND level.channel_id = %s
            AND listing.remote_sku = ANY(%s)
        """,
        [AGE_MINUTES, AGE_MINUTES, channel_id, codes],
    )
    town.execute(
        """
        UPDATE sync_shadowwrite written SET created_at = created_at - make_interval(mins => %s),
            updated_at = updated_at - make_interval(mins => %s)
        FROM channels_listinglevel level JOIN channels_listing listing ON listing.id = level.listing_id
        WHERE level.id = written.listing_level_id AND level.channel_id = %s AND listing.remote_sku = ANY(%s)
        """,
        [AGE_MINUTES, AGE_MINUTES, channel_id, codes],
    )


def test_a_store_in_shadow_mode_receives_no_write_and_its_comparison_names_every_planted_mistake(town: Town) -> None:
    # The one store that units are kept back from.
    shadowed = next(handle for handle in town.handles if town.buffers[handle])
    buffer, (seller, *_) = town.buffers[shadowed], [handle for handle in town.handles if handle != shadowed]
    edited, unbuffered, unmapped, on_its_way, *others = town.plain_skus
    market = town.open_market(dict.fromkeys(town.plain_skus, UNITS))
    page = f"/stores/{town.channel_id(shadowed)}/shadow/"
    ((sku_id,),) = town.rows("SELECT id FROM inventory_sku WHERE code = %s", [unmapped])
    writes_before = requests_to_write(town, shadowed)
    town.owner.fill_in(page, act="enter", reason="a journey")
    try:
        town.stores.act(shadowed, "admin-ui/adjust", {"sku": edited, "delta": 7})
        town.stores.act(shadowed, "admin-ui/adjust", {"sku": unbuffered, "delta": buffer})
        set_mapping(town, shadowed, unmapped, sku="")
        town.stores.buy(shadowed, others[0], 4)
        until(lambda: town.has_told_all() and town.is_at_rest(), timeout_seconds=60)
        make_older(town, shadowed, [edited, unbuffered, unmapped])
        town.stores.buy(seller, on_its_way, 5)
        until(
            lambda: not [words for words in market.wrong(but_for=shadowed) if unmapped not in words], timeout_seconds=60
        )

        town.owner.fill_in(page, act="compare")
        until(lambda: "Comparison of" in town.owner.read(page).text, timeout_seconds=60)

        rows = list(csv.DictReader(io.StringIO(town.owner.download(f"{page}report.csv").lstrip("\ufeff"))))
        writes = requests_to_write(town, shadowed) - writes_before
        say(
            f"{writes} writes to the store in shadow mode; its comparison: {[(r['SKU'], r['Likely reason']) for r in rows]}"
        )
        assert writes == 0
        found = {row["SKU"]: (row["Would show"], row["Shows"], row["Likely reason"].split(":")[0]) for row in rows}
        should = UNITS - buffer
        assert found == {
            edited: (str(should), str(should + 7), "Changed in the store by hand or by another app"),
            unbuffered: (str(should), str(UNITS), "Buffer"),
            unmapped: ("", str(should), "Missing mapping"),
            on_its_way: (str(should - 5), str(should), "Timing"),
        }
    finally:
        set_mapping(town, shadowed, unmapped, sku=str(sku_id))
        town.until_calm()
        town.owner.fill_in(page.replace("/shadow/", "/live/"), reason="a journey")
    town.until_calm()

    # It went live with the writes that it was shown, and is as right as the others.
    assert requests_to_write(town, shadowed) > writes_before
    assert market.wrong() == []
