"""The same network without one kind of operation: what it cost is the difference."""

from __future__ import annotations

from dataclasses import replace

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Block, Branch, Operation


def without(arch: Arch, kind: type[Operation]) -> Arch:
    """Return ``arch`` with all steps of its blocks left out that are a ``kind``."""

    def rest(path: Branch) -> Branch:
        return tuple(step for step in path if not isinstance(step.operation, kind))

    rows = tuple(
        replace(row, entry=rest(row.entry), paths=tuple(map(rest, row.paths)))
        if isinstance(row, Block)
        else row
        for row in arch.rows
    )
    return replace(arch, rows=rows)
