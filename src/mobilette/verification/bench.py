"""`bench`: models side by side, each judged and timed in processes that may fail or die."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypedDict

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact, find_artifacts, is_artifact, open_artifact
from mobilette.data.machine import usable_cores
from mobilette.data.sources import find_images
from mobilette.engines.load import why_not_run
from mobilette.engines.timing import Request, Timing
from mobilette.errors import InputError
from mobilette.files import read_bytes, read_record
from mobilette.folders import scratch
from mobilette.limits import ROUNDS, THREADS
from mobilette.model.model import Model
from mobilette.progress import SILENT, Remark, Reporter
from mobilette.run.directory import Run, is_run, open_run
from mobilette.verification.benchmark import (
    Benchmark,
    BestBatch,
    Row,
    best_batch,
    first_places,
    latency_of,
)

BATCHES = (1, 2, 4, 8, 16, 32)
SECONDS = 0.5
Benchmarked = str | Path | Run | Artifact | Model
# For a model's start and all of its calls.
TIMEOUT = 3600.0


@checked
def bench(
    models: Benchmarked | Sequence[Benchmarked],
    data: str | Path | None = None,
    *,
    split: str | None = None,
    threads: int = 1,
    rounds: int = 3,
    seconds: float = SECONDS,
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> Benchmark:
    """Judge and time artifacts, runs and models.

    Each is verified in its own process, on ``data`` if given. Then all are timed in turns: in each
    round each gets a new process with ``threads`` threads, bound to as many cores. One that fails,
    or whose process dies, becomes a row that says so.

    Args:
        models: artifacts, runs, their directories, folders of several artifacts, or models.
        data: labelled images; without them golden vectors are compared and accuracy is unknown.
        split: by default ``val`` if there is one, else all images.
        threads: of each engine.
        rounds: how often each is timed.
        seconds: the least time for each in a round.
        workers: processes that decode; ``None`` means one per core.
        reporter: receives each step.

    Raises:
        InputError: one of ``models`` is none of these or damaged, or ``data`` cannot be used.
    """
    THREADS.check("--threads", threads)
    ROUNDS.check("--rounds", rounds)
    if threads > usable_cores():
        raise InputError(f"--threads {threads}: only {usable_cores()} cores are available")
    if isinstance(models, str | Path | Run | Artifact | Model):
        models = [models]
    if not models:
        raise InputError("bench: models is empty; give artifacts, runs or models")
    if data is not None:
        find_images(data)
    say = reporter.remark
    with scratch() as folder:
        names: dict[Path, str] = {}
        paths: list[Path] = []
        for number, model in enumerate(models):
            if isinstance(model, Model):
                path = model.save(folder / str(number))
                names[path] = model.origin.name
            else:
                path = model.path if isinstance(model, Run | Artifact) else Path(model)
            paths.append(path)
        candidates = [open_candidate(path) for path in expand(paths)]
        judged = []
        for candidate in candidates:
            say(f"verifying {names.get(candidate.path, candidate.path)}")
            judged.append(judge(candidate, data, split=split, workers=workers))
        found = _take_turns(candidates, threads=threads, rounds=rounds, seconds=seconds, say=say)
    rows = tuple(
        replace(row, artifact=names.get(Path(row.artifact), row.artifact))
        for row in map(_row, candidates, judged, found)
    )
    first = tuple(row.artifact for row in first_places(rows))
    return Benchmark(
        machine=machine(),
        threads=threads,
        rounds=rounds,
        data=str(data) if data is not None else None,
        fastest=first[0] if len(first) == 1 else None,
        level=first if len(first) > 1 else (),
        rows=rows,
    )


def expand(models: Sequence[str | Path]) -> list[Path]:
    """Return ``models`` without duplicates, each folder replaced by its artifacts."""
    found: list[Path] = []
    for model in map(Path, models):
        inside = (model,) if is_artifact(model) or is_run(model) else find_artifacts(model)
        if not inside:
            what = "no artifact, no run and no folder of artifacts" if model.exists() else "missing"
            raise InputError(f"{model}: {what}; 'mobilette export' makes artifacts")
        found += inside
    return list(dict.fromkeys(found))


def machine() -> str:
    """Return the processor, the cores and the system on one line."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):  # not Linux, or not x86
        pass
    cores = f"{usable_cores()} of {os.cpu_count()} cores"
    return f"{name}, {cores}, {platform.system()}, Python {platform.python_version()}"


def _take_turns(
    candidates: Sequence[Candidate], *, threads: int, rounds: int, seconds: float, say: Remark
) -> list[list[Timing] | str]:
    """Return each candidate's timings, one per round, or why there are none."""
    found = [_untimed(each) for each in candidates]
    for turn in range(rounds):
        for index, candidate in enumerate(candidates):
            timings = found[index]
            if isinstance(timings, str):
                continue
            say(f"round {turn + 1} of {rounds}: {candidate.path}")
            request = Request(
                path=str(candidate.path),
                threads=threads,
                batches=tuple(sorted({1, best_batch(timings)})) if timings else BATCHES,
                seconds=seconds,
            )
            try:
                timings.append(time_once(request))
            except InputError as error:
                found[index] = str(error)
    return found


def _untimed(candidate: Candidate) -> list[Timing] | str:
    if candidate.target == "mcu":
        return "not timed: this machine is no microcontroller"
    return [] if candidate.executable else ""


def _row(candidate: Candidate, judged: Judgement, timings: list[Timing] | str) -> Row:
    row = Row(
        artifact=str(candidate.path),
        target=candidate.target,
        precision=candidate.precision,
        sha256=candidate.sha256,
        size_bytes=candidate.size_bytes,
        **judged,
    )
    if isinstance(timings, str):
        reasons = (*row.reasons, timings) if timings else row.reasons
        return replace(row, reasons=tuple(dict.fromkeys(reasons)))
    best = best_batch(timings)
    latency = latency_of(timings, best)
    memory = [timing.memory_bytes for timing in timings if timing.memory_bytes is not None]
    return replace(
        row,
        engine=timings[0].engine,
        latency_ms=latency_of(timings, 1),
        best_batch=BestBatch(
            size=best, latency_ms=latency, images_per_second=1e3 * best / latency.median
        ),
        load_ms=median(timing.load_ms for timing in timings),
        memory_bytes=int(median(memory)) if memory else None,
    )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model of a benchmark; a run's ``target`` is ``None``."""

    path: Path
    target: str | None
    precision: str
    sha256: str
    size_bytes: int
    executable: bool


class Judgement(TypedDict):
    """The fields of a `Row` that say how good a model is."""

    verified: bool | None
    reasons: tuple[str, ...]
    top1: float | None
    images: int


def open_candidate(path: Path) -> Candidate:
    """Return the artifact or run in the directory ``path``; `InputError` if it is damaged."""
    if is_artifact(path):
        contract = open_artifact(path).contract
        return Candidate(
            path=path,
            target=contract.target,
            precision=contract.precision,
            sha256=contract.sha256,
            size_bytes=contract.measured.size_bytes if contract.measured else 0,
            executable=contract.verifiable,
        )
    weights = read_bytes(open_run(path).weights_path)
    return Candidate(
        path=path,
        target=None,
        precision="fp32",
        sha256=hashlib.sha256(weights).hexdigest(),
        size_bytes=len(weights),
        executable=True,
    )


def judge(
    candidate: Candidate, data: str | Path | None, *, split: str | None, workers: int | None
) -> Judgement:
    """Return the result of `verify` for an artifact, or the accuracy of a run."""
    if not candidate.executable:
        return _judgement(None, f"nothing here executes {candidate.target!r} artifacts")
    missing = why_not_run(candidate.target, candidate.path) if candidate.target else None
    if missing is not None:
        return _judgement(None, missing)
    options = [f"--split={split}"] if split is not None else []
    options += [f"--workers={workers}"] if workers is not None else []
    given = [str(data), *options] if data is not None else []
    verb = "evaluate" if candidate.target is None else "verify"
    if verb == "evaluate" and data is None:
        return _judgement(None)
    command = [sys.executable, "-P", "-m", "mobilette", verb, str(candidate.path), *given, "--json"]
    done = _run(command, threads=None)
    try:
        if done.returncode not in (0, 1) or not done.stdout.strip():
            raise InputError(_why(done))
        found = json.loads(done.stdout.splitlines()[-1])
        if verb == "evaluate":
            return Judgement(verified=None, reasons=(), top1=found["top1"], images=found["images"])
        if found["passed"] and data is None and candidate.precision != "fp32":
            return _judgement(None, "rounded numbers are verified on images only: give --data")
        return Judgement(
            verified=found["passed"],
            reasons=tuple(found["failures"]),
            top1=found["accuracy_artifact"],
            images=found["images"],
        )
    except (InputError, ValueError) as error:
        return _judgement(None if candidate.target is None else False, str(error))


def time_once(request: Request) -> Timing:
    """Return a model's timing from a new process; `InputError` if that fails or dies."""
    with scratch() as folder:
        answer = folder / "timing.json"
        command = [sys.executable, "-P", "-m", "mobilette.engines.timing"]
        command += [json.dumps(asdict(request)), str(answer)]
        done = _run(command, threads=request.threads)
        if done.returncode != 0:
            raise InputError(_why(done))
        return read_record(answer, Timing)


def _judgement(verified: bool | None, *reasons: str) -> Judgement:
    return Judgement(verified=verified, reasons=reasons, top1=None, images=0)


def _run(command: Sequence[str], *, threads: int | None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        error = f"mobilette: error: not finished after {TIMEOUT:.0f} seconds"
        return subprocess.CompletedProcess(command, 2, "", error)


def _why(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("mobilette: error: ")]
    if errors:
        return errors[-1].removeprefix("mobilette: error: ")
    if done.returncode < 0:
        return f"its process died of signal {-done.returncode}"
    return f"its process ended with status {done.returncode}: {(lines or ['no message'])[-1][:200]}"
