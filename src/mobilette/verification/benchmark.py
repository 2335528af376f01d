"""`bench`: artifacts and runs side by side, each judged and timed in processes of its own."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import numpy as np

from mobilette.artifact.directory import find_artifacts, is_artifact
from mobilette.data.machine import usable_cores
from mobilette.data.sources import find_images
from mobilette.engines.timing import Request, Timing
from mobilette.errors import InputError
from mobilette.limits import AMOUNT, BATCH, FRACTION, MILLISECONDS, RATE, ROUNDS, THREADS
from mobilette.records import check_ranges
from mobilette.run.directory import is_run
from mobilette.verification.candidate import (
    Candidate,
    Judgement,
    judge,
    open_candidate,
    time_once,
)

BATCHES = (1, 2, 4, 8, 16, 32)
SECONDS = 0.5

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of ``n`` calls: their median, and their 10th and 90th percentile."""

    median: Annotated[float, MILLISECONDS]
    p10: Annotated[float, MILLISECONDS]
    p90: Annotated[float, MILLISECONDS]
    n: Annotated[int, AMOUNT]

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class BestBatch:
    """The number of images in one call with which the most are answered in a second."""

    size: Annotated[int, BATCH]
    latency_ms: Latency
    images_per_second: Annotated[float, RATE]

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artifact, or one run.

    Attributes:
        artifact: its directory.
        target: of the artifact; ``None`` for a run.
        engine: what executed it; ``None`` where nothing here can.
        sha256: of its contract, or of a run's weights.
        verified: whether `verify` passed; ``None`` for a run, which is what artifacts are compared
            with, and for an artifact that cannot be executed here.
        reasons: why it is not verified, or was not timed.
        top1: on the images of ``images``, 0 to 1; ``None`` without images.
        size_bytes: of the files that the engine loads.
        latency_ms: of one image.
        load_ms: from the directory to the first answer, the engine's packages imported: median.
        memory_bytes: by how much that made a process' resident memory grow: median.
    """

    artifact: str
    target: str | None
    precision: str
    sha256: str
    size_bytes: Annotated[int, AMOUNT]
    engine: str | None = None
    verified: bool | None = None
    reasons: tuple[str, ...] = ()
    top1: Annotated[float, FRACTION] | None = None
    images: Annotated[int, AMOUNT] = 0
    latency_ms: Latency | None = None
    best_batch: BestBatch | None = None
    load_ms: Annotated[float, MILLISECONDS] | None = None
    memory_bytes: Annotated[int, AMOUNT] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The content of bench.json.

    Attributes:
        machine: what it was measured on.
        threads: of each engine.
        rounds: in which all took turns.
        data: the images; ``None`` without.
        fastest: the verified artifact with the smallest median latency of one image; ``None``
            where others are level with it.
        level: those that share the first place, in the order of their medians.
        rows: in the order in which they were given.
    """

    machine: str
    threads: Annotated[int, THREADS]
    rounds: Annotated[int, ROUNDS]
    data: str | None
    fastest: str | None
    rows: tuple[Row, ...]
    level: tuple[str, ...] = ()
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_ranges(self)

    def to_json(self) -> dict[str, object]:
        """Return the content as JSON values."""
        return asdict(self)


def bench(
    models: Sequence[str | Path],
    data: str | Path | None = None,
    *,
    split: str | None = None,
    threads: int = 1,
    rounds: int = 3,
    seconds: float = SECONDS,
    workers: int | None = None,
    report: Report | None = None,
) -> Benchmark:
    """Judge and time artifacts and runs.

    Each is verified in a process of its own, on ``data`` where that is given; then all are timed in
    turns, in each round in a new process with ``threads`` threads, bound to as many cores. One that
    fails, or whose process dies, is a row that says so.

    Args:
        models: directories of artifacts and of runs, or folders of several artifacts.
        data: labelled images; without them golden vectors are compared and no accuracy is known.
        split: by default ``val`` where there is one, else every image.
        threads: of each engine.
        rounds: in how many turns they are timed.
        seconds: how long each is timed in a round, at least.
        workers: processes that decode; ``None`` means one a core.
        report: called with a line for people about what is done now.

    Raises:
        InputError: one of ``models`` is neither, or is damaged; ``data`` cannot be used.
    """
    THREADS.check("--threads", threads)
    ROUNDS.check("--rounds", rounds)
    if threads > usable_cores():
        raise InputError(f"--threads {threads}: {usable_cores()} cores can be used here")
    candidates = [open_candidate(path) for path in expand(models)]
    if data is not None:
        find_images(data)
    say = report or _silent
    judged = []
    for candidate in candidates:
        say(f"verifying {candidate.path}")
        judged.append(judge(candidate, data, split=split, workers=workers))
    found = _take_turns(candidates, threads=threads, rounds=rounds, seconds=seconds, say=say)
    rows = tuple(map(_row, candidates, judged, found))
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
    """Return ``models`` with each folder of artifacts replaced by these; each once.

    Raises:
        InputError: one is neither an artifact, a run nor a folder of artifacts.
    """
    found: list[Path] = []
    for model in map(Path, models):
        inside = (model,) if is_artifact(model) or is_run(model) else find_artifacts(model)
        if not inside:
            what = "no artifact, no run and no folder of artifacts" if model.exists() else "missing"
            raise InputError(f"{model}: {what}; 'mobilette export' makes artifacts")
        found += inside
    return list(dict.fromkeys(found))


def first_places(rows: Sequence[Row]) -> list[Row]:
    """Return the fastest verified artifact, and those that are level with it, the fastest first.

    That are those whose latency of one image, from the 10th to the 90th percentile, overlaps its
    own: another round may put them in another order.
    """
    timed = sorted(
        (row.latency_ms.median, row.artifact, index, row.latency_ms.p10, row.latency_ms.p90)
        for index, row in enumerate(rows)
        if row.verified and row.latency_ms is not None
    )
    return [rows[index] for _, _, index, p10, _ in timed if p10 <= timed[0][4]]


def machine() -> str:
    """Return the processor, the system and the number of cores, on one line."""
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
    candidates: Sequence[Candidate], *, threads: int, rounds: int, seconds: float, say: Report
) -> list[list[Timing] | str]:
    """Return the timings of each candidate, one a round, or why there are none."""
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
                batches=tuple(sorted({1, _best_batch(timings)})) if timings else BATCHES,
                seconds=seconds,
            )
            try:
                timings.append(time_once(request))
            except InputError as error:
                found[index] = str(error)
    return found


def _untimed(candidate: Candidate) -> list[Timing] | str:
    """Return no timings yet, or why there will be none."""
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
    best = _best_batch(timings)
    latency = _latency(timings, best)
    memory = [timing.memory_bytes for timing in timings if timing.memory_bytes is not None]
    return replace(
        row,
        engine=timings[0].engine,
        latency_ms=_latency(timings, 1),
        best_batch=BestBatch(
            size=best, latency_ms=latency, images_per_second=1e3 * best / latency.median
        ),
        load_ms=median(timing.load_ms for timing in timings),
        memory_bytes=int(median(memory)) if memory else None,
    )


def _best_batch(timings: Sequence[Timing]) -> int:
    """Return the best number of images in a call, by the first round, in which all are tried."""
    calls = timings[0].calls_ms
    return max((int(batch) for batch in calls), key=lambda n: n / median(calls[str(n)]))


def _latency(timings: Sequence[Timing], batch: int) -> Latency:
    calls = [call for timing in timings for call in timing.calls_ms[str(batch)]]
    p10, middle, p90 = (float(value) for value in np.percentile(calls, (10, 50, 90)))
    return Latency(median=middle, p10=p10, p90=p90, n=len(calls))


def _silent(line: str) -> None:
    pass
