"""What fine-tuning adds to a new head on small sets: the head alone, the best epoch, the end.

    python bench/transfer.py [--seeds 3] [--jobs 1] [--device cpu] [--shared ../shared]
    python bench/transfer.py --variant norm_statistics=kept,body_lr=0.03 --variant body_lr=0.1

Three sets of 20 to 100 images a class, each held out in part; the starts are the published files
of ../shared/weights, but none that was trained for the very set. A training is an ordinary one with
the recipe that Mobilette chooses, keys of it replaced by each ``--variant``; without one, none is.
``--jobs`` trains as many at once, each on one thread. Prints a table a variant: the median over
seeds and starts, and the part of the trainings that end at most half a point below their best epoch
and not below the head alone. ``--out`` keeps every training as JSON.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from mobilette.training.recipe import load_recipe, parse_setting
from mobilette.workflows.train import train

SHARED = Path(__file__).resolve().parents[2] / "shared"
FEW = 20  # training images a class of imagenette-small


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published file, what has to be said about it, and the set that it was trained for."""

    file: str
    model: str
    width_mult: float = 1.0
    resolution: int | None = None
    preprocess: str | None = None
    trained_for: str = ""


STARTS = {
    "V1 0.25": Published(
        file="mobilenet_v1_0.25_224_imagenet_keras.h5",
        model="mobilenet_v1",
        width_mult=0.25,
        preprocess="tf",
    ),
    "V1 0.75": Published(
        file="mobilenet_v1_0.75_224_imagenet_tfjs",
        model="mobilenet_v1",
        width_mult=0.75,
        preprocess="tf",
    ),
    "V1 0.25, persons": Published(
        file="mobilenet_v1_0.25_96_vww_mlperf_tiny.h5",
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=96,
        preprocess="unit",
        trained_for="vww400",
    ),
    "V2 0.35, flowers": Published(
        file="mobilenet_v2_0.35_128_flowers_keras.h5",
        model="mobilenet_v2",
        width_mult=0.35,
        resolution=128,
        preprocess="tf",
        trained_for="flowers200",
    ),
    "V2 1.0, int8": Published(
        file="mobilenet_v2_1.0_224_imagenet_int8.tflite", model="mobilenet_v2"
    ),
    "V3-Small, int8 weights": Published(
        file="mobilenet_v3_small_1.0_224_imagenet_int8weights.tflite", model="mobilenet_v3_small"
    ),
    "V3-Large minimalistic, uint8": Published(
        file="mobilenet_v3_large_minimalistic_224_imagenet_uint8.tflite",
        model="mobilenet_v3_large_minimalistic",
    ),
    "SqueezeNet 1.0": Published(
        file="squeezenet1_0_imagenet_torchvision_keys.pth",
        model="squeezenet1_0",
        preprocess="caffe",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: on which set, from which start, with which keys replaced."""

    data: str
    start: str
    variant: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a training came to: top-1 after the head's epochs, at best and at the end, 0 to 1."""

    job: Job
    head: float
    best: float
    end: float
    losses: tuple[float, ...]
    seconds: float


def make_sets(shared: Path, folder: Path) -> dict[str, Path]:
    """Copy the images of each set into train/ and val/; return the folders by name."""
    for name in ("flowers200", "vww400"):
        for label in sorted(path for path in (shared / "data" / name).iterdir() if path.is_dir()):
            for index, image in enumerate(sorted(label.iterdir())):
                _copy(image, folder / name / ("val", "train")[index % 2] / label.name)
    small = shared / "data" / "imagenette-small"
    for split in ("train", "val"):
        for label in sorted(path for path in (small / split).iterdir() if path.is_dir()):
            for image in sorted(label.iterdir())[: FEW if split == "train" else None]:
                _copy(image, folder / small.name / split / label.name)
    return {path.name: path for path in sorted(folder.iterdir())}


def _copy(image: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, folder / image.name)


def import_start(name: str, shared: Path, folder: Path) -> None:
    """Make a run of a published file, in ``folder`` under its name."""
    start = STARTS[name]
    import_weights(
        shared / "weights" / start.file,
        model=start.model,
        width_mult=start.width_mult,
        resolution=start.resolution,
        preprocess=start.preprocess,
    ).save(folder / name)


def one(job: Job, sets: Path, starts: Path, device: str, resolution: int | None) -> Result:
    """Train once, in a folder of its own."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    overrides = dict(map(parse_setting, filter(None, job.variant.split(","))))
    overrides |= {"seed": job.seed, "compile": "never"}
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            sets / job.data,
            start=starts / job.start,
            resolution=resolution,
            overrides=overrides,
            out=Path(folder) / "run",
            device=device,
            workers=0,
        )
        with (run.path / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        frozen = load_recipe(run.path / "recipe.toml").frozen_epochs
    top1 = [float(row["top1"]) for row in rows]
    heads = [float(row["top1"]) for row in rows if int(row["epoch"]) == frozen]
    return Result(
        job=job,
        head=heads[-1] if heads else top1[0],
        best=max(top1),
        end=top1[-1],
        losses=tuple(float(row["val_loss"]) for row in rows),
        seconds=time.perf_counter() - begun,
    )


def run_all(
    jobs: Sequence[Job],
    sets: Path,
    starts: Path,
    *,
    device: str,
    resolution: int | None,
    at_once: int,
    within: float,
) -> Iterator[Result]:
    """Yield results as they come; after ``within`` seconds nothing more is begun."""
    begun = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=spawn) as pool:
        waiting = {pool.submit(one, job, sets, starts, device, resolution) for job in jobs}
        for done in as_completed(waiting):
            if time.perf_counter() - begun > within:
                pool.shutdown(wait=False, cancel_futures=True)
                return
            try:
                result = done.result()
            except InputError as error:
                print(error, file=sys.stderr, flush=True)
                continue
            job = result.job
            print(
                f"{time.perf_counter() - begun:.0f} s: {job.data}, {job.start}, {job.variant}, "
                f"seed {job.seed}: head {result.head:.1%}, best {result.best:.1%}, "
                f"end {result.end:.1%} ({result.seconds:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
            yield result


def show(results: Sequence[Result], variants: Sequence[str]) -> None:
    """Print a table for every variant."""
    for variant in variants:
        mine = [result for result in results if result.job.variant == variant]
        if not mine:
            continue
        print(f"\nrecipe as chosen{', ' + variant if variant else ''}\n")
        print("| set | start | head alone | best epoch | end | end above head | n |")
        print("|---|---|--:|--:|--:|--:|--:|")
        for data, start in sorted({(each.job.data, each.job.start) for each in mine}):
            row = [each for each in mine if (each.job.data, each.job.start) == (data, start)]
            print(f"| {data} | {start} | {_medians(row)} | {len(row)} |")
        for data in sorted({each.job.data for each in mine}):
            row = [each for each in mine if each.job.data == data]
            print(f"| {data} | all | {_medians(row)} | {len(row)} |")
        near = sum(each.end >= each.best - 0.005 for each in mine)
        above = sum(each.end >= each.head for each in mine)
        print(
            f"\nof {len(mine)} trainings {near / len(mine):.0%} end within half a point of their "
            f"best epoch, {above / len(mine):.0%} not below the head alone"
        )


def _medians(results: Sequence[Result]) -> str:
    head, best, end, gain = (
        median(values)
        for values in zip(
            *((each.head, each.best, each.end, each.end - each.head) for each in results),
            strict=True,
        )
    )
    return f"{head:.1%} | {best:.1%} | {end:.1%} | {100 * gain:+.1f}"


def main(
    variant: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE,KEY=VALUE of a recipe.")
    ] = None,
    seeds: int = 3,
    jobs: int = 1,
    device: str = "cpu",
    resolution: Annotated[int | None, typer.Option(help="Of all [each start's own].")] = None,
    only: Annotated[str, typer.Option(help="Words of sets or starts, with commas.")] = "",
    within: Annotated[float, typer.Option(help="Seconds.")] = 1e9,
    shared: Path = SHARED,
    out: Path | None = None,
) -> None:
    """Train everything and print the tables."""
    variants = variant or [""]
    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"{jobs} threads"
    print(f"{where}, torch {torch.__version__}, {jobs} at once")
    with tempfile.TemporaryDirectory() as folder:
        sets, starts = Path(folder) / "sets", Path(folder) / "starts"
        names = make_sets(shared, sets)
        work = [
            Job(data=data, start=name, variant=each, seed=seed)
            for seed in range(seeds)
            for each in variants
            for data in names
            for name, start in STARTS.items()
            if start.trained_for != data
            and any(word in f"{data} {name}" for word in only.split(","))
        ]
        for name in sorted({job.start for job in work}):
            import_start(name, shared, starts)
        results = list(
            run_all(
                work,
                sets,
                starts,
                device=device,
                resolution=resolution,
                at_once=jobs,
                within=within,
            )
        )
    if out is not None:
        out.write_text(json.dumps([asdict(result) for result in results]))
    show(results, variants)


if __name__ == "__main__":
    typer.run(main)
