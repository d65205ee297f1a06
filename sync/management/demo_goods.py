"""What the demo merchant sells, and where: made-up names, always the same for the same numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

_PRODUCTS = (
    ("Enamel mug", "MUG", 14),
    ("Wool blanket", "BLK", 89),
    ("Canvas tote", "TOT", 24),
    ("Camp lantern", "LAN", 46),
    ("Rain jacket", "JKT", 129),
    ("Trail socks", "SOC", 16),
    ("Steel bottle", "BOT", 29),
    ("Field notebook", "NBK", 9),
    ("Felt hat", "HAT", 52),
    ("Leather belt", "BLT", 44),
    ("Pocket knife", "KNF", 38),
    ("Linen shirt", "SHT", 69),
    ("Beeswax candle", "CND", 18),
    ("Cotton scarf", "SCF", 32),
    ("Day pack", "PCK", 98),
    ("Fire starter", "FIR", 12),
    ("Oak tray", "TRY", 36),
    ("Tin kettle", "KTL", 58),
    ("Work gloves", "GLV", 27),
    ("Picnic plate", "PLT", 11),
)
_SERIES = (("Harbor", "HB"), ("Summit", "SM"), ("Meadow", "MD"), ("Cedar", "CD"), ("Dune", "DN"))
_COLOURS = (
    ("slate", "SL"),
    ("moss", "MO"),
    ("sand", "SA"),
    ("rust", "RU"),
    ("ink", "IN"),
    ("chalk", "CH"),
    ("plum", "PL"),
)

_PLACES = (
    ("Harbor Street", "Quayside shop"),
    ("Old Mill", "Mill yard"),
    ("Northgate", "Gate house"),
    ("Lantern Lane", "Corner shop"),
    ("Summit Outlet", "Outlet floor"),
    ("Cedar Market", "Market hall"),
    ("Riverbend", "Boat house"),
    ("Station Arcade", "Arcade 12"),
    ("Dune Beach", "Beach hut"),
    ("Orchard Row", "Barn"),
)


@dataclass(frozen=True, slots=True)
class Good:
    """One SKU: `price` in whole units of the store's currency."""

    code: str
    product: str
    variant: str
    price: int

    @property
    def title(self) -> str:
        return f"{self.product}, {self.variant}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A set of goods sold as one: the SKU of each component with its quantity."""

    code: str
    product: str
    variant: str
    price: int
    parts: tuple[tuple[str, int], ...]

    @property
    def title(self) -> str:
        return f"{self.product}: {self.variant}"


@dataclass(frozen=True, slots=True)
class DemoStore:
    """One practice store with one location. `buffer_units` are kept back from it."""

    handle: str
    name: str
    location: str
    buffer_units: int


def goods(number: int) -> list[Good]:
    """The first `number` goods of the catalogue, which has no end."""
    return list(islice(_all_goods(), number))


def _all_goods() -> Iterator[Good]:
    for edition in count(1):
        for series, series_code in _SERIES:
            for colour, colour_code in _COLOURS:
                for product, product_code, price in _PRODUCTS:
                    suffix = f"-{edition}" if edition > 1 else ""
                    name = f"{series} {product.lower()}" + (f" no. {edition}" if edition > 1 else "")
                    yield Good(
                        code=f"{product_code}-{series_code}-{colour_code}{suffix}",
                        product=name,
                        variant=colour,
                        price=price,
                    )


def bundles(number: int, carried: list[Good]) -> list[Bundle]:
    """Up to `number` sets made of the goods carried; the last one of four holds two units of its first
    component."""
    made = []
    for index, place in enumerate(range(0, len(carried) - 2, 3)):
        if index == number:
            break
        parts = carried[place : place + (3 if index % 2 else 2)]
        quantities = [2 if index % 4 == 3 and position == 0 else 1 for position in range(len(parts))]
        made.append(
            Bundle(
                code=f"SET-{index + 1:02d}",
                product=f"Gift set {index + 1}",
                variant=" + ".join(part.product.lower() for part in parts),
                price=sum(part.price * units for part, units in zip(parts, quantities, strict=True)) * 9 // 10,
                parts=tuple((part.code, units) for part, units in zip(parts, quantities, strict=True)),
            )
        )
    return made


def demo_stores(number: int) -> list[DemoStore]:
    """The first `number` stores of a street that has no end. Every fifth, from the third on, keeps two units
    back."""
    stores = []
    for index in range(number):
        name, location = _PLACES[index % len(_PLACES)]
        again = index // len(_PLACES)
        shown = f"{name} {again + 1}" if again else name
        stores.append(
            DemoStore(
                handle=f"demo-{shown.lower().replace(' ', '-')}",
                name=shown,
                location=location,
                buffer_units=2 if index % 5 == 2 else 0,
            )
        )
    return stores
