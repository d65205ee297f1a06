from __future__ import annotations

import csv
import io

import pytest

from synctec.lib.spreadsheet import as_csv


def test_a_table_comes_back_as_it_was() -> None:
    told = as_csv(["day", "value"], [["2026-11-20", 1.5], ['a "quoted", text\nof two lines', None]])

    rows = list(csv.reader(io.StringIO(told.removeprefix("\ufeff"), newline="")))
    assert rows == [["day", "value"], ["2026-11-20", "1.5"], ['a "quoted", text\nof two lines', ""]]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_nothing_is_a_formula(text: str) -> None:
    assert f"'{text}" in next(csv.reader(io.StringIO(as_csv([text], []).removeprefix("\ufeff"), newline="")))


def test_a_number_below_zero_is_a_number() -> None:
    assert as_csv(["n"], [[-3]]).endswith("-3\r\n")
