"""What a chaos run is made of. The run itself takes minutes: `make chaos`, and one of them in CI."""

import random

import pytest
from django.core.management import CommandError, call_command

from channels.sandbox.faults import Faults, parse_faults
from sync.management.chaos import FAULTS_ON_THE_WAY, LINK_TROUBLES, STORE_TROUBLES, Report
from sync.management.chaos_scene import BUNDLES, COUNTED, GOODS, PROBES
from sync.management.demo_goods import bundles, goods
from synctec.lib.failpoints import POINTS
from synctec.local.proxy import SOUND


@pytest.mark.parametrize("draw", STORE_TROUBLES)
def test_the_sandbox_understands_every_trouble_of_a_store(draw: object) -> None:
    assert callable(draw)

    assert parse_faults(draw(random.Random(1))) != Faults()


@pytest.mark.parametrize("draw", LINK_TROUBLES)
def test_every_trouble_of_a_link_is_one(draw: object) -> None:
    assert callable(draw)

    assert draw(random.Random(1)) != SOUND


@pytest.mark.parametrize(("point", "faults"), FAULTS_ON_THE_WAY.items())
def test_the_way_to_a_crash_point_can_be_gone(point: str, faults: dict[str, object]) -> None:
    assert point in POINTS
    assert parse_faults(faults) != Faults()


def test_there_are_goods_for_everyone() -> None:
    carried = goods(GOODS)
    in_bundles = {code for bundle in bundles(BUNDLES, carried) for code, _ in bundle.parts}

    assert GOODS - len(in_bundles) > PROBES + COUNTED


@pytest.mark.parametrize("option", ["--minutes=0", "--stores=1"])
def test_senseless_options_are_refused(option: str) -> None:
    with pytest.raises(CommandError, match="some time and two stores"):
        call_command("chaos", option)


def test_a_violation_names_what_is_broken() -> None:
    good, bad = Report(minutes=1, seed=1), Report(minutes=1, seed=1)

    bad.violate("oversold_units_are_declared", "each is a shortage", {"sku": "MUG"})

    assert (good.is_good, bad.is_good) == (True, False)
    assert bad.violations == [
        {"name": "oversold_units_are_declared", "says": "each is a shortage", "rows": [{"sku": "MUG"}]}
    ]
