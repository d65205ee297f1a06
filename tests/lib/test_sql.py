"""Arrays as `synctec.lib.sql` writes them come back as they were told; what counts as trouble with the database."""

import time
import uuid
from datetime import UTC, datetime

import pytest
from django.db import DataError, InternalError, OperationalError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from synctec.lib import sql

BIGINTS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  # bounds


class TestArrays(TestCase):
    @settings(max_examples=50)
    @given(st.lists(BIGINTS | st.none()), st.lists(TEXTS), st.lists(TEXTS | st.none()))
    def test_numbers_and_texts(self, numbers: list[int | None], texts: list[str], gaps: list[str | None]) -> None:
        told = sql.rows("SELECT %s::bigint[], %s::text[], %s::text[]", [numbers, texts, gaps])
        assert told == [(numbers, texts, gaps)]

    @settings(max_examples=50)
    @given(st.lists(MOMENTS | st.none()), st.lists(st.uuids() | st.none()), st.lists(st.booleans() | st.none()))
    def test_moments_ids_and_flags(
        self, moments: list[datetime | None], ids: list[uuid.UUID | None], flags: list[bool | None]
    ) -> None:
        told = sql.rows("SELECT %s::timestamptz[], %s::uuid[], %s::bool[]", [moments, ids, flags])
        assert told == [(moments, ids, flags)]


@pytest.mark.django_db
def test_a_text_with_a_nul_is_refused() -> None:
    with pytest.raises(DataError):
        sql.rows("SELECT %s::text[]", [["a\0b", "c"]])


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_the_database_ended_is_trouble_with_the_database() -> None:
    """What a process meets that stood still with a transaction open."""

    def stand_still() -> None:
        with transaction.atomic():
            sql.rows("SELECT set_config('idle_in_transaction_session_timeout', '50', true)")
            time.sleep(0.5)
            sql.rows("SELECT 1")

    with pytest.raises(sql.AWAY) as trouble:
        stand_still()
    connection.close()

    assert isinstance(trouble.value, InternalError | OperationalError)
