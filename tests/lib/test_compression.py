"""Bytes that are kept compressed come back as they were."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from channels import bodies
from synctec.lib.compression import compress, decompress
from synctec.lib.sql import rows
from tests.factories import deliver, make_trade


@given(st.binary(max_size=5_000), st.integers(1, 50))
def test_what_was_compressed_comes_back(piece: bytes, times: int) -> None:
    raw = piece * times
    assert decompress(compress(raw)) == raw


def test_a_frame_kept_is_a_frame_even_of_a_frame() -> None:
    frame = compress(b"{}")
    assert decompress(compress(frame)) == frame


@given(st.binary(min_size=1, max_size=100))
def test_what_somebody_else_wrote_is_returned_as_it_is(raw: bytes) -> None:
    assert decompress(b"{" + raw) == b"{" + raw
    broken = zstandard.compress(raw * 9)[:-1]
    assert decompress(broken) == broken


@pytest.mark.django_db
def test_a_body_is_small_on_disk_and_whole_in_python() -> None:
    body = b'{"id": 1, "line_items": [' + b'{"title": "Mug"}, ' * 300 + b"{}]}"
    event = deliver(make_trade().shops["north"], "orders/create", body)

    ((kept,),) = rows("SELECT octet_length(sealed) FROM channels_inboxbody WHERE event_id = %s", [event.pk])

    assert bodies.read(event) == body
    assert kept < len(body) / 5
