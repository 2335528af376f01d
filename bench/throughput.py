"""Images trained a second, from the files to the weights: ours, the plain loop and two scripts.

    python bench/throughput.py --timm CHECKOUT --torchvision FOLDER [--rounds 3] [--steps 20]
        [--only 32] [--model mobilenet_v3_small] [--json rates.json]

MobileNet V2, or another network, at 32x32 (batches of 128, CIFAR-10's JPEG copy) and at 160x160
(batches of 64, imagenette-small), each contender in a process of its own, taking turns.

The others are timed for `--steps` steps after a warm-up; they decode every image in every epoch.
Ours trains `--epochs` epochs. Its images have not been decoded before, its kernels are compiled,
which is done once a machine and takes the seconds that are printed. It is given its metrics.csv's
rate: images trained by seconds of training, the reading of the files included, validation not; then
the rate of the epochs after the first, beside that of the same step on images that are in memory
(`bench/train_step.py`).

Shares: `data` is what the training process waits for images (ours: as `train --profile` says),
`compute` the rest of its time, `idle` what the processes left of the cores. The last lines give
our rate divided by that of each of the others: `ratio: X (NAME at RESOLUTION)`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.errors import InputError

if TYPE_CHECKING:
    from bench.contender import Result, Spec
    from bench.contenders import HERE, KERNELS, Task, environment, machine, run, spec
    from bench.images import count_images, unpack
else:
    from contender import Result, Spec
    from contenders import HERE, KERNELS, Task, environment, machine, run, spec
    from images import count_images, unpack

SHARED = HERE.parents[1] / "shared" / "data"
WARM_UP = 10  # more batches than the workers have ready when training begins
BATCHES = {32: 128, 160: 64}


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Images a second of one run, and where the time went; ``None`` where it is not known.

    Attributes:
        later: the rate of the epochs after the first (ours).
        resident: the rate of the same step on images in memory (ours).
        data: the part of the time in which the training process waits for images.
        idle: the part of the cores' time that none of the processes used.
        steps: what a step's seconds go to (ours, by ``train --profile``).
    """

    name: str
    resolution: int
    rate: float
    later: float | None = None
    resident: float | None = None
    data: float | None = None
    idle: float | None = None
    steps: dict[str, float] | None = None


def time_other(task: Task, what: Spec, steps: int) -> Rate:
    """Time the steps of one of the others."""
    result = run(task, replace(what, warm_up=WARM_UP, steps=steps))
    seconds = result.end.seconds - result.begin.seconds
    return Rate(
        name=what.name,
        resolution=task.resolution,
        rate=(result.end.images - result.begin.images) / seconds,
        data=(result.end.data - result.begin.data) / seconds,
        idle=idle(result),
    )


def time_ours(task: Task, *, recipe: str, epochs: int, seed: int) -> Rate:
    """Train a few epochs with our command line and read its own account of them."""
    out = task.scratch / "run"
    batch = task.batch_of("ours")
    steps = count_images(task.data / "train") // batch
    arguments = [*_command(task, recipe), f"--seed={seed}", f"--out={out}", "--force"]
    what = Spec(
        name="ours",
        script="",
        arguments=[*arguments, f"--epochs={epochs}"],
        data=str(task.data),
        model=task.model,
        width_mult=task.width_mult,
        resolution=task.resolution,
        warm_up=steps,  # the first epoch
    )
    result = run(task, what)
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    batch = tomllib.loads((out / "recipe.toml").read_text())["batch_size"]
    images = [int(row["step"]) * batch for row in rows]
    rates = [float(row["images_per_second"]) for row in rows]
    seconds = [count / rate for count, rate in zip(images, rates, strict=True)]
    later = (images[-1] - images[0]) / (seconds[-1] - seconds[0]) if len(rows) > 1 else None
    parts = profile(task, recipe)
    return Rate(
        name="ours",
        resolution=task.resolution,
        rate=rates[-1],
        later=later,
        resident=resident_rate(task, recipe),
        data=parts["data"] / sum(parts.values()) if parts else None,
        idle=idle(result),
        steps=parts,
    )


def compile_kernels(task: Task) -> float:
    """Compile our kernels for all runs of ours; return the seconds, those of imports included."""
    (task.scratch / KERNELS).mkdir(parents=True)
    code = "from mobilette.nn.kernels import load_kernels; load_kernels()"
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(task))
    return time.perf_counter() - begun


def profile(task: Task, recipe: str) -> dict[str, float] | None:
    """Return where the seconds of a step go, by ``train --profile``; ``None`` if it cannot say."""
    command = [sys.executable, "-m", "mobilette", *_command(task, recipe), "--profile"]
    command += ["--epochs=1", f"--out={task.scratch / 'profiled'}", "--force"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(task), cwd=task.scratch
    )
    if done.returncode:
        print(f"train --profile failed: {done.stderr.strip()[-200:]}", file=sys.stderr)
        return None
    seconds = json.loads(done.stdout)["profile"]["seconds"]
    return {name: float(value) for name, value in seconds.items()}


def resident_rate(task: Task, recipe: str) -> float:
    """Return the rate of our step on a batch in memory, with nothing to read."""
    options = {"side": "ours", "steps": 12, "model": task.model, "width-mult": task.width_mult}
    options |= {"batch": task.batch_of("ours"), "resolution": task.resolution, "recipe": recipe}
    command = [sys.executable, str(HERE / "train_step.py")]
    command += [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(task))
    if done.returncode:
        raise InputError(f"bench/train_step.py failed:\n{done.stderr[-2_000:]}")
    seconds: list[float] = json.loads(done.stdout)
    return task.batch_of("ours") / median(seconds)


def idle(result: Result) -> float | None:
    """Return the part of the cores' time that the processes of a run did not use."""
    begin, end = result.begin, result.end
    if begin.cpu < 0 or end.cpu < 0:
        return None
    available = (end.seconds - begin.seconds) * result.cores
    return max(1 - (end.cpu - begin.cpu) / available, 0.0)


def _command(task: Task, recipe: str) -> list[str]:
    options = {"model": task.model, "width-mult": task.width_mult, "resolution": task.resolution}
    options |= {"batch-size": task.batch_of("ours"), "recipe": recipe, "from": "scratch"}
    flags = [f"--{key}={value}" for key, value in options.items()]
    return ["train", str(task.data), *flags, "--json"]


def show(rates: list[Rate]) -> None:
    """Print the medians of all rounds of one resolution."""
    print("\n| contender | images a second: median (range) | data | compute | idle |")
    print("|---|---|---|---|---|")
    for name in dict.fromkeys(rate.name for rate in rates):
        mine = [rate for rate in rates if rate.name == name]
        speeds = [rate.rate for rate in mine]
        data = _median([rate.data for rate in mine])
        shares = [data, None if data is None else 1 - data, _median([rate.idle for rate in mine])]
        cells = " | ".join("-" if share is None else f"{share:.0%}" for share in shares)
        spread = f"{median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f})"
        print(f"| {name} | {spread} | {cells} |")
    ours = [rate for rate in rates if rate.name == "ours"]
    later, resident = _median([r.later for r in ours]), _median([r.resident for r in ours])
    if later is not None and resident is not None:
        print(
            f"\nours after the first epoch {later:.1f}, its step on images in memory "
            f"{resident:.1f} a second: {later / resident:.1%} of what computing allows"
        )
    for rate in ours[-1:]:
        for part, seconds in (rate.steps or {}).items():
            print(f"  {part}: {seconds / sum((rate.steps or {}).values()):.1%} of a step")


def ratios(rates: list[Rate]) -> Iterator[str]:
    """Yield the last lines: ours by each of the others, medians of the rounds' ratios."""
    for resolution in dict.fromkeys(rate.resolution for rate in rates):
        here = [rate for rate in rates if rate.resolution == resolution]
        ours = [rate.rate for rate in here if rate.name == "ours"]
        for name in dict.fromkeys(rate.name for rate in here if rate.name != "ours"):
            theirs = [rate.rate for rate in here if rate.name == name]
            found = [a / b for a, b in zip(ours, theirs, strict=False)]
            if found:
                yield f"ratio: {median(found):.2f} ({name} at {resolution}x{resolution})"


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def measure(task: Task, *, recipe: str, epochs: int, steps: int, rounds: int) -> Iterator[Rate]:
    """Run all contenders in turns and yield their rates."""
    print(f"kernels compiled in {compile_kernels(task):.1f} s")
    for seed in range(rounds):
        found = [time_ours(task, recipe=recipe, epochs=epochs, seed=seed)]
        for name in task.contenders():
            what = spec(task, name, epochs=1_000, seed=seed)
            found.append(time_other(task, what, steps))
        for rate in found:
            line = f"  {task.resolution}x{task.resolution}, round {seed + 1}, {rate.name}"
            print(f"{line}: {rate.rate:.1f} a second", file=sys.stderr)
        yield from found


def main(
    timm: Annotated[Path | None, typer.Option(help="A checkout of timm.")] = None,
    torchvision: Annotated[
        Path | None, typer.Option(help="A folder with references/classification.")
    ] = None,
    rounds: int = 3,
    steps: Annotated[int, typer.Option(help="Of the others, after the warm-up.")] = 20,
    epochs: Annotated[int, typer.Option(min=2, help="Of ours.")] = 5,
    only: Annotated[int | None, typer.Option(help="32 or 160.")] = None,
    model: str = "mobilenet_v2",
    width_mult: float = 1.0,
    recipe: Annotated[str, typer.Option(help="Of ours.")] = "cifar",
    cifar: Path = SHARED / "cifar10-jpeg.zip",
    imagenette: Path = SHARED / "imagenette-small",
    images: Annotated[int, typer.Option(help="Of CIFAR-10 to train on.")] = 12_000,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure all contenders and print a table for each resolution."""
    print(machine())
    print(f"{WARM_UP} warm-up steps, then {steps} timed; ours {epochs} epochs; {rounds} rounds")
    found: list[Rate] = []
    with tempfile.TemporaryDirectory() as folder:
        for resolution, batch in BATCHES.items():
            if only not in (None, resolution):
                continue
            place = Path(folder) / str(resolution)
            if resolution == 32:
                data = unpack(cifar, place / "images", train=images, val=500)
            else:
                data = unpack(imagenette, place / "images", train=None, val=None)
            task = Task(
                data=data.resolve(),
                model=model,
                width_mult=width_mult,
                resolution=resolution,
                batch=batch,
                scratch=place,
                timm=timm,
                torchvision=torchvision,
                more={},
            )
            count = count_images(data / "train")
            print(f"\n{data.name}: {count:,} images, {model} x{width_mult:g}, batch {batch}")
            rates = list(measure(task, recipe=recipe, epochs=epochs, steps=steps, rounds=rounds))
            show(rates)
            found += rates
    if json_file is not None:
        content = {"machine": machine(), "rates": [asdict(rate) for rate in found]}
        json_file.write_text(json.dumps(content, indent=1))
    print("\n" + "\n".join(ratios(found)))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))
