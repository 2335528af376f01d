"""Which of several artifacts to use: the fastest that was verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mobilette.artifact.contract import Contract
from mobilette.artifact.directory import CONTRACT, find_artifacts, read_contract
from mobilette.errors import InputError
from mobilette.files import read_record
from mobilette.verification.benchmark import Benchmark, Row, first_places

BENCH = "bench.json"
# Without a benchmark: what was fastest on x86 (RUNTIMES.md), and fp32 first, because an int8
# artifact's accuracy is known only with images.
PREFERENCE = ("openvino", "onnx", "litert", "executorch", "ncnn")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def choose_artifact(folder: Path) -> tuple[Path, str]:
    """Return the artifact in ``folder`` to use, and in one line why that one.

    That is the fastest verified one by the bench.json in the folder, of those that are level the
    most accurate, then the smallest, then the first by name, if it is of exactly the artifacts that
    are there now; else the first that passes `verify` on its golden vectors, in a
    fixed order of targets.

    Raises:
        InputError: there is none, or none is verified.
    """
    contracts = {path: read_contract(path / CONTRACT) for path in find_artifacts(folder)}
    if not contracts:
        raise InputError(f"{folder}: no artifact in this folder")
    chosen, why = _by_benchmark(folder, contracts)
    if chosen is not None:
        return chosen, f"{chosen}: {why} by {folder / BENCH}"
    reasons = []
    for path in sorted(contracts, key=lambda path: _preference(contracts[path])):
        reason = _failure(path, contracts[path])
        if reason is None:
            return path, f"{path}: the first verified artifact ({why}; 'mobilette bench' times)"
        reasons.append(reason)
    raise InputError(f"{folder}: no artifact in it is verified; the first: {reasons[0]}")


def _by_benchmark(folder: Path, contracts: dict[Path, Contract]) -> tuple[Path | None, str]:
    """Return the artifact to use and what it is, or ``None`` and why bench.json does not tell."""
    if not (folder / BENCH).is_file():
        return None, f"no {BENCH}"
    rows = [row for row in read_record(folder / BENCH, Benchmark).rows if row.target is not None]
    paths = {contract.sha256: path for path, contract in contracts.items()}
    if {row.sha256 for row in rows} != set(paths):
        return None, f"{BENCH} is of other artifacts"
    return _fastest(rows, paths)


def _fastest(rows: Sequence[Row], paths: dict[str, Path]) -> tuple[Path | None, str]:
    first = first_places(rows)
    if not first:
        return None, f"none is verified in {BENCH}"
    if len(first) == 1:
        return paths[first[0].sha256], "the fastest verified artifact"
    best = min(first, key=lambda row: (-(row.top1 or 0.0), row.size_bytes, row.artifact))
    others = ", ".join(paths[row.sha256].name for row in first if row is not best)
    what = f"level with {others} in time, taken as the most accurate, then the smallest, of them"
    return paths[best.sha256], what


def _preference(contract: Contract) -> tuple[int, int]:
    known = contract.target in PREFERENCE
    return (
        PRECISIONS.index(contract.precision),
        PREFERENCE.index(contract.target) if known else len(PREFERENCE),
    )


def _failure(path: Path, contract: Contract) -> str | None:
    """Return why an artifact is not verified; ``None`` if it is."""
    from mobilette.verification.verify import verify

    if not contract.verifiable:
        return f"{path}: nothing here executes {contract.target!r} artifacts"
    try:
        failures = verify(path).failures
    except InputError as error:
        return str(error)
    return f"{path}: {failures[0]}" if failures else None
