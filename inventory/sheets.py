"""Lists of SKUs and quantities as people have them: typed, pasted from a spreadsheet, or a CSV file. Pure."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field

ROWS_MAX = 1_000
#: More is no quantity; the columns hold twice of it.
QUANTITY_MAX = 100_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a sheet, with its number there for people to find it."""

    number: int
    sku: str
    quantity: int


@dataclass(slots=True)
class Sheet:
    """What could be read, and a sentence for every line that could not."""

    rows: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def read(text: str, *, quantity_min: int) -> Sheet:
    """Read lines of `SKU, quantity`, separated by a tab, a semicolon or a comma (the first one found in the sheet).

    Empty lines are passed over, and so is a first line whose second cell is no number (a heading). A SKU that comes twice
    is an error: nobody can know which of the two was meant.
    """
    sheet = Sheet()
    separator = next((mark for mark in "\t;," if mark in text), ",")
    seen: dict[str, int] = {}
    lines = text.removeprefix("\ufeff").replace("\x00", "").splitlines()
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
        if not any(cells):
            continue
        if len(sheet.rows) + len(sheet.errors) >= ROWS_MAX:
            sheet.errors.append(f"Line {number}: a sheet has {ROWS_MAX:,} lines at most. Split it.")
            break
        problem = _problem_of(cells, quantity_min)
        if problem and not seen and not sheet.errors and len(cells) > 1 and not any(map(str.isdigit, cells[1])):
            continue
        if not problem and cells[0] in seen:
            problem = f"{cells[0]!r} stands in line {seen[cells[0]]} already; add the two up"
        if problem:
            sheet.errors.append(f"Line {number}: {problem}.")
            continue
        seen[cells[0]] = number
        sheet.rows.append(Row(number, cells[0], int(cells[1])))
    return sheet


def _problem_of(cells: list[str], quantity_min: int) -> str:
    """What is wrong with a line; empty for nothing."""
    if len(cells) < 2 or any(cells[2:]):
        return "write a SKU and a quantity, separated by a comma"
    sku, quantity = cells[:2]
    if not 0 < len(sku) <= 100:
        return "a SKU has 1 to 100 characters"
    is_number = quantity.isascii() and quantity.isdigit() and len(quantity) <= 9
    if not is_number or not quantity_min <= int(quantity) <= QUANTITY_MAX:
        return f"{quantity[:20]!r} is no quantity; write a whole number from {quantity_min}"
    return ""
