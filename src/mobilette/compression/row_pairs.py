"""The rows that two networks have in common, in order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mobilette.arch.rows import Block, Row

EXCITE = "squeeze_excite"
_GAP = 1.0  # the price of a row without a pair; that of a pair is its difference


def row_pairs(source: Sequence[Row], target: Sequence[Row]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of rows, in order, with the least differences and rows without a pair."""

    @cache
    def apart(old: int, new: int) -> float:
        """Return the least price from these rows on."""
        if old == len(source) or new == len(target):
            return _GAP * (len(source) - old + len(target) - new)
        alone = _GAP + min(apart(old + 1, new), apart(old, new + 1))
        return min(alone, _difference(source[old], target[new]) + apart(old + 1, new + 1))

    pairs, old, new = [], 0, 0
    for last in range(len(source), 0, -64):  # from behind, so that no recursion is deep
        apart(max(last - 64, 0), 0)
    while old < len(source) and new < len(target):
        # Of equal rows the last is the new one.
        if apart(old, new) == _difference(source[old], target[new]) + apart(old + 1, new + 1):
            pairs.append((old, new))
            old, new = old + 1, new + 1
        elif apart(old, new) == _GAP + apart(old, new + 1):
            new += 1
        else:
            old += 1
    return tuple(pairs)


def _difference(one: Row, other: Row) -> float:
    """Return how much two rows differ, 0 to 1, or infinity if they cannot be a pair."""
    if one == other:
        return 0.0
    if type(one) is not type(other) or one.stride != other.stride:
        return float("inf")
    if isinstance(one, Block) and isinstance(other, Block):
        if _shape(one) != _shape(other):
            return float("inf")
        last, theirs = _last(one), _last(other)
        return 0.25 + 0.5 * (last != theirs)
    return 0.5


def _shape(row: Block) -> tuple[object, ...]:
    names = [
        tuple(step.name for step in path if step.name != EXCITE) for path in (row.entry, *row.paths)
    ]
    return (*names, row.join, row.split, row.shuffle)


def _last(row: Block) -> list[int]:
    """Return the channels that a block computes."""
    found = [getattr(path[-1].operation, "channels", 0) for path in (row.entry, *row.paths) if path]
    return found[-1:]
