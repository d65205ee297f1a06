"""Sheets as people have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory import sheets


@pytest.mark.parametrize(
    "text",
    [
        "MUG,4\nTEE,0",
        "\ufeffSKU;Quantity\r\nMUG;4\r\n\r\nTEE;0\r\n",
        "MUG\t4\nTEE\t0",
        '"MUG", 4\n  TEE ,0  ',
        "sku,counted,\nMUG,4,\nTEE,0,",
    ],
)
def test_all_the_usual_ways_are_read(text: str) -> None:
    sheet = sheets.read(text, quantity_min=0)

    assert sheet.errors == []
    assert [(row.sku, row.quantity) for row in sheet.rows] == [("MUG", 4), ("TEE", 0)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("MUG", "write a SKU and a quantity"),
        ("MUG,4,5", "write a SKU and a quantity"),
        ("MUG,", "is no quantity"),
        ("MUG,4.5", "is no quantity"),
        ("MUG,-1", "is no quantity"),
        ("MUG,0", "from 1"),
        ("MUG,four of 5", "is no quantity"),
        ("MUG,٤", "is no quantity"),
        ("MUG,1000000000", "is no quantity"),
        (",4", "1 to 100 characters"),
        ("HAT,4", "stands in line 1 already"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, complaint: str) -> None:
    sheet = sheets.read(f"HAT,1\n{line}\nTEE,2", quantity_min=1)

    assert [row.sku for row in sheet.rows] == ["HAT", "TEE"]
    (error,) = sheet.errors
    assert error.startswith("Line 2: ")
    assert complaint in error


def test_a_sheet_without_end_is_cut() -> None:
    sheet = sheets.read("\n".join(f"S{number},1" for number in range(1_200)), quantity_min=1)

    assert (len(sheet.rows), len(sheet.errors)) == (1_000, 1)


@given(st.text(max_size=200), st.sampled_from([0, 1]))
def test_whatever_is_pasted_is_read_or_named(text: str, quantity_min: int) -> None:
    sheet = sheets.read(text, quantity_min=quantity_min)

    assert all(row.sku and quantity_min <= row.quantity <= sheets.QUANTITY_MAX for row in sheet.rows)
    assert len({row.sku for row in sheet.rows}) == len(sheet.rows)
