"""The result of `bench`, and the artifact to use by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import numpy as np

from mobilette.artifact.contract import Contract
from mobilette.artifact.directory import CONTRACT, find_artifacts, read_contract
from mobilette.engines.timing import Timing
from mobilette.errors import InputError
from mobilette.files import read_record
from mobilette.limits import AMOUNT, BATCH, FRACTION, MILLISECONDS, RATE, ROUNDS, THREADS
from mobilette.records import Ranged
from mobilette.verification.verify import verify

BENCH = "bench.json"
# Without a benchmark: fastest on x86 first (RUNTIMES.md); int8 last, for its accuracy is unknown.
PREFERENCE = ("openvino", "onnx", "litert", "executorch", "ncnn")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Latency(Ranged):
    """Milliseconds of ``n`` calls: median, 10th and 90th percentile."""

    median: Annotated[float, MILLISECONDS]
    p10: Annotated[float, MILLISECONDS]
    p90: Annotated[float, MILLISECONDS]
    n: Annotated[int, AMOUNT]


@dataclass(frozen=True, kw_only=True)
class BestBatch(Ranged):
    """The images per call that give the most images per second."""

    size: Annotated[int, BATCH]
    latency_ms: Latency
    images_per_second: Annotated[float, RATE]


@dataclass(frozen=True, kw_only=True)
class Row(Ranged):
    """An artifact or a run.

    Attributes:
        target: the artifact's target; ``None`` for a run.
        engine: the engine that executed it; ``None`` if none here can.
        sha256: hash of its contract, or of a run's weights.
        verified: whether `verify` passed; ``None`` for a run, and for an artifact that cannot be
            executed here.
        reasons: why it is not verified or not timed.
        top1: accuracy on ``images`` images, 0 to 1; ``None`` without images.
        classes_worse: ids of the classes that got significantly worse than in the checkpoint.
        trained_left_out: how many images were left out because the model was trained on them.
        includes_trained: whether it was trained on some of ``images``; ``None`` if not known.
        size_bytes: size of the files that the engine loads.
        load_ms: median time from the directory to the first answer, including imports.
        memory_bytes: median growth of resident memory until then.
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
    classes_worse: tuple[str, ...] = ()
    trained_left_out: Annotated[int, AMOUNT] = 0
    includes_trained: bool | None = False
    latency_ms: Latency | None = None
    best_batch: BestBatch | None = None
    load_ms: Annotated[float, MILLISECONDS] | None = None
    memory_bytes: Annotated[int, AMOUNT] | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark(Ranged):
    """The content of bench.json.

    Attributes:
        fastest: the verified artifact with the smallest median latency for one image; ``None`` if
            several share first place.
        level: artifacts that share first place, by median.
    """

    machine: str
    threads: Annotated[int, THREADS]
    rounds: Annotated[int, ROUNDS]
    data: str | None
    fastest: str | None
    rows: tuple[Row, ...]
    level: tuple[str, ...] = ()
    schema: Literal[1] = 1

    def to_json(self) -> dict[str, object]:
        """Return the content as JSON values."""
        return asdict(self)


def best_batch(timings: Sequence[Timing]) -> int:
    """Return the best batch size by the first round, which tries them all."""
    calls = timings[0].calls_ms
    return max((int(batch) for batch in calls), key=lambda n: n / median(calls[str(n)]))


def latency_of(timings: Sequence[Timing], batch: int) -> Latency:
    """Return the latency of calls with ``batch`` images, over all rounds."""
    calls = [call for timing in timings for call in timing.calls_ms[str(batch)]]
    p10, middle, p90 = (float(value) for value in np.percentile(calls, (10, 50, 90)))
    return Latency(median=middle, p10=p10, p90=p90, n=len(calls))


def first_places(rows: Sequence[Row]) -> list[Row]:
    """Return the fastest verified artifact and those that are as fast, by median.

    As fast means that the 10th to 90th percentiles of one image's latency overlap: another round
    may change the order.
    """
    timed = sorted(
        (row.latency_ms.median, row.artifact, index, row.latency_ms.p10, row.latency_ms.p90)
        for index, row in enumerate(rows)
        if row.verified and row.latency_ms is not None
    )
    return [rows[index] for _, _, index, p10, _ in timed if p10 <= timed[0][4]]


def choose_artifact(folder: Path) -> tuple[Path, str]:
    """Return the artifact in ``folder`` to use, and why; `InputError` if none is verified.

    If bench.json covers exactly the artifacts there now, this is the fastest verified one; among
    equally fast ones the most accurate, then the smallest, then the first by name. Otherwise it
    is the first that passes `verify` on its golden vectors, in a fixed order of targets.
    """
    contracts = {path: read_contract(path / CONTRACT) for path in find_artifacts(folder)}
    if not contracts:
        raise InputError(f"{folder}: no artifact in this folder")
    chosen, why = _by_benchmark(folder, contracts)
    if chosen is not None:
        return chosen, f"{chosen}: {why} by {folder / BENCH}"
    reasons = []
    for path in sorted(contracts, key=lambda path: _preference(contracts[path])):
        try:
            failures = verify(path).failures
        except InputError as error:
            reasons.append(str(error))
            continue
        if not failures:
            return path, f"{path}: the first verified artifact ({why}; 'mobilette bench' times)"
        reasons.append(f"{path}: {failures[0]}")
    raise InputError(f"{folder}: no artifact in it is verified; the first: {reasons[0]}")


def _by_benchmark(folder: Path, contracts: dict[Path, Contract]) -> tuple[Path | None, str]:
    if not (folder / BENCH).is_file():
        return None, f"no {BENCH}"
    rows = [row for row in read_record(folder / BENCH, Benchmark).rows if row.target is not None]
    paths = {contract.sha256: path for path, contract in contracts.items()}
    if {row.sha256 for row in rows} != set(paths):
        return None, f"{BENCH} covers other artifacts"
    first = first_places(rows)
    if not first:
        return None, f"none is verified in {BENCH}"
    best = min(first, key=lambda row: (-(row.top1 or 0.0), row.size_bytes, row.artifact))
    others = ", ".join(paths[row.sha256].name for row in first if row is not best)
    why = f"as fast as {others}, and of these the most accurate, then the smallest"
    return paths[best.sha256], why if others else "the fastest verified artifact"


def _preference(contract: Contract) -> tuple[int, int]:
    known = contract.target in PREFERENCE
    return (
        PRECISIONS.index(contract.precision),
        PREFERENCE.index(contract.target) if known else len(PREFERENCE),
    )
