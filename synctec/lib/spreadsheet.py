"""Tables as CSV for spreadsheets, which run what looks like a formula: nothing of ours does."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

#: How a cell begins that a spreadsheet would compute instead of showing
#: (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def as_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The table, with a byte order mark so that spreadsheets read it as UTF-8. Texts that look like formulas are quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([_shown(cell) for cell in header])
    writer.writerows([_shown(cell) for cell in row] for row in rows)
    return "\ufeff" + out.getvalue()


def _shown(cell: object) -> object:
    """Numbers as they are: a negative one is no formula."""
    if cell is None or isinstance(cell, int | float):
        return cell
    text = str(cell).replace("\0", "")
    return f"'{text}" if text.startswith(_FORMULA) else text
