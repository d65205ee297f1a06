"""What cannot be done is shown with its cause and a way out, holds up nothing else, and ends by itself with its cause."""

from __future__ import annotations

import time

import pytest
import requests

from tests.journeys.town import NO_LETTERS, Town, say
from tests.local.conftest import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("stack")]

LETTERS = "/dead-letters/"
#: After so long a store that answers again has the right numbers, and nobody is told of it any more.
RECOVERED_SECONDS = 60


def deliver(town: Town, handle: str, topic: str, payload: dict[str, object]) -> None:
    """Have the store send a signed message of this topic with this body to us."""
    control = f"{town.sandbox}/_control/stores/{handle}"
    subscriptions = requests.get(f"{control}/webhooks", timeout=5).json()["subscriptions"]
    (uri,) = {subscription["uri"] for subscription in subscriptions}
    asked = {"topic": topic, "uri": uri, "payload": payload}
    requests.post(f"{control}/compliance", json=asked, timeout=5).raise_for_status()


def test_a_store_that_keeps_failing_is_shown_to_the_operator_and_is_over_by_itself_when_it_answers(town: Town) -> None:
    sku = town.plain_skus[0]
    market = town.open_market({sku: 40})
    seller, troubled, *_ = town.handles
    assert NO_LETTERS in town.owner.read(LETTERS).text

    town.set_faults({"error_rate": 1.0}, handle=troubled)
    town.stores.buy(seller, sku, 3)
    began = time.monotonic()
    until(lambda: town.channel_name(troubled) in town.owner.read(LETTERS).text, timeout_seconds=180)
    shown_after = time.monotonic() - began
    page = town.owner.read(LETTERS)
    group = next(link for link, _ in page.links if link.startswith(f"{LETTERS}group/"))
    letter = next(
        link for link, _ in town.owner.read(group).links if link.startswith(LETTERS) and link[-2:-1].isdigit()
    )
    told = town.owner.read(letter).text
    town.set_faults({}, handle=troubled)
    healed = time.monotonic()
    until(lambda: NO_LETTERS in town.owner.read(LETTERS).text, timeout_seconds=RECOVERED_SECONDS)
    recovered_after = time.monotonic() - healed
    town.until_calm()

    say(
        f"a dead letter after {shown_after:.0f} s of errors; over by itself {recovered_after:.0f} s after it was healed"
    )
    assert "What to do:" in page.text
    # Every attempt: what was asked for, and the answer.
    assert all(words in told for words in (sku, "Attempts", "What was asked for", "Answer"))
    assert market.wrong() == []
    assert "Recovered" in town.owner.read(letter).text


def test_a_message_that_cannot_be_read_holds_up_no_sale_and_waits_for_the_operator(town: Town) -> None:
    sku = town.plain_skus[0]
    market = town.open_market({sku: 40})
    seller, *_ = town.handles

    deliver(town, seller, "orders/create", {"id": "none", "line_items": sku})
    town.stores.buy(seller, sku, 2)
    until(lambda: "cannot be read" in town.owner.read(LETTERS).text, timeout_seconds=60)
    until(lambda: not market.wrong(), timeout_seconds=60)

    # Tried again as a job, it fails again, and says so.
    again = next(link for link, _ in town.owner.read(LETTERS).links if link.startswith(f"{LETTERS}retry/"))
    job = town.owner.fill_in(again, sure="yes", why="a journey")
    until(lambda: "failed again" in town.owner.read(job.address).text, timeout_seconds=60)
    group = next(link for link, _ in town.owner.read(LETTERS).links if link.startswith(f"{LETTERS}group/"))
    letter = next(
        link for link, _ in town.owner.read(group).links if link.startswith(LETTERS) and link[-2:-1].isdigit()
    )
    town.owner.fill_in(letter, reason="a journey")

    page = town.owner.read(LETTERS)
    assert NO_LETTERS in page.text
    assert " dismissed" in page.text
