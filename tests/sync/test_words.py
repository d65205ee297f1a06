"""What the pages call things."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sync import words

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "now"),
        (0, "now"),
        (1.9, "now"),
        (2, "2 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (7_199, "1 h"),
        (86_400, "1 d"),
    ],
)
def test_an_age_is_one_short_word(seconds: float, said: str) -> None:
    assert words.ago(NOON - timedelta(seconds=seconds), NOON) == said


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (0, "0 ms"),
        (84.4, "84 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
        (12_345, "12.3 s"),
        (186_000, "3.1 min"),
    ],
)
def test_a_duration_has_about_three_digits(milliseconds: float, said: str) -> None:
    assert words.duration(timedelta(milliseconds=milliseconds)) == said


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("orders/create", "Order placed"),
        ("fulfillment_orders/moved", "Fulfillment orders moved"),
        ("odd", "Odd"),
        ("", ""),
    ],
)
def test_a_topic_is_told_in_words(topic: str, said: str) -> None:
    assert words.topic_in_words(topic) == said


def test_numbers_are_counted_with_their_noun() -> None:
    assert words.count(1, "event") == "1 event"
    assert words.count(1200, "event") == "1\u202f200 events"
    assert words.count(500, "event", limit=500) == "500+ events"
    assert words.signed(-3) == "\u22123"
