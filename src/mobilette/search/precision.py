"""`quantize`: a run to an int8 artifact that keeps its accuracy, by the cheapest way that does."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.artifact.contract import Precision, Rung
from mobilette.artifact.directory import CONTRACT, Artifact, is_artifact, open_artifact
from mobilette.data.cores import usable_cores
from mobilette.data.dataset import load_split
from mobilette.data.labels import Labels
from mobilette.data.normalise import Normalise
from mobilette.data.reading import LoadReport
from mobilette.engines.load import open_engine
from mobilette.engines.timing import Request
from mobilette.errors import InputError
from mobilette.exporters.calibration import calibration_pictures
from mobilette.exporters.export import TARGETS, artifact_folder, check_precision, export
from mobilette.exporters.prepare import folded_network
from mobilette.exporters.target import Calibration
from mobilette.files import check_new
from mobilette.run.directory import Run, is_imported, open_run
from mobilette.run.inference import checkpoint_logits
from mobilette.run.metrics import accuracy
from mobilette.search.rungs import RANKING_PICTURES, Attempt, Material, Outcome, climb
from mobilette.verification.candidate import time_once
from mobilette.verification.evaluate import labelled_pictures
from mobilette.verification.gate import MAX_DROP, judge_pictures
from mobilette.verification.statistics import compare
from mobilette.verification.verdict import Verdict
from mobilette.verification.verify import verify

TRAINING_PICTURES = 4096
ROUNDS, SECONDS = 3, 0.3
# int8 counts as faster where it takes less than this part of the time: medians wander by so much.
FASTER = 0.95

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What `quantize` returns.

    Attributes:
        artifact: of the first rung that kept the accuracy, or of the best one.
        kept: whether the accuracy was kept.
        rungs: all that were tried, in order.
        chosen: the index among them of the artifact's.
        verdict: what `verify` says of the artifact.
        latency_ms: median of one picture by precision, int8 and the others that the engine has,
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judge:
    """The pictures that judge, and the answers of the run to them."""

    pixels: NDArray[np.uint8]
    labels: Labels
    logits: NDArray[np.float32]
    max_drop: float

    @property
    def top1(self) -> float:
        return accuracy(self.logits, self.labels)


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
    report: Report | None = None,
    report_load: LoadReport | None = None,
    on_rung: Callable[[Rung], None] | None = None,
) -> Quantised:
    """Write the int8 artifact of a run by the first way that keeps the accuracy; return it.

    Each way (`mobilette.search.rungs.climb`) is exported, executed by the real engine on ``data``
    and judged by the gate that `verify` has.

    Args:
        run: a run or its directory.
        data: labelled pictures that judge.
        to: the target.
        max_drop: percentage points of top-1 that may be lost.
        calibrate: pictures to calibrate and train with; ``None`` means the run's own training
            pictures or, of an imported run, the training split of ``data``.
        split: of ``data``; by default ``val`` where there is one, else every picture.
        out: as for `export`.
        force: replace an artifact that is there already.
        workers: processes that decode; ``None`` means one a core.
        max_unusable: the part of the pictures that may be unusable.
        seed: of the order in which quantisation-aware training sees pictures.
        report: called with a line for people about what is done now.
        report_load: called with (pictures read, pictures in all).
        on_rung: called with each rung once it is measured.

    Raises:
        InputError: the run is quantised already, ``max_drop`` is none, the pictures are too few to
            tell such a drop, or `export` refuses.
    """
    say = report or _silent
    opened = run if isinstance(run, Run) else _open(Path(run))
    _check_drop(max_drop)
    precisions = _precisions(to)
    check_new(artifact_folder(opened, to, "int8", out), holds=CONTRACT, force=force)
    judge = _read_judge(
        opened,
        data,
        split=split,
        max_drop=max_drop,
        workers=workers,
        max_unusable=max_unusable,
        report_load=report_load,
    )
    pictures = partial(
        calibration_pictures,
        opened,
        data if calibrate is None and is_imported(opened.path) else calibrate,
        workers=workers,
        report_load=report_load,
    )
    calibration = pictures()
    rungs: list[Rung] = []

    def measure(attempt: Attempt) -> Outcome:
        say(f"rung {attempt.number}: {attempt.name}")
        rung = _measure(opened, to, attempt, calibration, judge)
        rungs.append(rung)
        if on_rung is not None:
            on_rung(rung)
        return Outcome(attempt=attempt, top1=rung.top1, kept=rung.kept)

    material = _material(opened, judge, calibration, lambda: pictures(count=TRAINING_PICTURES))
    outcomes = list(climb(material, measure, say=say, seed=seed))
    chosen = _choose(rungs, to)
    say(f"writing: {rungs[chosen].name}")
    artifact = export(
        opened,
        to=to,
        precision="int8",
        calibration=calibration,
        quantisation=outcomes[chosen].attempt.quantisation,
        rungs=rungs,
        out=out,
        force=force,
    )
    verdict = verify(
        artifact.path,
        data,
        checkpoint=opened.path,
        split=split,
        max_drop=max_drop,
        workers=workers,
        max_unusable=max_unusable,
        report_load=report_load,
    )
    latency = _latencies(opened, artifact, precisions, say=say)
    return Quantised(
        artifact=artifact,
        kept=rungs[chosen].kept,
        rungs=tuple(rungs),
        chosen=chosen,
        verdict=verdict,
        latency_ms=latency,
        advice=_advice(opened, to, latency),
    )


def _open(path: Path) -> Run:
    """Return the run in ``path``; of an artifact say which run it was made from."""
    if not is_artifact(path):
        return open_run(path)
    contract = open_artifact(path).contract
    what = "quantised already" if contract.precision == "int8" else "an artifact, not a run"
    raise InputError(f"{path}: {what}; give the run it was made from, {path / contract.source.run}")


def _check_drop(max_drop: float) -> None:
    if not 0 <= max_drop <= 100:
        raise InputError(f"--max-drop {max_drop:g}: percentage points from 0 to 100 are expected")


def _precisions(to: str) -> tuple[Precision, ...]:
    """Return the precisions of ``to`` beside int8, which it must have.

    Raises:
        InputError: there is no such target, or it has no int8.
    """
    check_precision(to, "int8")
    return tuple(each for each in TARGETS[to].precisions if each != "int8")


def _read_judge(
    run: Run,
    data: str | Path,
    *,
    split: str | None,
    max_drop: float,
    workers: int | None,
    max_unusable: float,
    report_load: LoadReport | None,
) -> _Judge:
    pictures, _ = labelled_pictures(data, run.classes, split=split, multi_label=run.multi_label)
    read, _ = load_split(
        pictures,
        num_classes=len(run.classes),
        resolution=run.arch.resolution,
        preprocess=run.preprocess,
        workers=usable_cores() if workers is None else workers,
        max_unusable=max_unusable,
        on_progress=report_load,
    )
    needed = math.ceil(100 / max_drop) if max_drop > 0 else 1
    if len(read.labels) < needed:
        raise InputError(
            f"{data}: {len(read.labels)} pictures cannot tell a drop of {max_drop:g} points, for "
            f"one is {100 / len(read.labels):.3g}; at least {needed} are needed"
        )
    pixels = read.pixels[:]
    logits = checkpoint_logits(run.network, Normalise(run.preprocess), pixels)
    return _Judge(pixels=pixels, labels=read.labels, logits=logits, max_drop=max_drop)


def _material(
    run: Run, judge: _Judge, calibration: Calibration, more: Callable[[], Calibration]
) -> Material:
    normalise = Normalise(run.preprocess)

    def normalised(pixels: NDArray[np.uint8]) -> Tensor:
        with torch.no_grad():
            x: Tensor = normalise(torch.from_numpy(np.ascontiguousarray(pixels)))
        return x

    step = max(1, len(judge.labels) // RANKING_PICTURES)
    return Material(
        network=folded_network(run.arch, run.network.state_dict()),
        inputs=normalised(calibration.pixels),
        ranking=normalised(judge.pixels[::step]),
        ranking_labels=judge.labels[::step],
        training=lambda: normalised(more().pixels),
    )


def _measure(run: Run, to: str, attempt: Attempt, calibration: Calibration, judge: _Judge) -> Rung:
    """Return what the engine made of ``attempt``, or why it could not have it."""
    name = f"{attempt.number}: {attempt.name}"
    layers = tuple(sorted(attempt.quantisation.float_layers))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            artifact = export(
                run,
                to=to,
                precision="int8",
                calibration=calibration,
                quantisation=attempt.quantisation,
                out=scratch,
            )
            logits = open_engine(artifact).logits(judge.pixels)
            latency = _latency(artifact.path)
    except InputError as error:
        if attempt.number == 1 and attempt.quantisation.ranges == "minmax":
            raise  # what is wrong here is wrong with all
        return Rung(name=name, float_layers=layers, reason=str(error))
    top1 = accuracy(logits, judge.labels)
    failures = judge_pictures(
        compare(logits, judge.logits),
        drop=judge.top1 - top1,
        precision="int8",
        max_drop=judge.max_drop,
    )
    measured = artifact.contract.measured
    return Rung(
        name=name,
        top1=top1,
        drop=judge.top1 - top1,
        size_bytes=measured.size_bytes if measured else None,
        latency_ms=latency,
        float_layers=layers,
        kept=not failures,
        reason="; ".join(failures),
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


def _latencies(
    run: Run, artifact: Artifact, precisions: Sequence[Precision], *, say: Report
) -> dict[str, float]:
    """Return the median latency of the int8 artifact and of those of the other ``precisions``."""
    to = artifact.contract.target
    calls: dict[str, list[float | None]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        paths = {"int8": artifact.path}
        for precision in precisions:
            with suppress(InputError):
                paths[precision] = export(run, to=to, precision=precision, out=scratch).path
        if to == "mcu" or len(paths) == 1:
            return {}
        for turn in range(ROUNDS):
            for name, path in paths.items():
                say(f"timing {name}, round {turn + 1} of {ROUNDS}")
                calls.setdefault(name, []).append(_latency(path))
    known = {name: [x for x in found if x is not None] for name, found in calls.items()}
    return {name: median(found) for name, found in known.items() if found}


def _latency(path: Path) -> float | None:
    """Return the median of one picture on one thread; ``None`` where it cannot be timed."""
    if open_artifact(path).contract.target == "mcu":
        return None
    request = Request(path=str(path.resolve()), threads=1, batches=(1,), seconds=SECONDS)
    try:
        return median(time_once(request).calls_ms["1"])
    except InputError:
        return None


def _advice(run: Run, to: str, latency: dict[str, float]) -> str:
    """Return what is faster than int8 on this machine, if something is."""
    others = {name: ms for name, ms in latency.items() if name != "int8"}
    if "int8" not in latency or not others:
        return ""
    fastest = min(others, key=others.__getitem__)
    if latency["int8"] < FASTER * others[fastest]:
        return ""
    return (
        f"int8 is not faster with {to} here: {latency['int8']:.3g} ms a picture, {fastest} takes "
        f"{others[fastest]:.3g} ms; unless its size matters, take "
        f"'mobilette export {run.path} --to {to} --precision {fastest}'"
    )


def _silent(line: str) -> None:
    pass
