"""The remote ids of the bench's goods, for those who load no model."""

from __future__ import annotations

#: Enough that no bench sells out: a shortage would be other work than a sale.
UNITS = 1_000_000_000
#: Remote ids are `STORE * store + number`, so that they are as long as real ones.
STORE = 10_000_000_000
#: Items of a store are those of the store so many numbers further on.
ITEM_BASE = 500
LOCATION_BASE = 60_000_000_000
