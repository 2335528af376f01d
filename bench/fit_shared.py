"""A fit that several processes share: does it end with one verified artifact, nothing done twice?

    python bench/fit_shared.py [--data digits] [--budget "size<=50KB, latency<=0.3ms@onnx"]
        [--time 90s] [--processes 2] [--threads 1] [--storage URL|postgresql]
        [--kill SECONDS] [--out build/fit_shared]

The first process is `mobilette fit`; the others are `mobilette fit --resume FOLDER`, from the
moment the folder is there. ``--kill`` kills the first (SIGKILL) so long after the start: the others
do what it had in hand, and all that is left. ``--storage postgresql`` starts a server for it, which
is removed at the end (docs/fit.md). Printed are the trainings that were finished, by whom, how many
of them more than once (none may be) by fit.jsonl and by the study, the artifacts (one), the terms,
and the time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobilette.artifact.directory import find_artifacts
from mobilette.counting.amounts import in_unit
from mobilette.files import read_record
from mobilette.search.study import default_storage
from mobilette.workflows.fit_record import ARTIFACT, FIT, RESULT, FitRequest, Journal

if TYPE_CHECKING:
    from bench.postgresql import missing, server
else:
    from postgresql import missing, server

_POLL = 0.1


def begin(*arguments: str) -> subprocess.Popen[str]:
    """Start a command of ours; what it prints is its JSON."""
    command = [sys.executable, "-m", "mobilette", "fit", *arguments, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def trials(asked: FitRequest, folder: Path) -> list[Any]:
    """Return the trials of the fit's study that have a result."""
    import optuna

    storage = asked.storage or default_storage(folder)
    study = optuna.load_study(study_name=asked.study, storage=storage)
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    return study.get_trials(states=done)


def more_than_once(places: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return what occurs more than once."""
    return [place for place, count in Counter(places).items() if count > 1]


def main(
    data: str = "digits",
    budget: str = "size<=50KB, latency<=0.3ms@onnx",
    limit: Annotated[str, typer.Option("--time")] = "90s",
    processes: int = 2,
    threads: int = 1,
    storage: str | None = None,
    kill: float | None = None,
    out: Path = Path("build/fit_shared"),
) -> None:
    """Share a fit; status 1 if a training was done twice, or it did not pass."""
    shutil.rmtree(out, ignore_errors=True)
    with ExitStack() as stack:
        if storage == "postgresql":
            if (reason := missing()) is not None:
                raise SystemExit(f"--storage postgresql: {reason}")
            storage = stack.enter_context(server())
        options = ["--budget", budget, "--time", limit, "--out", str(out)]
        options += ["--storage", storage] if storage else []
        begun, each = time.monotonic(), ("--threads", str(threads))
        running = [begin(data, *options, *each)]
        while not (out / FIT).exists() and running[0].poll() is None:
            time.sleep(_POLL)
        running += [begin("--resume", str(out), *each) for _ in range(processes - 1)]
        if kill is not None:
            time.sleep(max(begun + kill - time.monotonic(), 0.0))
            print(f"killed the first: {running[0].poll() is None}")
            running[0].kill()
        for process in running:
            process.communicate()
        seconds = time.monotonic() - begun
        if any(process.returncode > 1 for process in running):
            raise SystemExit(f"ended with {[process.returncode for process in running]}")
        good = report(out, limit, seconds)
    raise SystemExit(0 if good else 1)


def report(out: Path, limit: str, seconds: float) -> bool:
    """Print what was done; return whether nothing was done twice and the budget is met."""
    result = json.loads((out / RESULT).read_text(encoding="utf-8"))
    lines = Journal(out, lambda line: None).lines("trained")
    done = trials(read_record(out / FIT, FitRequest), out)
    owners = Counter(trial.user_attrs["owner"] for trial in done)
    twice = more_than_once([(line["key"], line["round"]) for line in lines])
    twice_in_study = more_than_once([tuple(trial.user_attrs["place"]) for trial in done])
    artifacts = find_artifacts(out / ARTIFACT) if (out / ARTIFACT).exists() else []
    shares = " + ".join(str(count) for count in owners.values())
    print(f"trainings in fit.jsonl: {len(lines)}, of these twice: {len(twice)}")
    print(f"in the study, with the last: {len(done)} = {shares}, twice: {len(twice_in_study)}")
    print(f"artifacts: {len(artifacts)}; left over: {sorted(x.name for x in out.glob('.trial-*'))}")
    for term in result["terms"]:
        verdict = "PASS" if term["passed"] else "FAIL"
        print(f"{verdict} {term['text']}: {in_unit(term['quantity'], term['measured'])}")
    print(f"{result['network']}: verified: {result['verified']}, top-1 {result['top1']:.1%}")
    print(f"seconds: {seconds:.0f} of {limit}")
    alike = not twice and not twice_in_study and len(artifacts) == 1
    return alike and result["passed"] and len(owners) > 1


if __name__ == "__main__":
    typer.run(main)
