"""The results of `bench/fit_regret.py` as a table and a picture.

    python bench/fit_regret_page.py RESULTS.jsonl... --out docs/figures/fit_regret.png

One row for each set, budget and seed: the best family in hindsight, `fit`, and what
`models --budget` lists first, on images that nothing was chosen by. Prints Markdown; the last line
has the medians.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from bench.fit_regret import FIT, LISTED
else:
    from fit_regret import FIT, LISTED

Cell = tuple[str, str, str, int]


def read(files: list[Path]) -> dict[Cell, dict[str, float]]:
    """Return the accuracies of each cell, by who reached them; 0 where nothing was made in time."""
    cells: dict[Cell, dict[str, float]] = defaultdict(dict)
    for line in (json.loads(x) for path in files for x in path.read_text().splitlines()):
        key = (line["set"], line["budget"], line["time"], line["seed"])
        cells[key][line["who"]] = line["top1"] or 0.0
    return {key: cells[key] for key in sorted(cells)}


def families(found: dict[str, float]) -> dict[str, float]:
    """Return the accuracies of the families alone."""
    return {who: x for who, x in found.items() if who != LISTED and not who.startswith(FIT)}


def table(cells: dict[Cell, dict[str, float]]) -> str:
    """Return the cells as Markdown, and the medians."""
    lines = [
        "| set | budget | time | seed | `fit` | best family alone | regret | `models --budget` |",
        "|---|---|--:|--:|--:|---|--:|--:|",
    ]
    regrets, gains = [], []
    for (name, budget, limit, seed), found in cells.items():
        ours, alone = found[FIT], families(found)
        best = max(alone, key=lambda who: alone[who])
        regrets.append(100 * (alone[best] - ours))
        gains.append(100 * (ours - found[LISTED]))
        lines.append(
            f"| {name} | `{budget}` | {limit} | {seed} | {ours:.1%} | {alone[best]:.1%} {best} "
            f"| {regrets[-1]:.1f} | {found[LISTED]:.1%} |"
        )
    lines.append(
        f"\nMedian regret {median(regrets):.1f} points, worst {max(regrets):.1f}; against "
        f"`models --budget` {median(gains):+.1f} points in the median, {min(gains):+.1f} at worst."
    )
    return "\n".join(lines)


def picture(cells: dict[Cell, dict[str, float]], path: Path) -> None:
    """Draw one row for each cell: the families, `fit` and what is listed."""
    figure = Figure(figsize=(7.5, 0.5 * len(cells) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for row, found in enumerate(cells.values()):
        alone = [100 * x for x in families(found).values()]
        axes.plot([0, 100], [row, row], color="0.9", zorder=0)
        axes.scatter(alone, [row] * len(alone), color="0.6", s=24)
        axes.scatter(100 * found[LISTED], row, edgecolors="tab:orange", facecolors="none", s=60)
        axes.scatter(100 * found[FIT], row, color="tab:blue", marker="D", s=36)
    axes.set_yticks(range(len(cells)), [f"{x[0]}  {x[1]}  {x[3]}" for x in cells])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1, % of images that nothing was chosen by")
    for text, style in (
        ("fit", {"color": "tab:blue", "marker": "D"}),
        ("each family alone", {"color": "0.6", "marker": "o"}),
        ("first of models --budget", {"color": "tab:orange", "marker": "o", "mfc": "none"}),
    ):
        axes.plot([], [], linestyle="none", label=text, **style)  # type: ignore[arg-type]
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)


def main(
    results: list[Path], out: Annotated[Path, typer.Option()] = Path("build/fit_regret.png")
) -> None:
    """Print the table, write the picture."""
    cells = {key: x for key, x in read(results).items() if {FIT, LISTED} < x.keys()}
    print(table(cells))
    picture(cells, out)


if __name__ == "__main__":
    typer.run(main)
