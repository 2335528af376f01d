"""Prepares and measures int8 attempts: accuracy on images, latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.artifact.contract import Rung
from mobilette.artifact.directory import open_artifact
from mobilette.compression.folding import fold
from mobilette.compression.observation import LARGEST_BATCH as LARGEST_ACTIVATION
from mobilette.compression.observation import largest_activation
from mobilette.compression.ranges import RANGES
from mobilette.data.images import Labels
from mobilette.data.normalise import Normalise
from mobilette.data.reading import Reading
from mobilette.engines.targets import open_engine
from mobilette.engines.timing import Request
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, artifact_name, export_calibrated
from mobilette.exporters.target import Calibration, Progress
from mobilette.model.model import Model
from mobilette.progress import Remark, Reporter
from mobilette.run.directory import Run
from mobilette.run.inference import checkpoint_logits
from mobilette.run.metrics import accuracy
from mobilette.search.int8_ladder import RANKING_IMAGES, Attempt, Material
from mobilette.verification.bench import time_once
from mobilette.verification.evaluate import labelled_images, read_split, trained_of
from mobilette.verification.gate import compare, judge_golden, judge_images, right_answers_kept

ROUNDS, SECONDS = 3, 0.3
TRAINING_IMAGES = 4096
SMALLEST_BATCH, LARGEST_BATCH = 8, 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """The images that attempts are judged on, and the model's answers to them."""

    pixels: NDArray[np.uint8]
    labels: Labels
    logits: NDArray[np.float32]
    max_drop: float

    @property
    def top1(self) -> float:
        """Top-1 of the model, 0 to 1."""
        return accuracy(self.logits, self.labels)


def read_judge(
    model: Model,
    data: str | Path,
    *,
    max_drop: float,
    reading: Reading,
    reporter: Reporter,
) -> Judge:
    """Return the images of a split with the model's answers; arguments are those of `quantize`.

    Raises:
        InputError: they cannot be used, or are too few to measure ``max_drop``.
    """
    network = model.network  # without a classifier it is refused before images are read
    labelled = labelled_images(
        data,
        model.classes,
        reading=reading,
        trained=trained_of(model),
        multi_label=model.multi_label,
    )
    found = read_split(model, labelled.choice, reading, reporter)
    read, needed = found.split, math.ceil(100 / max_drop) if max_drop > 0 else 1
    if len(read.labels) < needed:
        trained = f" (without {found.left_out:,} that it was trained on)" * (found.left_out > 0)
        raise InputError(
            f"{data}: {len(read.labels)} images{trained} are too few to measure a drop of "
            f"{max_drop:g} points: one image is {100 / len(read.labels):.3g}; at least {needed} "
            "are needed"
        )
    pixels = read.pixels[:]
    logits = checkpoint_logits(network, Normalise(model.preprocess), pixels)
    return Judge(pixels=pixels, labels=read.labels, logits=logits, max_drop=max_drop)


def make_material(
    model: Model,
    to: str,
    judge: Judge,
    calibration: Calibration,
    images: Callable[..., Calibration],
) -> Material:
    """Return the material of attempts for the target ``to``.

    Some of the judge's images rank layers. ``images(count=...)`` returns training images.
    """
    normalise = Normalise(model.preprocess)

    def normalised(pixels: NDArray[np.uint8]) -> Tensor:
        with torch.no_grad():
            x: Tensor = normalise(torch.from_numpy(np.ascontiguousarray(pixels)))
        return x

    def batches(seed: int) -> Iterator[Tensor]:
        pixels, generator = images(count=TRAINING_IMAGES).pixels, np.random.default_rng(seed)
        while True:
            order = generator.permutation(len(pixels))
            for first in range(0, len(order), size):
                yield normalised(pixels[order[first : first + size]])

    fitting = LARGEST_ACTIVATION // largest_activation(model.arch)
    size = max(SMALLEST_BATCH, min(LARGEST_BATCH, fitting))
    step = max(1, len(judge.labels) // RANKING_IMAGES)
    plain_is_minmax = not TARGETS[to].default_ranges_differ_from_minmax
    return Material(
        model=fold(model),
        inputs=normalised(calibration.pixels),
        ranking=normalised(judge.pixels[::step]),
        ranking_labels=judge.labels[::step],
        ranges=tuple(r for r in RANGES if not (plain_is_minmax and r == "minmax")),
        batches=batches,
    )


def execute(
    source: Run | Model,
    to: str,
    attempt: Attempt,
    calibration: Calibration,
    judge: Judge,
    *,
    out: Path,
    final: Path,
    progress: Progress,
) -> Rung:
    """Export ``attempt``, execute it with the engine, and return the measured rung.

    The artifact is written below ``out``, ready to be moved to ``final``.
    """
    name = f"{attempt.number}: {attempt.name}"
    layers = tuple(sorted(attempt.quantisation.float_layers))
    if attempt.reason:
        return Rung(name=name, reason=attempt.reason)
    try:
        artifact = export_calibrated(
            source,
            to=to,
            precision="int8",
            calibration=calibration,
            quantisation=attempt.quantisation,
            out=out,
            moved_to=final,
            progress=progress,
        )
        progress("executing", 0, 0)
        predictor, golden = open_engine(artifact), artifact.golden
        logits = predictor.logits(judge.pixels)
        milliseconds = latency(artifact.path)
    except InputError as error:
        if attempt.number == 1 and attempt.quantisation.ranges == "plain":
            raise  # every attempt would fail
        return Rung(name=name, float_layers=layers, reason=str(error))
    top1 = accuracy(logits, judge.labels)
    failures = judge_golden(compare(predictor.logits(golden.inputs), golden.logits), "int8")
    failures += judge_images(
        compare(logits, judge.logits),
        drop=judge.top1 - top1,
        kept=right_answers_kept(logits, judge.logits, judge.labels),
        precision="int8",
        max_drop=judge.max_drop,
    )
    measured = artifact.contract.measured
    return Rung(
        name=name,
        top1=top1,
        drop=judge.top1 - top1,
        size_bytes=measured.size_bytes if measured else None,
        latency_ms=milliseconds,
        float_layers=layers,
        kept=not failures,
        reason="; ".join(failures),
    )


def latencies(source: Run | Model, to: str, int8: Path, *, say: Remark) -> dict[str, float]:
    """Return median latencies, in ms, of the artifact in ``int8`` and of the other precisions."""
    precisions = [each for each in TARGETS[to].precisions if each != "int8"]
    if to == "mcu" or not precisions:
        return {}
    paths = {"int8": int8 / artifact_name(TARGETS[to], "int8")}
    for precision in precisions:
        with suppress(InputError):
            paths[precision] = export_calibrated(source, to=to, precision=precision, out=int8).path
    calls: dict[str, list[float | None]] = {name: [] for name in paths}
    for turn in range(ROUNDS):
        for name, path in paths.items():
            say(f"timing {name}, round {turn + 1} of {ROUNDS}")
            calls[name].append(latency(path))
    known = {name: [x for x in found if x is not None] for name, found in calls.items()}
    return {name: median(found) for name, found in known.items() if found}


def latency(path: Path) -> float | None:
    """Return the median latency of one image on one thread, in ms; ``None`` if not timed."""
    if open_artifact(path).contract.target == "mcu":
        return None
    request = Request(path=str(path.resolve()), threads=1, batches=(1,), seconds=SECONDS)
    try:
        return median(time_once(request).calls_ms["1"])
    except InputError:
        return None
