"""What a fit does with one network: probe its costs, train it for a while, prove its artifact."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mobilette.arch.arch import Arch
from mobilette.artifact.directory import Artifact
from mobilette.counting.budget import Quantity
from mobilette.counting.latency import interpolated, predicted_latency, read_latency_table
from mobilette.data.division import Division
from mobilette.data.reading import Reading
from mobilette.engines.timing import Request
from mobilette.exporters.calibration import IMAGES
from mobilette.files import write_json
from mobilette.folders import new_directory
from mobilette.run.directory import STATE, Run, is_run
from mobilette.run.subject import resolve
from mobilette.search.contender import Contender
from mobilette.search.scenes import Wanted
from mobilette.search.space import amounts
from mobilette.training.events import Sitting
from mobilette.training.plan import NetworkChoice
from mobilette.training.recipe import Recipe
from mobilette.training.state import read_state
from mobilette.verification.bench import time_once
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from mobilette.workflows.export import export_each
from mobilette.workflows.fit_record import ARTIFACT, PROOF, RUNS, FitRequest, Term
from mobilette.workflows.quantize import quantize
from mobilette.workflows.resume import run_resume
from mobilette.workflows.train import run_train

# Seconds that an artifact is timed.
_TIMED = 0.5
_FEW = 32  # images that the first artifact is calibrated with: half of the time of its export


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Trains networks for a fit, each in its own run folder."""

    asked: FitRequest
    folder: Path
    sitting: Sitting

    def run_of(self, contender: Contender) -> Path:
        """Return the folder of a contender's run."""
        return self.folder / RUNS / contender.key

    def train(self, contender: Contender, seconds: float, recipe: Recipe | None = None) -> Run:
        """Train a contender until it has had ``seconds``, at a constant rate.

        Args:
            contender: the network.
            seconds: in all.
            recipe: of a new training; by default as in `mobilette.train`.

        Raises:
            InputError: it cannot be trained, or not in so little time.
        """
        return self._train(contender, {"schedule": "constant", "time_limit": seconds}, recipe)

    def finish(self, contender: Contender, seconds: float, teacher: str | None) -> Run:
        """Train a contender for ``seconds`` more, with a rate that falls to zero."""
        keys: dict[str, object] = {
            "schedule": "cosine",
            "time_limit": self.elapsed(contender) + seconds,
        }
        if teacher is not None:
            keys["teacher"] = teacher
        return self._train(contender, keys)

    def elapsed(self, contender: Contender) -> float:
        """Return the seconds that a contender was trained."""
        path = self.run_of(contender)
        return read_state(path / STATE).progress.elapsed if is_run(path) else 0.0

    def _train(
        self, contender: Contender, keys: Mapping[str, object], recipe: Recipe | None = None
    ) -> Run:
        asked, path = self.asked, self.run_of(contender)
        if is_run(path):
            return run_resume(
                path, overrides=keys, force=True, workers=asked.workers, sitting=self.sitting
            )
        own = contender.width_mult is None
        return run_train(
            asked.data,
            NetworkChoice(
                model=None if own else contender.name,
                width_mult=contender.width_mult,
                resolution=contender.resolution,
            ),
            start=contender.start,
            recipe=recipe,
            overrides={"seed": asked.seed} | dict(keys),
            out=path,
            device=asked.device,
            reading=Reading(workers=asked.workers, max_unusable=asked.max_unusable),
            division=Division(holdout=asked.holdout, groups=asked.groups),
            sitting=self.sitting,
        )


@dataclass(frozen=True, kw_only=True)
class Proof:
    """An artifact that was executed: whether it answers as its network, and the budget's terms."""

    artifact: Artifact
    verified: bool
    failures: tuple[str, ...]
    top1: float
    images: int
    terms: tuple[Term, ...]

    @property
    def passed(self) -> bool:
        """Whether it answers as its network and every term is met."""
        return self.verified and all(term.passed for term in self.terms)


@contextmanager
def proof(
    run: Run,
    asked: FitRequest,
    folder: Path,
    *,
    quick: bool = False,
    thorough: bool = False,
    sitting: Sitting,
) -> Iterator[Proof]:
    """Export a run, verify the artifact and measure the budget's terms; it is gone afterwards.

    Args:
        run: the run.
        asked: the budget, the target and the images.
        folder: of the fit.
        quick: calibrate int8 with few images.
        thorough: climb the ladder to int8 as far as needed, not its first rung alone.
        sitting: its listeners.

    Yields:
        The proof; `keep` makes its artifact that of the fit.
    """
    wanted = asked.wanted
    # As deep as the artifact's place: the path to the run in its contract is relative.
    place = folder / f".trial-{socket.gethostname()}-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    try:
        if wanted.precision == "int8" and thorough:
            made = quantize(
                run,
                asked.data,
                to=wanted.target,
                max_drop=asked.max_drop,
                out=place,
                workers=asked.workers,
                max_unusable=asked.max_unusable,
                seed=asked.seed,
                reporter=sitting.reporter,
            )
            artifact, verdict = made.artifact, made.verdict
        else:
            (exported,) = export_each(
                resolve(run),
                [(wanted.target, wanted.precision)],
                data=None,
                out=place,
                force=False,
                reading=Reading(workers=asked.workers, max_unusable=asked.max_unusable),
                reporter=sitting.reporter,
                calibrated=_FEW if quick else IMAGES,
            )
            artifact = exported.artifact
            verdict = verify(
                artifact,
                asked.data,
                max_drop=asked.max_drop,
                workers=asked.workers,
                max_unusable=asked.max_unusable,
            )
        top1 = verdict.accuracy_artifact or 0.0
        if run.multi_label:  # `verify` compares the likeliest class alone
            top1 = evaluate(
                artifact, asked.data, workers=asked.workers, max_unusable=asked.max_unusable
            ).score
        yield Proof(
            artifact=artifact,
            verified=verdict.passed,
            failures=verdict.failures,
            top1=top1,
            images=verdict.images,
            terms=judge(wanted, artifact, run.arch, top1=top1),
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def keep(proven: Proof, folder: Path, line: Mapping[str, object]) -> None:
    """Put a proven artifact, with its line of fit.jsonl, in the place of the fit's best one."""
    made = proven.artifact.path
    with new_directory(folder / ARTIFACT, holds=PROOF, force=True) as unfinished:
        made.replace(unfinished / made.name)
        write_json(unfinished / PROOF, dict(line))


def judge(wanted: Wanted, artifact: Artifact, arch: Arch, *, top1: float) -> tuple[Term, ...]:
    """Measure an artifact by the terms of the budget.

    ``size`` is of the files that the engine loads, ``ram`` of a microcontroller its whole arena; a
    latency on the device of a table is predicted.
    """
    found: dict[Quantity, float] = {**amounts(arch, wanted.precision), "top1": top1}
    size = artifact.contract.measured
    if size is not None:
        found["size"] = size.size_bytes
        found["ram"] = size.arena_bytes or found["ram"]
    terms = []
    for term in wanted.terms:
        remark = ""
        if term.device is None:
            measured = found[term.quantity]
        elif term.device.table is not None:
            table = read_latency_table(term.device.table)
            measured, remark = predicted_latency(arch, table), interpolated([arch], table)
        else:
            measured = latency_ms(artifact.path, term.device.threads)
        terms.append(Term.of(term, measured, remark))
    return tuple(terms)


def latency_ms(path: Path, threads: int) -> float:
    """Return the median latency of one image, in a process of its own."""
    timing = time_once(Request(path=str(path), threads=threads, batches=(1,), seconds=_TIMED))
    return median(timing.calls_ms["1"])


def accuracy(run: Run) -> float:
    """Return what a race compares: top-1, or mean average precision with several labels."""
    best = run.best()
    return 0.0 if best is None else best.get("mean_average_precision", best["top1"])
