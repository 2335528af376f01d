"""`bench`: models side by side, each judged and timed in processes that may fail or die."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact, find_artifacts, is_artifact, open_artifact
from mobilette.data.machine import processor, usable_cores
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.engines import timing
from mobilette.engines.targets import why_not_run
from mobilette.engines.timing import Request, Timing
from mobilette.errors import InputError
from mobilette.files import read_bytes
from mobilette.folders import scratch
from mobilette.isolated import run_isolated, serve
from mobilette.limits import ROUNDS, THREADS
from mobilette.model.model import Model
from mobilette.progress import SILENT, Remark, Reporter
from mobilette.records import parse
from mobilette.run.directory import Run, is_run, open_run
from mobilette.verification.benchmark import (
    Benchmark,
    BestBatch,
    Row,
    best_batch,
    first_places,
    latency_of,
)
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify

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
    include_trained: bool = False,
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
        split: by default ``val`` if there is one, else every image.
        include_trained: also judge each model on images that it was trained on, which are left out
            otherwise.
        threads: threads of each engine.
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
    reading = Reading(workers=workers, split=split, include_trained=include_trained)
    with scratch() as folder:
        names: dict[str, str] = {}
        paths: list[Path] = []
        for number, model in enumerate(models):
            if isinstance(model, Model):
                path = model.save(folder / str(number))
                names[str(path)] = model.origin.name
            else:
                path = model.path if isinstance(model, Run | Artifact) else Path(model)
            paths.append(path)
        opened = [open_row(path) for path in expand(paths)]
        judged = []
        for row in opened:
            reporter.remark(f"verifying {names.get(row.artifact, row.artifact)}")
            judged.append(judge(row, data, reading))
        timed = _take_turns(
            opened, threads=threads, rounds=rounds, seconds=seconds, say=reporter.remark
        )
    rows = tuple(
        replace(row, artifact=names.get(row.artifact, row.artifact))
        for row in map(_with_timings, judged, timed)
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
    cores = f"{usable_cores()} of {os.cpu_count()} cores"
    return f"{processor()}, {cores}, {platform.system()}, Python {platform.python_version()}"


def open_row(path: Path) -> Row:
    """Return the artifact or run in ``path``, with the reason why it cannot be executed, if any.

    `InputError` if it is damaged.
    """
    if not is_artifact(path):
        weights = read_bytes(open_run(path).weights_path)
        return Row(
            artifact=str(path),
            target=None,
            precision="fp32",
            sha256=hashlib.sha256(weights).hexdigest(),
            size_bytes=len(weights),
        )
    contract = open_artifact(path).contract
    reason = why_not_run(contract.target, path)
    if not contract.verifiable:
        reason = f"nothing here executes {contract.target!r} artifacts"
    return Row(
        artifact=str(path),
        target=contract.target,
        precision=contract.precision,
        sha256=contract.sha256,
        size_bytes=contract.measured.size_bytes if contract.measured else 0,
        reasons=() if reason is None else (reason,),
    )


def judge(row: Row, data: str | Path | None, reading: Reading) -> Row:
    """Return ``row`` with the result of `verify` for an artifact, or the accuracy of a run."""
    if row.reasons or (row.target is None and data is None):
        return row
    request = {
        "path": row.artifact,
        "data": None if data is None else str(data),
        "split": reading.split,
        "include_trained": reading.include_trained,
        "workers": reading.workers,
    }
    try:
        answer = run_isolated(
            "mobilette.verification.bench",
            stdin=json.dumps(request).encode(),
            longest_s=TIMEOUT,
            said=1,
        )
    except InputError as error:
        return replace(row, verified=None if row.target is None else False, reasons=(str(error),))
    found = json.loads(answer)
    verified = found["verified"]
    if verified and data is None and row.precision != "fp32":
        return replace(row, reasons=("rounded numbers are verified on images only: give --data",))
    lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return replace(row, **found | lists)


def _judge_here(given: bytes) -> bytes:
    """Answer a request of `judge`: the fields of a `Row` that were measured, as JSON."""
    request = json.loads(given)
    path = Path(request.pop("path"))
    if is_artifact(path):
        verdict = verify(path, **request)
        measured = verdict.to_json()
        found = {"verified": measured["passed"], "reasons": measured["failures"]}
        found |= {"top1": measured["accuracy_artifact"], "classes_worse": verdict.classes_worse}
    else:
        measured = evaluate(path, **request).to_json()
        found = {"verified": None, "reasons": (), "top1": measured["top1"]}
    found |= {name: measured[name] for name in ("images", "trained_left_out", "includes_trained")}
    return json.dumps(found).encode()


def _take_turns(
    rows: Sequence[Row], *, threads: int, rounds: int, seconds: float, say: Remark
) -> list[list[Timing] | str]:
    """Return each row's timings, one per round, or why there are none."""
    found: list[list[Timing] | str] = []
    for row in rows:
        what = "not timed: this machine is no microcontroller" if row.target == "mcu" else ""
        found.append(what if row.reasons or what else [])
    for turn in range(rounds):
        for index, row in enumerate(rows):
            timings = found[index]
            if isinstance(timings, str):
                continue
            say(f"round {turn + 1} of {rounds}: {row.artifact}")
            request = Request(
                path=row.artifact,
                threads=threads,
                batches=tuple(sorted({1, best_batch(timings)})) if timings else BATCHES,
                seconds=seconds,
            )
            try:
                timings.append(time_once(request))
            except InputError as error:
                found[index] = str(error)
    return found


def time_once(request: Request) -> Timing:
    """Return a model's timing from a new process; `InputError` if that fails or dies."""
    threads = str(request.threads)
    answer = run_isolated(
        timing.__name__,
        stdin=json.dumps(asdict(request)).encode(),
        longest_s=TIMEOUT,
        environment={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        said=1,
    )
    return parse(Timing, json.loads(answer), where=f"{request.path}: timing")


def _with_timings(row: Row, timings: list[Timing] | str) -> Row:
    if isinstance(timings, str):
        reasons = (*row.reasons, timings) if timings else row.reasons
        return replace(row, reasons=tuple(dict.fromkeys(reasons)))
    best = best_batch(timings)
    latency = latency_of(timings, best)
    memory = [each.memory_bytes for each in timings if each.memory_bytes is not None]
    return replace(
        row,
        engine=timings[0].engine,
        latency_ms=latency_of(timings, 1),
        best_batch=BestBatch(
            size=best, latency_ms=latency, images_per_second=1e3 * best / latency.median
        ),
        load_ms=median(each.load_ms for each in timings),
        memory_bytes=int(median(memory)) if memory else None,
    )


if __name__ == "__main__":
    sys.exit(serve(_judge_here))
