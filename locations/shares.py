"""Dividing whole units among those who want them, under bounds on what they may have together. Pure.

`fill` raises everybody together in proportion to weight; who reaches a limit stays there, and the others go on with what
it leaves over (weighted max-min fairness). What whole numbers leave over goes to the largest remainders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: A weight that is smaller than the greatest by this factor counts as nothing: fractions could not tell it from that.
SMALLEST_WEIGHT = 1e-9

#: A unit left over by rounding leaves who holds it only for a remainder larger by this much: weights that are measured
#: waver, and units should not wander with them.
STICKINESS = 0.5


class Bound(NamedTuple):
    """The members may have `room` units together; each of what a member gets takes so many of them."""

    room: int
    units: Mapping[int, int]

    def left(self, given: Sequence[int]) -> int:
        """What is left of the room once each has what is `given`; below zero when they have too much."""
        room = self.room
        for member, units in self.units.items():
            room -= units * given[member]
        return room


def fill(
    *,
    base: Sequence[int],
    tops: Sequence[int],
    weights: Sequence[float],
    bounds: Sequence[Bound],
    held: Sequence[int],
) -> list[int]:
    """Raise everyone from `base` towards `tops` in proportion to `weights`, as far as the bounds allow.

    Weight 0 gets nothing. Where a unit is left over by rounding, who holds it already (`held`) is preferred. Nobody ends
    below its base, and no bound that had room is overrun.
    """
    greatest = max(weights, default=0.0)
    weights = [weight / greatest if greatest else 0.0 for weight in weights]
    rising = [place for place, weight in enumerate(weights) if weight > SMALLEST_WEIGHT and tops[place] > base[place]]
    if not rising:
        return list(base)
    raised = _rise_together(rising, base, tops, weights, bounds)
    given = list(base)
    for place in rising:
        given[place] += int(raised[place])
    remainders = {
        place: raised[place] % 1 + (STICKINESS if held[place] > given[place] else 0)
        for place in rising
        if given[place] < tops[place]
    }
    _hand_out(sorted(remainders, key=lambda place: -remainders[place]), given, tops, bounds)
    return given


def _rise_together(
    rising: Sequence[int],
    base: Sequence[int],
    tops: Sequence[int],
    weights: Sequence[float],
    bounds: Sequence[Bound],
) -> list[float]:
    """How far each gets above its base, in fractions of units. Each round stops at least one for good."""
    raised = [0.0] * len(base)
    rooms = [float(bound.left(base)) for bound in bounds]
    active = list(rising)
    while active:
        step = min((tops[place] - base[place] - raised[place]) / weights[place] for place in active)
        paces = [
            sum(bound.units[place] * weights[place] for place in active if place in bound.units) for bound in bounds
        ]
        full: Mapping[int, int] = {}
        for bound, room, pace in zip(bounds, rooms, paces, strict=True):
            if pace and room < step * pace:
                step, full = max(0.0, room / pace), bound.units
        for place in active:
            raised[place] += weights[place] * step
        rooms = [room - pace * step for room, pace in zip(rooms, paces, strict=True)]
        # Fractions are inexact: who is a millionth of a unit short of its top has reached it.
        active = [place for place in active if place not in full and tops[place] - base[place] - raised[place] > 1e-6]
    return raised


def _hand_out(order: Sequence[int], given: list[int], tops: Sequence[int], bounds: Sequence[Bound]) -> None:
    """Give single units in this order, in turns, until nobody can have another one."""
    rooms = [bound.left(given) for bound in bounds]
    takes = {
        place: [(number, bound.units[place]) for number, bound in enumerate(bounds) if place in bound.units]
        for place in order
    }
    waiting = list(order)
    while waiting:
        served = []
        for place in waiting:
            if given[place] < tops[place] and all(rooms[number] >= units for number, units in takes[place]):
                given[place] += 1
                for number, units in takes[place]:
                    rooms[number] -= units
                served.append(place)
        waiting = served
