"""Pruning against a narrower network of the same family, trained from scratch for as long.

    python bench/prune_vs_width.py --data ../shared/data/cifar10-jpeg.zip --time 3m
    python bench/prune_vs_width.py --data ../shared/data/cifar10-4k --width-mult 0.5 --time 60s

A network is trained (`--time`) and pruned to parts of its mult-adds (`--prune-time` each, cutting,
measuring and fine-tuning together). Beside each: the same family at the width that costs as much,
trained from scratch for both times together. Every side is our command line in a process of its
own, one after the other; with `--rounds` all of it again with other seeds. Accuracy is that of each
run's best weights on the images held out.

`--out` gets the table and `--image` the image; with `--also` what another call measured
beside it, on other cores (OMP_NUM_THREADS), is on the same page. The last line, `ratio: X`, is the
median over models, parts and rounds of the errors from scratch divided by those of the pruned
network: above 1 where pruning is better.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.counting.cost import cost
from mobilette.errors import InputError
from mobilette.training.recipe import parse_duration

if TYPE_CHECKING:
    from bench.contenders import SOURCES, machine
    from bench.images import count_images, unpack
else:
    from contenders import SOURCES, machine
    from images import count_images, unpack

WIDTHS = [number / 200 for number in range(10, 600)]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all sides share; times are in seconds."""

    data: Path
    scratch: Path
    width_mult: float
    resolution: int
    seconds: float
    prune_seconds: float
    steps: int
    recipe: str
    prune_recipe: str
    device: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One part of one network's mult-adds: pruned, and as a narrower network."""

    model: str
    seed: int
    keep: float
    base_madds: int
    base_top1: float
    madds: int
    params: int
    pruned_top1: float
    width_mult: float
    width_madds: int
    width_params: int
    width_top1: float

    @property
    def ratio(self) -> float:
        """The error from scratch by that of the pruned network."""
        return (1 - self.width_top1) / max(1 - self.pruned_top1, 1e-9)


def mobilette(*arguments: object) -> dict[str, Any]:
    """Run our command line and return its answer.

    Raises:
        InputError: it failed.
    """
    command = [sys.executable, "-m", "mobilette", *map(str, arguments), "--json"]
    paths = [SOURCES, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed:\n{done.stderr[-3_000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def train(task: Task, model: str, *, width: float, seconds: float, seed: int) -> dict[str, Any]:
    """Train from scratch, and return what `train` answers."""
    return mobilette(
        "train", task.data, "--model", model, "--width-mult", width, "--resolution",
        task.resolution, "--recipe", task.recipe, "--time", f"{seconds:g}s", "--seed", seed,
        "--from", "scratch", "--device", task.device, "--force", "--out",
        task.scratch / f"{model}-{width:g}-{seed}",
    )  # fmt: skip


def rows_of(
    task: Task, model: str, *, keeps: list[float], seed: int, classes: int
) -> Iterator[Row]:
    """Train ``model``, prune it and train its narrower versions."""
    base = train(task, model, width=task.width_mult, seconds=task.seconds, seed=seed)
    say(f"{model}, seed {seed}: {base['top1']:.1%}")
    for keep in keeps:
        pruned = mobilette(
            "prune", base["run"], task.data, "--keep", keep, "--steps", task.steps, "--recipe",
            task.prune_recipe, "--time", f"{task.prune_seconds:g}s", "--seed", seed, "--device",
            task.device, "--force", "--out", task.scratch / "pruned",
        )  # fmt: skip
        width = width_of_cost(model, pruned["madds"], resolution=task.resolution, classes=classes)
        seconds = task.seconds + task.prune_seconds
        narrow = train(task, model, width=width, seconds=seconds, seed=seed)
        costs = {
            mult: cost(arch_of(model, mult, resolution=task.resolution, classes=classes))
            for mult in (task.width_mult, width)
        }
        row = Row(
            model=model,
            seed=seed,
            keep=keep,
            base_madds=costs[task.width_mult].madds,
            base_top1=base["top1"],
            madds=pruned["madds"],
            params=pruned["params"],
            pruned_top1=pruned["steps"][-1]["tuned"],
            width_mult=width,
            width_madds=costs[width].madds,
            width_params=costs[width].params,
            width_top1=narrow["top1"],
        )
        say(f"  {keep:g}: pruned {row.pruned_top1:.1%}, x{width:g} {row.width_top1:.1%}")
        yield row


def arch_of(model: str, width: float, *, resolution: int, classes: int) -> Any:
    """Return the network as `train` makes it."""
    return get_arch(model, Settings(width_mult=width, resolution=resolution, num_classes=classes))


def width_of_cost(model: str, madds: int, *, resolution: int, classes: int) -> float:
    """Return the width multiplier whose mult-adds are nearest to ``madds``."""

    def distance(width: float) -> int:
        arch = arch_of(model, width, resolution=resolution, classes=classes)
        return abs(cost(arch).madds - madds)

    return min(WIDTHS, key=distance)


def say(line: str) -> None:
    """Say on stderr what a run came to."""
    print(line, file=sys.stderr, flush=True)


def to_markdown(rows: list[Row], title: str) -> str:
    """Return the page: how it was measured, and the table, means over the rounds."""
    lines = [
        "# Pruning against a narrower network",
        "",
        "Written by `bench/prune_vs_width.py`; its first lines say how the two are compared.",
        "",
        f"{title}.",
        "",
        "| network | mult-adds | of all | pruned: top-1 | from scratch: top-1 | width | its "
        "mult-adds | points ahead |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for model in dict.fromkeys(row.model for row in rows):
        whole = [row for row in rows if row.model == model]
        base = mean(row.base_top1 for row in whole)
        lines.append(
            f"| {model} | {whole[0].base_madds:,} | 100% | {base:.2%} (unpruned) | | | | |"
        )
        for keep in dict.fromkeys(row.keep for row in whole):
            some = [row for row in whole if row.keep == keep]
            pruned, narrow = (
                mean(values)
                for values in zip(*((r.pruned_top1, r.width_top1) for r in some), strict=True)
            )
            one = some[0]
            lines.append(
                f"| {model} | {one.madds:,} | {one.madds / one.base_madds:.1%} | {pruned:.2%} "
                f"| {narrow:.2%} | {one.width_mult:g} | {one.width_madds:,} "
                f"| {100 * (pruned - narrow):+.2f} |"
            )
    ratio = median(row.ratio for row in rows)
    lines += ["", f"Error from scratch by error pruned, median: {ratio:.2f}.", ""]
    lines += ["![Accuracy over mult-adds](figures/prune_vs_width.png)"]
    return "\n".join(lines) + "\n"


def draw(rows: list[Row], path: Path, title: str) -> None:
    """Draw top-1 over mult-adds, pruned and from scratch, a panel a network."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    models = list(dict.fromkeys(row.model for row in rows))
    figure, panels = plt.subplots(
        1, len(models), figsize=(4.5 * len(models), 4), layout="constrained", squeeze=False
    )
    for axes, model in zip(panels[0], models, strict=True):
        mine = [row for row in rows if row.model == model]
        pruned = [(row.base_madds, row.base_top1) for row in mine]
        pruned += [(row.madds, row.pruned_top1) for row in mine]
        narrow = [(row.width_madds, row.width_top1) for row in mine]
        for points, label, mark in ((pruned, "pruned", "o-"), (narrow, "from scratch", "s--")):
            madds = sorted({at for at, _ in points})
            tops = [100 * mean(top1 for at, top1 in points if at == x) for x in madds]
            axes.plot([x / 1e6 for x in madds], tops, mark, label=label)
        axes.set(xlabel="million mult-adds", ylabel="top-1, %", title=model)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(textwrap.fill(title, 72 * len(models)), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(
    data: Annotated[Path, typer.Option(help="A folder with train/ and val/, or a zip of one.")],
    images: Annotated[int | None, typer.Option(help="To train on; all if not given.")] = None,
    val_images: Annotated[int | None, typer.Option(help="Held out; all if not given.")] = None,
    time: Annotated[str, typer.Option(help="Of the training of the unpruned network.")] = "3m",
    prune_time: Annotated[str | None, typer.Option(help="Of each pruning [as --time].")] = None,
    models: str = "mobilenet_v1,mobilenet_v2",
    keeps: Annotated[str, typer.Option(help="Parts of the mult-adds.")] = "0.7,0.5,0.35",
    width_mult: float = 1.0,
    resolution: int = 32,
    steps: Annotated[int, typer.Option(help="Of each pruning.")] = 2,
    recipe: str = "cifar",
    prune_recipe: str = "sliced",
    device: str = "auto",
    rounds: int = 1,
    out: Path = Path("docs/prune_vs_width.md"),
    image: Path = Path("docs/figures/prune_vs_width.png"),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    also: Annotated[
        Path | None, typer.Option(help="What --json wrote of other models: on the same page.")
    ] = None,
) -> None:
    """Train, prune and train narrower networks, and write what came of it."""
    parts = [float(part) for part in keeps.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        task = Task(
            data=unpack(data.resolve(), scratch / "images", train=images, val=val_images).resolve(),
            scratch=scratch,
            width_mult=width_mult,
            resolution=resolution,
            seconds=parse_duration(time),
            prune_seconds=parse_duration(prune_time or time),
            steps=steps,
            recipe=recipe,
            prune_recipe=prune_recipe,
            device=device,
        )
        counts = [count_images(task.data / split) for split in ("train", "val")]
        classes = sum(path.is_dir() for path in (task.data / "train").iterdir())
        title = (
            f"{machine()}; device {device}; {data.name}: {counts[0]:,} images to train on, "
            f"{counts[1]:,} held out, {resolution}x{resolution}; unpruned x{width_mult:g}, "
            f"{task.seconds:g} s by {recipe}; steps of pruning: {steps}, {task.prune_seconds:g} s "
            f"by {prune_recipe}; from scratch {task.seconds + task.prune_seconds:g} s; rounds: "
            f"{rounds}; threads: {os.environ.get('OMP_NUM_THREADS', 'one a core')}"
        )
        print(title, flush=True)
        # Images are decoded once, here, and kept: else the first side alone would pay for it.
        train(task, models.split(",")[0], width=width_mult, seconds=1, seed=0)
        rows = [
            row
            for seed in range(rounds)
            for model in models.split(",")
            for row in rows_of(task, model, keeps=parts, seed=seed, classes=classes)
        ]
    if also is not None:
        rows = [Row(**row) for row in json.loads(also.read_text())["rows"]] + rows
    if json_file is not None:
        json_file.write_text(
            json.dumps({"task": title, "rows": [asdict(r) for r in rows]}, indent=1)
        )
    page = to_markdown(rows, title)
    out.write_text(page)
    draw(rows, image, title)
    print(page)
    print(f"ratio: {median(row.ratio for row in rows):.2f}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))
