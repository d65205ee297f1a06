"""CSV files that a spreadsheet opens without running anything."""

from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from synctec.lib.csvfile import csv_of, safe_cell


@given(text=st.text())
def test_no_cell_begins_like_a_formula(text: str) -> None:
    assert not str(safe_cell(text)).startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\0"))


def test_numbers_stay_numbers_and_nothing_is_empty() -> None:
    body = csv_of(("SKU", "Shows", "Would"), [("=1+1", -3, None)])

    assert list(csv.reader(io.StringIO(body.decode("utf-8-sig")))) == [["SKU", "Shows", "Would"], ["'=1+1", "-3", ""]]
