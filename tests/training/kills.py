"""Trains a run that is killed again and again: a process of its own, for test_killed.py.

Python and torch are imported once; every sitting is a fork of this process, killed by SIGKILL at a
random moment, so that twenty of them take seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

# Everything that a sitting imports, so that forks spend their time in the run.
import mobilette.cli.training_output
import mobilette.workflows.resume
import mobilette.workflows.train  # noqa: F401
from mobilette.cli.main import run


def sitting(arguments: list[str]) -> int:
    """Fork a process that runs the command line; return its process id."""
    child = os.fork()
    if child == 0:
        os._exit(run(arguments))
    return child


def kill_often(
    start: list[str], goes_on: list[str], out: Path, *, kills: int, longest: float, seed: int
) -> list[str]:
    """Train into ``out`` with so many kills; return where the run stood after each of them."""
    drawn = random.Random(seed)
    places: list[str] = []
    while len(places) < kills:
        begun = out.exists()
        child = sitting(goes_on if begun else start)
        if drawn.random() < 0.75:  # the others may die before they have begun
            _wait_for_a_step(out / "last.pt")
        time.sleep(drawn.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"finished before it was killed: {places}"
        places.append(_place(out / "last.pt"))
    _, status = os.waitpid(sitting(goes_on), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return places


def _wait_for_a_step(state: Path) -> None:
    """Wait for a state that is further than the one that is there."""
    before, seen = _place(state), None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        written = state.stat().st_mtime_ns if state.exists() else None
        if written != seen and _place(state) != before:
            return
        seen = written
        time.sleep(0.002)


def _place(state: Path) -> str:
    if not state.exists():
        return "before the first state"
    progress = torch.load(state, weights_only=True)["progress"]
    return f"{progress['epoch']}.{progress['step']}"


def main() -> None:
    """Train once without and once with kills; print where the run stood at each."""
    torch.set_num_threads(1)
    data, whole, killed, kills, *options = sys.argv[1:]
    start = ["train", data, *options, "--out"]
    _, status = os.waitpid(sitting([*start, whole]), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    workers = next(option for option in options if option.startswith("--workers="))
    goes_on = ["train", "--resume", killed, workers]
    places = kill_often(
        [*start, killed], goes_on, Path(killed), kills=int(kills), longest=0.4, seed=5
    )
    print(json.dumps(places))


if __name__ == "__main__":
    main()
