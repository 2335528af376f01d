"""How soon our default recipe is as accurate as the plain loop, timm's and torchvision's scripts.

    python bench/time_to_accuracy.py --data ../shared/data/cifar10-jpeg.zip --images 12000
        --time 10m --timm CHECKOUT --torchvision FOLDER [--json curves.json] [--plot curves.png]
    python bench/time_to_accuracy.py --data ../shared/data/cifar10-4k --width-mult 0.5 --time 90s

The same network, images, machine and wall-clock for all; each in a process of its own, one after
the other. The others' clock counts training alone: not the import of libraries, the listing of
files, the first process of Python, or validation. Ours counts everything that `--time` counts:
reading the images and validation too. The schedules of timm and torchvision are fitted to the
time by a short run of each (bench/contenders.py says how); the plain loop has none.

Ours is also run in a half, a third and a quarter of the time, because its schedule, too, ends with
its time. For each of the others the last lines give its seconds divided by the least of our seconds
that reached its final accuracy, 0 if none did: `ratio: X (NAME)`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.errors import InputError
from mobilette.training.recipe import parse_duration

if TYPE_CHECKING:
    from bench.contender import Name
    from bench.contenders import Task, environment, fitted_epochs, machine, run, spec
    from bench.images import count_images, unpack
else:
    from contender import Name
    from contenders import Task, environment, fitted_epochs, machine, run, spec
    from images import count_images, unpack

POINTS = 12  # of the others' curves; ours has one an epoch
OURS = {"ours": 1, "ours/2": 2, "ours/3": 3, "ours/4": 4}  # divisors of the time


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How accurate one run of one contender was after how many seconds."""

    name: str
    seed: int
    images: int
    points: list[tuple[float, float]]

    @property
    def end(self) -> tuple[float, float]:
        """The last (seconds, top-1)."""
        return self.points[-1]


@dataclass(frozen=True, kw_only=True)
class Lead:
    """How much sooner ours was as accurate as one of the others; 0 if it never was."""

    name: str
    top1: float
    seconds: float
    ours: float | None
    by: str
    points_ahead: float

    @property
    def ratio(self) -> float:
        """Their seconds by ours."""
        return self.seconds / self.ours if self.ours else 0.0


def train_ours(task: Task, name: str, *, recipe: str, seconds: float, seed: int) -> Curve:
    """Train with our command line and return the curve of its metrics.csv."""
    out = task.scratch / "run"
    options = {"model": task.model, "width-mult": task.width_mult, "resolution": task.resolution}
    options |= {"time": f"{seconds / OURS[name]:g}s", "seed": seed, "out": out, "from": "scratch"}
    options |= {"recipe": recipe} if recipe else {}
    flags = [f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "mobilette", "train", str(task.data), *flags, "--force"]
    command += task.more.get("ours", [])
    done = subprocess.run(command, capture_output=True, text=True, env=environment(task))
    if done.returncode:
        raise InputError(f"ours failed:\n{done.stderr[-3_000:]}")
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = [(float(row["seconds"]), float(row["top1"])) for row in rows]
    batch = tomllib.loads((out / "recipe.toml").read_text())["batch_size"]
    return Curve(name=name, seed=seed, images=int(rows[-1]["step"]) * batch, points=points)


def train_other(task: Task, name: Name, *, epochs: int, seconds: float, seed: int) -> Curve:
    """Train with one of the others and return the curve."""
    what = spec(task, name, epochs=epochs, seed=seed)
    result = run(task, replace(what, seconds=seconds, points=POINTS))
    return Curve(name=name, seed=seed, images=result.images, points=result.points)


def leads(curves: list[Curve]) -> Iterator[Lead]:
    """Compare each of the others in one round with all of ours."""
    ours = [curve for curve in curves if curve.name in OURS]
    whole = next((curve for curve in ours if curve.name == "ours"), None)
    for curve in curves:
        if curve.name in OURS or not ours:
            continue
        seconds, target = curve.end
        reached = [(at, one.name) for one in ours for at, top1 in one.points if top1 >= target]
        soonest = min(reached, default=(None, "-"))
        yield Lead(
            name=curve.name,
            top1=target,
            seconds=seconds,
            ours=soonest[0],
            by=soonest[1],
            points_ahead=100 * (whole.end[1] - target) if whole else float("nan"),
        )


def print_round(curves: list[Curve]) -> None:
    """Print the tables of one round."""
    print("\n| contender | top-1 at the end | best | seconds | images |")
    print("|---|---|---|---|---|")
    for curve in curves:
        best = max(top1 for _, top1 in curve.points)
        seconds, top1 = curve.end
        print(f"| {curve.name} | {top1:.1%} | {best:.1%} | {seconds:.0f} | {curve.images:,} |")
    print("\n| contender | its final top-1 | its seconds | ours | run | points ahead at the end |")
    print("|---|---|---|---|---|---|")
    for lead in leads(curves):
        ours = "not reached" if lead.ours is None else f"{lead.ours:.0f} s"
        print(
            f"| {lead.name} | {lead.top1:.1%} | {lead.seconds:.0f} | {ours} | {lead.by} "
            f"| {lead.points_ahead:+.1f} |",
            flush=True,
        )


def draw(curves: list[Curve], path: Path, title: str) -> None:
    """Draw top-1 over seconds of training, one colour a contender."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(curve.name for curve in curves))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for curve in curves:
        seconds, top1 = zip(*curve.points, strict=True)
        label = curve.name if curve.seed == curves[0].seed else None
        colour = f"C{names.index(curve.name)}"
        axes.plot(seconds, [100 * value for value in top1], ".-", color=colour, label=label)
    axes.set(xlabel="seconds", ylabel="top-1, %", title=title.replace("; ", "\n"))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(
    data: Annotated[Path, typer.Option(help="A folder with train/ and val/, or a zip of one.")],
    images: Annotated[int | None, typer.Option(help="To train on; all if not given.")] = None,
    val_images: Annotated[int | None, typer.Option(help="Held out [2000 of a zip].")] = None,
    time: str = "10m",
    model: str = "mobilenet_v2",
    width_mult: float = 1.0,
    resolution: int = 32,
    recipe: Annotated[str, typer.Option(help="Of ours; empty: what train takes.")] = "",
    timm: Annotated[Path | None, typer.Option(help="A checkout of timm.")] = None,
    torchvision: Annotated[
        Path | None, typer.Option(help="A folder with references/classification.")
    ] = None,
    only: Annotated[str, typer.Option(help="Names with commas between them.")] = "",
    rounds: int = 1,
    timm_more: Annotated[str, typer.Option(help="Further arguments of timm's.")] = "",
    torchvision_more: Annotated[str, typer.Option(help="Of torchvision's.")] = "",
    ours_more: Annotated[str, typer.Option(help="Of ours.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    plot: Path | None = None,
) -> None:
    """Run the contenders in turns and say how much sooner ours is there."""
    seconds = parse_duration(time)
    if val_images is None and data.is_file():
        val_images = 2_000
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            data=unpack(data.resolve(), Path(folder) / "images", train=images, val=val_images),
            model=model,
            width_mult=width_mult,
            resolution=resolution,
            batch=None,
            scratch=Path(folder),
            timm=timm,
            torchvision=torchvision,
            more={
                "ours": ours_more.split(),
                "timm": timm_more.split(),
                "torchvision": torchvision_more.split(),
            },
        )
        names: list[str] = [*OURS, *task.contenders()]
        if unknown := set(filter(None, only.split(","))) - set(names):
            raise InputError(f"--only {', '.join(unknown)}: there are {', '.join(names)}")
        chosen = [name for name in names if not only or name in only.split(",")]
        counts = [count_images(task.data / split) for split in ("train", "val")]
        title = (
            f"{data.name}: {counts[0]:,} images, {counts[1]:,} held out; {model} x{width_mult:g} "
            f"at {resolution}x{resolution}, {time} each"
        )
        print(f"{machine()}\n{title}, {rounds} rounds", flush=True)
        curves = list(train_all(task, chosen, recipe=recipe, seconds=seconds, rounds=rounds))
    found = [
        lead for seed in range(rounds) for lead in leads([c for c in curves if c.seed == seed])
    ]
    if json_file is not None:
        content = {"machine": machine(), "task": title, "curves": [asdict(c) for c in curves]}
        json_file.write_text(json.dumps(content, indent=1))
    if plot is not None:
        draw(curves, plot, title)
    for name in dict.fromkeys(lead.name for lead in found):
        print(f"ratio: {median(one.ratio for one in found if one.name == name):.2f} ({name})")


def train_all(
    task: Task, chosen: list[str], *, recipe: str, seconds: float, rounds: int
) -> Iterator[Curve]:
    """Run ``chosen`` in ``rounds`` with other seeds; print every round, yield every curve."""
    others = {name: 1_000 for name in task.contenders() if name in chosen}
    for name in others:
        if name != "plain":  # which has no schedule: the clock stops it
            others[name] = fitted_epochs(task, name, seconds)
            print(f"{name}: schedule of {others[name]} epochs", flush=True)
    ours = [name for name in OURS if name in chosen]
    for seed in range(rounds):
        curves = []
        for mine in ours:
            curves.append(train_ours(task, mine, recipe=recipe, seconds=seconds, seed=seed))
            say(curves[-1])
        for name, epochs in others.items():
            curves.append(train_other(task, name, epochs=epochs, seconds=seconds, seed=seed))
            say(curves[-1])
        print_round(curves)
        yield from curves


def say(curve: Curve) -> None:
    """Say on stderr what a run came to."""
    line = f"  seed {curve.seed}, {curve.name}: {curve.end[1]:.1%}"
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))
