"""One stack for all journeys: real processes and servers on free ports, in a folder of their own.

It takes half a minute to start, so whoever uses it belongs into the xdist group "stack", and leaves it healed and at rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from synctec.local.stack import LocalStack
from tests.journeys.town import Town

STORES = 4


@pytest.fixture(scope="session")
def armed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of failpoints that the stack obeys."""
    return tmp_path_factory.mktemp("failpoints")


@pytest.fixture(scope="session")
def _town(tmp_path_factory: pytest.TempPathFactory, armed: Path) -> Iterator[Town]:
    local = LocalStack(
        tmp_path_factory.mktemp("stack") / "data",
        demo_options=(f"--stores={STORES}", "--skus=40"),
        variables={"FAILPOINTS": str(armed)},
    )
    with local:
        # These are about messages and crashes. What a policy divides among the stores is the short chaos's affair.
        with psycopg.connect(local.environment["DATABASE_URL"], autocommit=True) as books:
            books.execute("UPDATE locations_locationgroup SET policy = 'shared'")
        yield Town(local)
    local.remove_data()


@pytest.fixture
def town(_town: Town) -> Iterator[Town]:
    """The stack, whose stores are healed afterwards, whatever a journey did to them."""
    yield _town
    _town.set_faults({})
