"""Trains a run that is killed again and again: a process of its own, for test_killed.py.

Python and torch are imported once; every sitting is a fork of this process. What outlives SIGKILL
is on disk, and that changes when functions are called. So a sitting kills itself at a function call
drawn at random, not at a time drawn at random: by then a slow machine has done less, and a fast one
perhaps all.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from mobilette.training.process import let_threads_sleep

let_threads_sleep()  # as the command line does

import torch  # noqa: E402

# Everything that a sitting imports, so that forks spend their time in the run. The optimisers of
# torch import its compiler, and the temperature scipy.optimize.
import torch._dynamo  # noqa: E402
import torch.distributed.fsdp  # noqa: E402
from scipy import optimize  # noqa: E402, F401

import mobilette.cli.training_output  # noqa: E402
import mobilette.files  # noqa: E402
import mobilette.workflows.resume  # noqa: E402
import mobilette.workflows.train  # noqa: E402
from mobilette.cli.main import run  # noqa: E402
from mobilette.training.step import Trainer  # noqa: E402

# A sitting is killed after its second, third or fourth step has begun, and at the latest so many
# steps later: a run of more than `LONGEST` steps for each kill is never finished before it.
FIRST, MORE = (2, 4), 3
LONGEST = FIRST[-1] + MORE
STEP = Trainer.step.__code__
# Called with how many steps have begun and whether a file is being written.
Watch = Callable[[int, bool], None]


def sitting(arguments: list[str], watch: Watch | None = None) -> int:
    """Fork a process that runs the command line; return its process id.

    ``watch`` is called there whenever a function is called or returns.
    """
    child = os.fork()
    if child == 0:
        if watch is not None:
            sys.setprofile(_telling(watch))
        os._exit(run(arguments))
    return child


def _telling(watch: Watch) -> Callable[[FrameType, str, Any], None]:
    begun = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal begun
        begun += event == "call" and frame.f_code is STEP
        watch(begun, frame.f_code.co_filename == mobilette.files.__file__)

    return profile


def train_whole(start: list[str]) -> tuple[int, int, int]:
    """Train without a kill; return the calls before the first step and in the next `LONGEST`.

    The last number is how many of the latter are in the module that writes files.
    """
    reader, writer = os.pipe()
    setup = calls = files = 0

    def count(begun: int, in_files: bool) -> None:
        nonlocal setup, calls, files
        if begun > LONGEST:
            sys.setprofile(None)
            os.write(writer, json.dumps([setup, calls, files]).encode())
        elif begun:
            calls += 1
            files += in_files
        else:
            setup += 1

    _, status = os.waitpid(sitting(start, count), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    setup, calls, files = json.loads(os.read(reader, 4096))
    return setup, calls, files


def kill(steps: int, calls: int, *, only_files: bool = False) -> Watch:
    """Return what kills its process so many calls after a step has begun; 0: after the start."""
    passed = 0

    def watch(begun: int, in_files: bool) -> None:
        nonlocal passed
        passed += begun >= steps and (in_files or not only_files)
        if passed > calls or begun > steps + MORE:
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def draw(drawn: random.Random, setup: int, calls: int, files: int) -> Watch:
    """Return a kill before the first step, anywhere after one, or while files are written."""
    match drawn.randrange(4):
        case 0:
            return kill(0, drawn.randrange(setup))
        case 1:
            return kill(drawn.randint(*FIRST), drawn.randrange(calls // 2))
        case _:
            return kill(drawn.randint(*FIRST), drawn.randrange(files // 2), only_files=True)


def kill_often(
    start: list[str], goes_on: list[str], out: Path, *, kills: int, counted: tuple[int, int, int]
) -> list[str]:
    """Train into ``out`` with so many kills; return where the run stood after each of them."""
    drawn = random.Random(5)
    places: list[str] = []
    while len(places) < kills:
        child = sitting(goes_on if out.exists() else start, draw(drawn, *counted))
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"finished before it was killed: {places}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        places.append(_place(out / "last.pt"))
    _, status = os.waitpid(sitting(goes_on), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return places


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
    workers = next(option for option in options if option.startswith("--workers="))
    goes_on = ["train", "--resume", killed, workers]
    counted = train_whole([*start, whole])
    out = Path(killed)
    places = kill_often([*start, killed], goes_on, out, kills=int(kills), counted=counted)
    print(json.dumps(places))


if __name__ == "__main__":
    main()
