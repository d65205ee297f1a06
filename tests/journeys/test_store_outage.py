"""One store answers every call with an error for a while: the others do not notice, and afterwards it is right again."""

from __future__ import annotations

import os
import time

import pytest

from sync.measure import Measured
from tests.journeys.town import EXPECTED_MS, PROMISED_MS, Town, say, within
from tests.local.conftest import until

#: How long the store is in trouble. `JOURNEY_OUTAGE_SECONDS=120` makes it the two minutes that were asked for.
OUTAGE_SECONDS = float(os.environ.get("JOURNEY_OUTAGE_SECONDS", "25"))
QUIET_SECONDS = min(OUTAGE_SECONDS, 30.0) / 2
#: After so long all stores must be right again.
CONVERGED_SECONDS = 60
ORDERS_PER_SECOND = 4.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 3 * OUTAGE_SECONDS), pytest.mark.xdist_group("stack")]


def in_figures(measured: Measured) -> str:
    return f"{measured.sales} sales, p50 {measured.percentile(0.5)} ms, p99 {measured.percentile(0.99)} ms"


def test_a_store_that_answers_with_errors_leaves_the_others_alone_and_is_right_again_within_a_minute(
    town: Town,
) -> None:
    goods = dict.fromkeys(town.plain_skus, 60)
    troubled, *others = town.handles
    quiet = town.open_market(goods)
    town.shoppers(ORDERS_PER_SECOND, skus=town.plain_skus).run(QUIET_SECONDS)
    town.until_calm()
    quietly = quiet.measured(others)

    market = town.open_market(goods)
    town.set_faults({"error_rate": 1.0}, handle=troubled)
    # Its shoppers go on, and its webhooks come.
    tally = town.shoppers(ORDERS_PER_SECOND, skus=town.plain_skus).run(OUTAGE_SECONDS)
    until(lambda: not market.wrong(but_for=troubled), timeout_seconds=CONVERGED_SECONDS)
    behind = market.wrong()
    town.set_faults({}, handle=troubled)
    healed_at = time.monotonic()
    until(lambda: not market.wrong(), timeout_seconds=CONVERGED_SECONDS)
    converged_after = time.monotonic() - healed_at
    town.until_calm()

    meanwhile = market.measured(others)
    quiet_p99, p99 = quietly.percentile(0.99), meanwhile.percentile(0.99)
    assert quiet_p99
    assert p99
    say(
        f"quiet: {in_figures(quietly)}; one store of {len(town.handles)} in trouble for {OUTAGE_SECONDS:.0f} s: "
        f"{in_figures(meanwhile)} in the others, p99 {p99 / quiet_p99:.2f} times the quiet one; "
        f"it was behind with {len(behind)} levels and right again after {converged_after:.1f} s"
    )
    assert tally.errors == 0
    assert (quietly.unreflected, meanwhile.unreflected) == (0, 0)
    assert within(meanwhile.percentile(0.5), EXPECTED_MS)
    assert within(meanwhile.percentile(1.0), PROMISED_MS)
    assert behind != []
    assert all(words.startswith(troubled) for words in behind)
    assert market.measured().unreflected == 0
