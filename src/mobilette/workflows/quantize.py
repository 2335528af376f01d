"""`quantize`: a run to an int8 artifact that keeps its accuracy, by the cheapest way that does."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.arguments import checked
from mobilette.artifact.contract import Precision, Rung
from mobilette.artifact.directory import CONTRACT, Artifact, copy_artifact, open_artifact
from mobilette.compression.observation import LARGEST_PART, largest_activation
from mobilette.compression.ranges import RANGES
from mobilette.data.normalise import Normalise
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.exporters.calibration import calibration_images
from mobilette.exporters.export import (
    TARGETS,
    artifact_folder,
    check_precision,
    open_trained_run,
)
from mobilette.exporters.target import (
    Calibration,
    Progress,
    folded_network,
    no_progress,
    package_versions,
)
from mobilette.folders import check_new, claimed, new_directory, scratch
from mobilette.limits import DROP, SEED
from mobilette.model.directory import is_imported
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run
from mobilette.search.int8_ladder import RANKING_IMAGES, Attempt, Material, Outcome, climb
from mobilette.search.int8_measurement import Judge, execute, latencies, read_judge
from mobilette.verification.gate import MAX_DROP, Verdict
from mobilette.verification.verify import verify

TRAINING_IMAGES = 4096
SMALLEST_BATCH, LARGEST_BATCH = 8, 64
# int8 counts as faster where it takes less than this part of the time: medians wander by so much.
FASTER = 0.95


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What `quantize` returns.

    Attributes:
        artifact: of the first rung that kept the accuracy, or of the best one.
        kept: whether the accuracy was kept.
        rungs: all that were tried, in order.
        chosen: the index among them of the artifact's.
        verdict: what `verify` says of the artifact.
        latency_ms: median of one image by precision, int8 and the others that the engine has,
            taking turns; empty where the target is not timed.
        advice: what is faster here, where int8 is not; else empty.
    """

    artifact: Artifact
    kept: bool
    rungs: tuple[Rung, ...]
    chosen: int
    verdict: Verdict
    latency_ms: dict[str, float]
    advice: str

    def to_json(self) -> dict[str, object]:
        """Return the content as JSON values: what `verify` says, path and rungs."""
        return self.verdict.to_json() | {
            "passed": self.kept and self.verdict.passed,
            "path": str(self.artifact.path),
            "rungs": [asdict(rung) for rung in self.rungs],
            "chosen": self.chosen,
            "latency_ms": self.latency_ms,
            "advice": self.advice,
        }


@checked
def quantize(
    run: str | Path | Run,
    data: str | Path,
    *,
    to: str = "onnx",
    max_drop: float = MAX_DROP,
    calibrate: str | Path | None = None,
    split: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
    workers: int | None = None,
    max_unusable: float = 0.1,
    seed: int = 0,
    reporter: Reporter = SILENT,
    on_rung: Callable[[Rung], None] | None = None,
    progress: Progress = no_progress,
) -> Quantised:
    """Write the int8 artifact of a run by the first way that keeps the accuracy; return it.

    Each way (`mobilette.search.int8_ladder.climb`) is exported, executed by the real engine on
    ``data`` and judged by the gate that `verify` has.

    Args:
        run: a run or its directory.
        data: labelled images that judge.
        to: the target.
        max_drop: percentage points of top-1 that may be lost.
        calibrate: images to calibrate and train with; ``None`` means the run's own training
            images or, of an imported run, the ``train/`` of ``data``.
        split: of ``data``, as for `verify`: by default ``val`` where there is one, else every
            image, those of a flat set that the run was trained on included; ``--split val`` takes
            the fifth of it that was held out.
        out: as for `export`.
        force: replace an artifact that is there already.
        workers: processes that decode; ``None`` means one a core.
        max_unusable: the part of the images that may be unusable.
        seed: of the order in which quantisation-aware training sees images.
        reporter: told how many images are read, and what is done now.
        on_rung: called with each rung once it is measured.
        progress: told what is done now.

    Raises:
        InputError: the run is quantised already, ``max_drop`` is none, the images are too few to
            tell such a drop, or `export` refuses.
    """
    say = reporter.remark
    opened = run if isinstance(run, Run) else open_trained_run(run)
    DROP.check("--max-drop", max_drop)
    SEED.check("--seed", seed)
    reading = Reading(workers=workers, max_unusable=max_unusable, split=split)
    precisions = _precisions(to)
    final = artifact_folder(opened, to, "int8", out)
    check_new(final, holds=CONTRACT, force=force)
    with claimed(final):
        judge = read_judge(
            opened,
            data,
            max_drop=max_drop,
            reading=reading,
            reporter=reporter,
        )
        images = partial(
            calibration_images,
            opened,
            _calibrating(opened, data, calibrate),
            option="--calibrate",
            reading=reading,
            reporter=reporter,
        )
        calibration = images()
        rungs: list[Rung] = []

        material = _material(opened, to, judge, calibration, images)
        with scratch() as folder:

            def measure(attempt: Attempt) -> Outcome:
                say(f"rung {attempt.number}: {attempt.name}")
                rung = execute(
                    opened,
                    to,
                    attempt,
                    calibration,
                    judge,
                    out=folder / str(len(rungs)),
                    final=final,
                    progress=progress,
                )
                rungs.append(rung)
                if on_rung is not None:
                    on_rung(rung)
                return Outcome(attempt=attempt, top1=rung.top1, kept=rung.kept)

            for _ in climb(material, measure, say=say, seed=seed):
                pass
            chosen = _choose(rungs, to)
            latency = latencies(opened, to, folder / str(chosen), precisions, say=say)
            best = open_artifact(folder / str(chosen) / final.name)
            assert best.contract.measured is not None
            measured = replace(
                best.contract.measured, rungs=tuple(rungs), chosen=chosen, latency_ms=latency
            )
            with new_directory(final, holds=CONTRACT, force=force) as place:
                copy_artifact(best, place, measured=measured)
    artifact = open_artifact(final)
    say(f"{final}: {rungs[chosen].name}; verifying it")
    verdict = verify(
        artifact.path,
        data,
        checkpoint=opened.path,
        split=split,
        max_drop=max_drop,
        workers=workers,
        max_unusable=max_unusable,
        reporter=reporter,
    )
    return Quantised(
        artifact=artifact,
        kept=rungs[chosen].kept,
        rungs=tuple(rungs),
        chosen=chosen,
        verdict=verdict,
        latency_ms=latency,
        advice=_advice(opened, to, latency),
    )


def _calibrating(run: Run, data: str | Path, given: str | Path | None) -> str | Path | None:
    """Return the images to calibrate and train with; ``None`` for the run's own.

    Raises:
        InputError: only those that judge are left.
    """
    if given is not None or not is_imported(run.path):
        return given
    if "train" not in find_images(data).splits:
        raise InputError(
            f"{run.path}: imported, so without images of its own, and {data} has no train/ "
            "beside those that judge; give some to calibrate with by --calibrate"
        )
    return data


def _precisions(to: str) -> tuple[Precision, ...]:
    """Return the precisions of ``to`` beside int8, which it must have.

    Raises:
        InputError: there is no such target, it has no int8, or a package that it needs is missing.
    """
    check_precision(to, "int8")
    package_versions(TARGETS[to])
    return tuple(each for each in TARGETS[to].precisions if each != "int8")


def _material(
    run: Run,
    to: str,
    judge: Judge,
    calibration: Calibration,
    images: Callable[..., Calibration],
) -> Material:
    normalise = Normalise(run.preprocess)

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

    network = folded_network(run.arch, run.network.state_dict())
    size = max(SMALLEST_BATCH, min(LARGEST_BATCH, LARGEST_PART // largest_activation(network.arch)))
    step = max(1, len(judge.labels) // RANKING_IMAGES)
    rules = (
        RANGES
        if TARGETS[to].default_ranges_differ_from_minmax
        else tuple(r for r in RANGES if r != "minmax")
    )
    return Material(
        network=network,
        inputs=normalised(calibration.pixels),
        ranking=normalised(judge.pixels[::step]),
        ranking_labels=judge.labels[::step],
        ranges=rules,
        batches=batches,
        multi_label=run.multi_label,
    )


def _choose(rungs: Sequence[Rung], to: str) -> int:
    """Return the index of the first rung that kept the accuracy, with the fewest in float.

    Where none did, that of the best.

    Raises:
        InputError: the engine could have none.
    """
    tried = [index for index, rung in enumerate(rungs) if rung.top1 is not None]
    kept = [index for index in tried if rungs[index].kept]
    if kept:
        return min(kept, key=lambda index: (len(rungs[index].float_layers), index))
    if not tried:
        raise InputError(f"--to {to}: {rungs[0].reason}")
    return max(tried, key=lambda index: (rungs[index].top1 or 0.0, -index))


def _advice(run: Run, to: str, latency: dict[str, float]) -> str:
    """Return what is faster than int8 on this machine, if something is."""
    others = {name: ms for name, ms in latency.items() if name != "int8"}
    if "int8" not in latency or not others:
        return ""
    fastest = min(others, key=others.__getitem__)
    if latency["int8"] < FASTER * others[fastest]:
        return ""
    return (
        f"int8 is not faster with {to} here: {latency['int8']:.3g} ms an image, {fastest} takes "
        f"{others[fastest]:.3g} ms; unless its size matters, take "
        f"'mobilette export {shlex.quote(str(run.path))} --to {to} --precision {fastest}'"
    )
