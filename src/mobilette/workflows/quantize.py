"""`quantize`: a model in, an int8 artifact that keeps its accuracy out, as cheaply as possible."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

from mobilette.arguments import checked
from mobilette.artifact.contract import Rung
from mobilette.artifact.directory import CONTRACT, Artifact, open_artifact
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
    no_progress,
    package_versions,
)
from mobilette.folders import check_new, claimed, scratch
from mobilette.limits import DROP, SEED
from mobilette.model.directory import is_imported
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run
from mobilette.run.promise import parse_promise
from mobilette.run.subject import resolve
from mobilette.search.int8_ladder import Attempt, Outcome, climb
from mobilette.search.int8_measurement import (
    Judge,
    execute,
    latencies,
    make_material,
    read_judge,
)
from mobilette.verification.gate import MAX_DROP
from mobilette.verification.verdict import Verdict
from mobilette.verification.verify import verify
from mobilette.workflows.answers import HeldOut, fit, place, promised

# int8 counts as faster below this fraction of the time: medians vary by as much.
FASTER = 0.95


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """The result of `quantize`.

    Attributes:
        artifact: of the first rung that kept the accuracy, or of the best one.
        kept: whether the accuracy was kept.
        promise_kept: whether the artifact keeps the promise, if one was made.
        rungs: every attempt, in order.
        chosen: the index of the artifact's rung.
        verdict: from `verify` on the artifact.
        latency_ms: median latency of one image by precision, int8 and the engine's others, measured
            in turns; empty if the target is not timed.
        advice: to use another precision, if int8 is not the fastest here; else empty.
    """

    artifact: Artifact
    kept: bool
    promise_kept: bool
    rungs: tuple[Rung, ...]
    chosen: int
    verdict: Verdict
    latency_ms: dict[str, float]
    advice: str

    def to_json(self) -> dict[str, object]:
        """Return the content as JSON values: the verdict, path and rungs."""
        return self.verdict.to_json() | {
            "passed": self.kept and self.promise_kept and self.verdict.passed,
            "path": str(self.artifact.path),
            "rungs": [asdict(rung) for rung in self.rungs],
            "chosen": self.chosen,
            "latency_ms": self.latency_ms,
            "advice": self.advice,
            "answering": asdict(self.artifact.contract.answering),
        }


@checked
def quantize(
    run: str | Path | Run | Model,
    data: str | Path,
    *,
    to: str = "onnx",
    max_drop: float = MAX_DROP,
    calibrate: str | Path | None = None,
    split: str | None = None,
    include_trained: bool = False,
    promise: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
    workers: int | None = None,
    max_unusable: float = 0.1,
    seed: int = 0,
    reporter: Reporter = SILENT,
    on_rung: Callable[[Rung], None] | None = None,
    progress: Progress = no_progress,
) -> Quantised:
    """Write an int8 artifact of a model that keeps its accuracy, as cheaply as possible.

    Each attempt (`mobilette.search.int8_ladder.climb`) is exported, executed by the real engine on
    ``data`` and judged like in `verify`; the first that keeps the accuracy is written, else the
    best.

    Args:
        run: a run, its directory, or a `Model`.
        data: labelled images to judge on.
        to: the target.
        max_drop: percentage points of top-1 that may be lost.
        calibrate: images to calibrate and train with; by default the run's own training images, or
            ``train/`` of ``data`` for an imported run or a `Model` that no run holds.
        split: of ``data``; by default ``val`` if there is one, else every image.
        include_trained: also judge on images that the run was trained on, which are left out
            otherwise.
        promise: as for `export`; kept on the judging images.
        out: as for `export`.
        force: replace an existing artifact.
        workers: decoding processes; by default one per core.
        max_unusable: fraction of the images that may be unusable.
        seed: random seed of the image order in quantisation-aware training.
        reporter: receives the progress of reading, and remarks on the current work.
        on_rung: called with each rung once it is measured.
        progress: called with the progress of the current work.

    Raises:
        InputError: the run is an int8 artifact, ``max_drop`` is out of range, the images are too
            few to measure it, or `export` refuses.
    """
    model, opened = resolve(open_trained_run(run) if isinstance(run, str | PathLike) else run)
    DROP.check("--max-drop", max_drop)
    SEED.check("--seed", seed)
    if promise is not None:
        parse_promise(promise)
    check_precision(to, "int8")
    package_versions(TARGETS[to])
    ladder = _Ladder(
        model=model,
        source=opened or model,
        data=data,
        to=to,
        max_drop=max_drop,
        promise=promise,
        final=artifact_folder(opened or model, to, "int8", out),
        reading=Reading(
            workers=workers, max_unusable=max_unusable, split=split, include_trained=include_trained
        ),
        reporter=reporter,
        on_rung=on_rung,
        progress=progress,
    )
    return ladder.quantise(calibrate, seed=seed, force=force)


@dataclass(frozen=True, kw_only=True)
class _Ladder:
    """A checked request: which model to quantise for which target, and its listeners."""

    model: Model
    source: Run | Model
    data: str | Path
    to: str
    max_drop: float
    promise: str | None
    final: Path
    reading: Reading
    reporter: Reporter
    on_rung: Callable[[Rung], None] | None
    progress: Progress

    def quantise(self, calibrate: str | Path | None, *, seed: int, force: bool) -> Quantised:
        """Write the best artifact and verify it."""
        check_new(self.final, holds=CONTRACT, force=force)
        with claimed(self.final), scratch() as folder:
            judge = read_judge(
                self.model,
                self.data,
                max_drop=self.max_drop,
                reading=self.reading,
                reporter=self.reporter,
            )
            part = self.reading.split or ("val" if self._has("val") else "all")
            held = HeldOut(pixels=judge.pixels, labels=judge.labels, split=part)
            asked = promised(
                self.model, self.promise, held, where=str(self.data), reporter=self.reporter
            )
            images = partial(
                calibration_images,
                self.source,
                self._calibrating(calibrate),
                option="--calibrate",
                reading=self.reading,
                reporter=self.reporter,
            )
            rungs = self._climb(folder, judge, images, seed=seed)
            chosen = _choose(rungs, self.to)
            made = folder / str(chosen)
            latency = latencies(self.source, self.to, made, say=self.reporter.remark)
            best = open_artifact(made / self.final.name)
            assert best.contract.measured is not None
            measured = replace(
                best.contract.measured, rungs=rungs, chosen=chosen, latency_ms=latency
            )
            fitted = fit(best, held, asked, self.reporter)
            best = replace(best, contract=replace(best.contract, measured=measured))
            place(best, self.final, fitted.answering, force=force)
        self.reporter.remark(f"{self.final}: {rungs[chosen].name}; verifying it")
        verdict = verify(
            self.final,
            self.data,
            checkpoint=self.source,
            split=self.reading.split,
            include_trained=self.reading.include_trained,
            max_drop=self.max_drop,
            workers=self.reading.workers,
            max_unusable=self.reading.max_unusable,
            reporter=self.reporter,
        )
        return Quantised(
            promise_kept=fitted.kept,
            artifact=open_artifact(self.final),
            kept=rungs[chosen].kept,
            rungs=rungs,
            chosen=chosen,
            verdict=verdict,
            latency_ms=latency,
            advice=_advice(self.source, self.to, latency),
        )

    def _climb(
        self, folder: Path, judge: Judge, images: Callable[..., Calibration], *, seed: int
    ) -> tuple[Rung, ...]:
        """Measure attempts, each in a numbered folder below ``folder``, until one is kept."""
        rungs: list[Rung] = []
        calibration = images()

        def measure(attempt: Attempt) -> Outcome:
            self.reporter.remark(f"rung {attempt.number}: {attempt.name}")
            rung = execute(
                self.source,
                self.to,
                attempt,
                calibration,
                judge,
                out=folder / str(len(rungs)),
                final=self.final,
                progress=self.progress,
            )
            rungs.append(rung)
            if self.on_rung is not None:
                self.on_rung(rung)
            return Outcome(attempt=attempt, top1=rung.top1, kept=rung.kept)

        material = make_material(self.model, self.to, judge, calibration, images)
        for _ in climb(material, measure, say=self.reporter.remark, seed=seed):
            pass
        return tuple(rungs)

    def _calibrating(self, given: str | Path | None) -> str | Path | None:
        """Return the images to calibrate and train with; ``None`` for the run's own."""
        source = self.source
        if given is not None or (isinstance(source, Run) and not is_imported(source.path)):
            return given
        if not self._has("train"):
            raise InputError(
                f"{self.model.origin.source}: not trained here, so it has no images of its own, "
                f"and {self.data} has no train/; give images to calibrate with: --calibrate DATA"
            )
        return self.data

    def _has(self, split: str) -> bool:
        return split in find_images(self.data).splits


def _choose(rungs: Sequence[Rung], to: str) -> int:
    """Return the index of the kept rung with the fewest float layers, else of the best rung."""
    tried = [index for index, rung in enumerate(rungs) if rung.top1 is not None]
    kept = [index for index in tried if rungs[index].kept]
    if kept:
        return min(kept, key=lambda index: (len(rungs[index].float_layers), index))
    if not tried:
        raise InputError(f"--to {to}: {rungs[0].reason}")
    return max(tried, key=lambda index: (rungs[index].top1 or 0.0, -index))


def _advice(source: Run | Model, to: str, latency: dict[str, float]) -> str:
    """Return advice to use a precision that is faster than int8 on this machine, if any."""
    others = {name: ms for name, ms in latency.items() if name != "int8"}
    if "int8" not in latency or not others:
        return ""
    fastest = min(others, key=others.__getitem__)
    if latency["int8"] < FASTER * others[fastest]:
        return ""
    export = f"mobilette.export(model, to='{to}', precision='{fastest}')"
    if isinstance(source, Run):
        run = shlex.quote(str(source.path))
        export = f"'mobilette export {run} --to {to} --precision {fastest}'"
    return (
        f"int8 is not faster with {to} here: {latency['int8']:.3g} ms per image, {fastest} takes "
        f"{others[fastest]:.3g} ms; unless size matters, use {export}"
    )
