"""Ten thousand points of the catalogue against a budget: all at once, and one by one with `cost`.

The points are every network at its published and usual widths and at 29 resolutions. Our side is
`mobilette.counting.candidates.candidates`, what `mobilette models --budget` calls; the plain side
calls `mobilette.counting.cost.cost` for one point in twenty and is scaled up. The first sweep,
without a budget, is the warm-up. Times are of the processor, because one thread does the work and
other programs may share the machine; the wall clock of our side is printed beside.

    python bench/budget.py [--rounds 5]
"""

from __future__ import annotations

import platform
import time
from statistics import median

import numpy as np
import typer

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.scale import Settings
from mobilette.counting.budget import parse_budget
from mobilette.counting.candidates import candidates
from mobilette.counting.cost import cost

RESOLUTIONS = range(96, 321, 8)
BUDGET = "madds<=60M, size<=1MB, ram<=256KB"
EVERY = 20


def main(rounds: int = 5) -> None:
    """Measure both sides in turns and print the ratio of their medians."""
    names, budget = list_models(), parse_budget(BUDGET)
    every_point = candidates(names, (), resolutions=RESOLUTIONS)
    assert isinstance(every_point, list)
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"{len(every_point):,} points, budget {BUDGET}, {rounds} rounds, one thread")
    at_once, one_by_one = [], []
    for number in range(1, rounds + 1):
        begun, clock = time.process_time(), time.perf_counter()
        candidates(names, budget, resolutions=RESOLUTIONS)
        at_once.append(time.process_time() - begun)
        wall = time.perf_counter() - clock
        begun = time.process_time()
        for point in every_point[::EVERY]:
            settings = Settings(width_mult=point.width_mult, resolution=point.resolution)
            cost(get_arch(point.name, settings))
        one_by_one.append(EVERY * (time.process_time() - begun))
        print(
            f"round {number}  at once {at_once[-1]:.2f} s (wall clock {wall:.2f} s)  "
            f"one by one {one_by_one[-1]:.1f} s"
        )
    for label, seconds in (("at once", at_once), ("one by one", one_by_one)):
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{label:<10}  median {median(seconds):.2f} s  ({spread})")
    print(f"ratio: {median(one_by_one) / median(at_once):.1f}")


if __name__ == "__main__":
    typer.run(main)
