"""How long `verify` takes beside an earlier commit, and whether it answers the same.

    python bench/verify_speed.py [--networks mobilenet_v2,resnet18] [--before c3e7323] [--rounds 3]
        [--threads 2] [--data ../shared/data/imagenette-small]

Each network has random weights (as fast as any others), the classes of the images and 224x224
pixels, and is exported to ONNX. Two sides, each in a process of its own, take turns: the source of
the earlier commit, from git, and this one. After a warm-up a process times, for the images of
``val``,

- checkpoint: the logits of the checkpoint for pixels in memory, as `verify` has them computed;
- engine: the same of ONNX Runtime;
- verify: all of `verify(artifact, data)`: decoding, both engines, the judgement.

Times are milliseconds an image, by the clock and of the processors (of the process and those it
starts): on cores that other programs use as well, the second tells more. Medians of the rounds, and
their range. The last lines of a network say how far the logits of the two sides differ, and the
ratios before : now of each round.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from mobilette.artifact.directory import open_artifact
from mobilette.data.reading import Reading, read_images
from mobilette.data.sources import find_images
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from mobilette.model.classes import ClassLabel
from mobilette.verification.bench import machine
from mobilette.verification.verify import verify
from mobilette.workflows.export import export

if TYPE_CHECKING:
    from bench.networks import random_run
else:
    from networks import random_run

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "imagenette-small"
NETWORKS = "mobilenet_v2,mobilenet_v3_small,shufflenet_v2,resnet18"
PARTS = ("checkpoint", "engine", "verify")
SIDES, UNITS = ("before", "now"), ("clock", "processors")
WARM_UP = 8
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of each of `PARTS`, by the clock and of the processors; the verdict's difference."""

    images: int
    clock: dict[str, float]
    processors: dict[str, float]
    max_abs_diff: float


def time_side(artifact: Path, data: Path, answers: Path) -> Times:
    """Time one version of the source; the checkpoint's logits go to the file ``answers``."""
    opened = open_artifact(artifact)
    contract = opened.contract
    pixels = read_images(
        find_images(data).splits["val"],
        resolution=contract.arch.resolution,
        preprocess=contract.preprocess,
        reading=Reading(workers=0),
    ).pixels
    times = Times(images=len(pixels), clock={}, processors={}, max_abs_diff=0.0)
    checkpoint, engine = CheckpointPredictor(opened.model), open_engine(opened)
    checkpoint.logits(pixels[:WARM_UP])
    engine.logits(pixels[:WARM_UP])
    with timed(times, "checkpoint"):
        logits = checkpoint.logits(pixels)
    with timed(times, "engine"):
        engine.logits(pixels)
    with timed(times, "verify"):
        verdict = verify(opened, data, split="val")
    if not verdict.passed:
        raise InputError(f"{artifact}: {verdict.failures[0]}")
    np.save(answers, logits)
    return replace(times, max_abs_diff=verdict.max_abs_diff)


@contextmanager
def timed(times: Times, part: str) -> Iterator[None]:
    """Put the seconds inside into ``times``."""
    used, begun = _processors(), time.perf_counter()
    yield
    times.clock[part] = time.perf_counter() - begun
    times.processors[part] = _processors() - used


def _processors() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def run_side(source: Path, artifact: Path, data: Path, answers: Path, threads: int) -> Times:
    """Time the package in the folder ``source`` in a process of its own, on ``threads`` cores."""
    options = {"artifact": artifact, "data": data, "answers": answers, "threads": threads}
    done = subprocess.run(
        [sys.executable, __file__, *(f"--{name}={value}" for name, value in options.items())],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(source)},
        check=False,
    )
    if done.returncode:
        raise InputError(f"{source} failed:\n{done.stderr[-2_000:]}")
    return Times(**json.loads(done.stdout))


def unpack(commit: str, folder: Path) -> Path:
    """Return the folder of the package at ``commit``, written below ``folder``."""
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "src"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "src"


def make_artifact(network: str, classes: tuple[str, ...], folder: Path) -> Path:
    """Export a network with random weights for ``classes``."""
    model = random_run(network, folder / "random", classes=len(classes)).model
    labels = tuple(ClassLabel(id=name, name=name) for name in classes)
    run = replace(model, classes=labels).save(folder / "run")
    return export(run, out=folder / "artifact").path


def lines(network: str, rounds: list[dict[str, Times]], now: Floats, before: Floats) -> list[str]:
    """Return what there is to say of one network; ``now`` and ``before`` are logits."""
    found = []
    for part in PARTS:
        for side in SIDES:
            per_image = [
                spread(
                    [1e3 * getattr(each[side], unit)[part] / each[side].images for each in rounds]
                )
                for unit in UNITS
            ]
            what = f"{per_image[0]} ms by the clock, {per_image[1]} of the processors"
            found.append(f"{network}, {part}, {side}: {what}")
    same = float((now.argmax(1) == before.argmax(1)).mean())
    difference, largest = np.abs(now - before).max(), np.abs(before).max()
    found.append(
        f"{network}: the sides' logits differ by up to {difference:.2g} of {largest:.3g}; the same "
        f"top-1 for {same:.2%} of {len(now)}; verify's max_abs_diff "
        + ", ".join(f"{rounds[0][side].max_abs_diff:.2g} ({side})" for side in SIDES)
    )
    for part in ("checkpoint", "verify"):
        for unit in UNITS:
            ratios = [
                getattr(each["before"], unit)[part] / getattr(each["now"], unit)[part]
                for each in rounds
            ]
            found.append(f"ratio: {spread(ratios)} ({network}, {part}, {unit})")
    return found


def spread(values: list[float]) -> str:
    """Return median and range."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main(
    networks: Annotated[str, typer.Option(help="Names, separated by commas.")] = NETWORKS,
    before: Annotated[str, typer.Option(help="The commit to compare with.")] = "c3e7323",
    data: Annotated[Path, typer.Option(help="Images in class folders, with val.")] = DATA,
    rounds: int = 3,
    threads: Annotated[int, typer.Option(help="Cores of a process.")] = 2,
    artifact: Annotated[Path | None, typer.Option(hidden=True)] = None,
    answers: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure both sides for each network and print the ratios."""
    if artifact is not None and answers is not None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        print(json.dumps(asdict(time_side(artifact, data, answers))))
        return
    engines = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    print(f"{machine()}, {engines}; {threads} threads, {rounds} rounds, {data.name}")
    classes = find_images(data).classes
    with tempfile.TemporaryDirectory() as scratch:
        sources = {"before": unpack(before, Path(scratch)), "now": ROOT / "src"}
        for network in networks.split(","):
            folder = Path(scratch, network)
            exported = make_artifact(network, classes, folder)
            files = {side: folder / f"{side}.npy" for side in SIDES}
            found = [
                {
                    side: run_side(sources[side], exported, data, files[side], threads)
                    for side in SIDES
                }
                for _ in range(rounds)
            ]
            now, earlier = np.load(files["now"]), np.load(files["before"])
            print("\n".join(lines(network, found, now, earlier)), flush=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))
