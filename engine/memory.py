"""The memory plan: where intermediate values lie.

Comes in: values with their sizes and the first and last step that touches each. Goes out: an arena number and an offset
for each, such that no two that are alive at once overlap. The largest are placed first, each at the lowest place that
is free during its whole life (the greedy-by-size strategy of Pisarchyk and Lee, 2020). Arenas are as large as a device
allows a single allocation to be.

>>> from clgrad.engine.memory import Life, place
>>> place([Life(100, 0, 1), Life(100, 1, 2), Life(100, 2, 3)], alignment=64, largest=10**9)
([(0, 0), (0, 128), (0, 0)], [256])
"""

from __future__ import annotations

from typing import NamedTuple


class Life(NamedTuple):
    """`nbytes` needed from step `first` to step `last`, both included."""

    nbytes: int
    first: int
    last: int


def place(lives: list[Life], alignment: int, largest: int) -> tuple[list[tuple[int, int]], list[int]]:
    """(arena, offset) of each life, and the size of each arena."""
    places: list[tuple[int, int]] = [(0, 0)] * len(lives)
    arenas: list[int] = []
    placed: list[list[tuple[int, int, Life]]] = []  # for each arena: (start, end, life)
    for number in sorted(range(len(lives)), key=lambda i: (-lives[i].nbytes, i)):
        life = lives[number]
        size = -(-max(life.nbytes, 1) // alignment) * alignment
        for arena in range(len(arenas) + 1):
            if arena == len(arenas):
                arenas.append(0)
                placed.append([])
            offset = _lowest_gap(placed[arena], life, size)
            if offset + size <= largest or not placed[arena]:
                break
        placed[arena].append((offset, offset + size, life))
        arenas[arena] = max(arenas[arena], offset + size)
        places[number] = (arena, offset)
    return places, arenas


def _lowest_gap(placed: list[tuple[int, int, Life]], life: Life, size: int) -> int:
    offset = 0
    alive = (p for p in placed if p[2].first <= life.last and life.first <= p[2].last)
    for start, end, _ in sorted(alive, key=lambda p: p[0]):
        if offset + size <= start:
            break
        offset = max(offset, end)
    return offset
