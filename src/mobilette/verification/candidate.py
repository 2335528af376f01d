"""One artifact or run of a benchmark, judged and timed in processes that may fail or die."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from mobilette.artifact.directory import is_artifact, open_artifact
from mobilette.engines.load import why_not_run
from mobilette.engines.timing import Request, Timing
from mobilette.errors import InputError
from mobilette.files import read_bytes, read_record
from mobilette.folders import scratch
from mobilette.run.directory import open_run

# What a model may need to start, and to be asked as often as it must be.
TIMEOUT = 3600.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of the models of a benchmark; ``target`` is ``None`` for a run."""

    path: Path
    target: str | None
    precision: str
    sha256: str
    size_bytes: int
    executable: bool


class Judgement(TypedDict):
    """Those fields of a `Row` that say how good a model is."""

    verified: bool | None
    reasons: tuple[str, ...]
    top1: float | None
    images: int


def open_candidate(path: Path) -> Candidate:
    """Return the artifact or the run in the directory ``path``.

    Raises:
        InputError: it is damaged.
    """
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
    """Return what `verify` says of an artifact, or the accuracy of a run."""
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
    """Return the timing of a model, measured in a new process.

    Raises:
        InputError: that cannot load or execute it, or has died.
    """
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
    """Return why a process failed: its error, its last line, or the signal that ended it."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("mobilette: error: ")]
    if errors:
        return errors[-1].removeprefix("mobilette: error: ")
    if done.returncode < 0:
        return f"its process died of signal {-done.returncode}"
    return f"its process ended with status {done.returncode}: {(lines or ['no message'])[-1][:200]}"
