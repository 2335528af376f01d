"""What goes wrong in a run and is recovered from: losses that explode, full memory, bad images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mobilette.errors import InputError
from mobilette.progress import Reporter
from mobilette.run.directory import open_run
from mobilette.training.events import Event, StepDone
from mobilette.training.loop import Loop
from tests.conftest import write_images
from tests.training.runs import resume, train

train_small = partial(train, model="mobilenet_v1", width_mult=0.25, resolution=16, workers=0)
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


class Stop(Exception):
    """What a report raises to end a training in the middle, as a kill would."""


def stop_after(index: int, *, when: Callable[[], object] = lambda: None) -> Callable[[Event], None]:
    """Return a report that ends the training when so many steps were taken."""
    taken = 0

    def report(event: Event) -> None:
        nonlocal taken
        taken += isinstance(event, StepDone)
        if taken == index:
            when()
            raise Stop

    return report


def state_of(run: Path) -> dict[str, dict[str, object]]:
    state: dict[str, dict[str, object]] = torch.load(run / "last.pt", weights_only=True)
    return state


def is_finite(tensors: dict[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


# ---- a loss that explodes

# In fp32, so that it is the same one on every processor.
TOO_LARGE: dict[str, Any] = {
    "lr": 2.0,
    "warmup": 0.0,
    "batch_size": 8,
    "save_every": 1,
    "precision": "fp32",
}


def test_a_rate_that_is_a_little_too_large_is_recovered_from(images: Path, tmp_path: Path) -> None:
    """A state after every step: the first one after the explosion must not be gone back to."""
    said: list[str] = []
    run = train_small(
        images,
        overrides=TOO_LARGE | {"epochs": 4},
        out=tmp_path / "run",
        reporter=Reporter(remark=said.append),
    )
    back = [line for line in said if "back to" in line]
    assert 1 <= len(back) <= 2
    assert re.search(r"the loss is .*: back to epoch 1, step \d, at 0.2 times", back[0])
    progress = state_of(run.path)["progress"]
    assert progress["rollbacks"] == len(back)
    assert progress["rate_factor"] == pytest.approx(0.2 ** len(back))
    assert progress["finished"]
    assert len(run.history()) == 4
    assert run.history()[-2]["lr"] < TOO_LARGE["lr"] * 0.2 ** len(back)
    assert is_finite(load_file(run.weights_path))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("save_every", [1, 3])
def test_a_rate_beyond_help_leaves_a_good_state_and_its_remedy_works(
    images: Path, tmp_path: Path, optimizer: str, save_every: int
) -> None:
    out = tmp_path / "run"
    overrides: dict[str, object] = {"lr": 1000.0, "warmup": 0.0, "batch_size": 8, "epochs": 2}
    overrides |= {"optimizer": optimizer, "save_every": save_every}
    said: list[str] = []
    with pytest.raises(InputError, match=r"the loss is .*; use a smaller --lr than 1000"):
        train_small(images, overrides=overrides, out=out, reporter=Reporter(remark=said.append))
    assert sum("back to" in line for line in said) == 2
    state = state_of(out)
    # Neither NaN nor so large that nothing could be learnt from there.
    assert max(float(tensor.abs().max()) for tensor in state["network"].values()) < 10  # type: ignore[attr-defined]
    resume(out, overrides={"lr": 0.01}, force=True, workers=0)
    progress = state_of(out)["progress"]
    assert progress["rate_factor"] == 1.0
    assert progress["rollbacks"] == 0
    assert progress["finished"]


def test_a_resumed_run_keeps_the_smaller_rate(images: Path, tmp_path: Path) -> None:
    overrides = TOO_LARGE | {"epochs": 3}
    said: list[str] = []
    whole = train_small(
        images, overrides=overrides, out=tmp_path / "whole", reporter=Reporter(remark=said.append)
    )
    assert any("back to" in line for line in said)
    with pytest.raises(Stop):
        train_small(images, overrides=overrides, out=tmp_path / "part", report=stop_after(20))
    progress = state_of(tmp_path / "part")["progress"]
    assert progress["rate_factor"] == state_of(whole.path)["progress"]["rate_factor"]
    again = resume(tmp_path / "part", workers=0)
    assert [row["lr"] for row in again.history()] == [row["lr"] for row in whole.history()]
    ours, theirs = load_file(again.weights_path), load_file(whole.weights_path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_explosion_in_the_very_last_step_is_no_result(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that became NaN once, after the last loss: neither best nor last ones are NaN."""
    step = Loop._step
    broken: list[int] = []

    def break_once(self: Loop, *arguments: object) -> None:
        step(self, *arguments)  # type: ignore[arg-type]
        if self.progress.step == self.steps and not broken:
            broken.append(self.progress.index)
            for parameter in self.trainer.average.network.parameters():
                parameter.fill_(float("nan"))

    monkeypatch.setattr(Loop, "_step", break_once)
    said: list[str] = []
    overrides = {"epochs": 1, "save_every": 2, "batch_size": 16}
    run = train_small(
        images, overrides=overrides, out=tmp_path / "run", reporter=Reporter(remark=said.append)
    )
    (back,) = [line for line in said if "back to" in line]
    assert back.startswith("the loss on held-out images is nan at epoch 1, step 6: back to")
    assert is_finite(load_file(run.weights_path))
    assert len(run.history()) == 1


def test_weights_are_the_best_only_with_the_state_that_says_so(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An explosion right after a validation: the step back forgets its score and its weights."""
    step = Loop._step
    broken: list[int] = []

    def break_once(self: Loop, *arguments: object) -> None:
        if self.progress.epoch == 1 and not broken:
            broken.append(self.progress.index)
            for parameter in self.trainer.network.parameters():
                parameter.data.fill_(float("nan"))
        step(self, *arguments)  # type: ignore[arg-type]

    def look(text: str) -> None:
        said.append(text)
        if "back to" in text:
            found.append((run / "best.safetensors").exists())

    monkeypatch.setattr(Loop, "_step", break_once)
    said: list[str] = []
    found: list[bool] = []
    run = tmp_path / "run"
    overrides = {"epochs": 2, "batch_size": 16}
    train_small(images, overrides=overrides, out=run, reporter=Reporter(remark=look))
    (back,) = [line for line in said if "back to" in line]
    assert back.startswith("the loss is nan at epoch 2, step 1: back to epoch 1, step 0"), back
    assert found == [False]
    rows = open_run(run).history()
    best = max(rows, key=lambda row: row["top1"])
    assert state_of(run)["progress"]["best_score"] == pytest.approx(best["top1"], abs=1e-6)
    assert len(rows) == 2


# ---- too little memory

LIMITED = """
import resource, sys
from mobilette.cli.main import run
from mobilette.training.process import return_freed_memory
room, warm_up, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
run([*arguments, "--epochs=1", "--resolution=16", "--out", warm_up])  # so that all is imported
return_freed_memory()  # and the room that was kept for later
used = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmSize" in line)
resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + room * 2**20,) * 2)
sys.exit(run(arguments))
"""


def train_in(megabytes: int, *arguments: object, out: Path) -> subprocess.CompletedProcess[str]:
    options = ["--model=mobilenet_v1", "--width-mult=0.25", "--workers=0", "--threads=1"]
    command = [sys.executable, "-c", LIMITED, str(megabytes), f"{out}-warm-up", "train"]
    return subprocess.run(
        [*command, *map(str, arguments), *options, "--from=scratch", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
def test_a_batch_that_does_not_fit_the_memory_goes_on_in_parts(tmp_path: Path) -> None:
    data = write_images(tmp_path / "set", 20, size=16)
    done = train_in(
        220,
        *(data, "--resolution=160", "--batch-size=32", "--set=precision=fp32", "--epochs=2"),
        out=tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    parts = [int(found) for found in re.findall(r"of 32 is split into (\d+) parts", done.stderr)]
    assert parts
    assert parts == [2 ** (number + 1) for number in range(len(parts))]
    assert state_of(tmp_path / "run")["progress"]["parts"] == parts[-1]
    assert len(open_run(tmp_path / "run").history()) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
def test_images_of_which_no_two_fit_the_memory(tmp_path: Path) -> None:
    data = write_images(tmp_path / "set", 4)
    failed = train_in(60, data, "--resolution=512", "--batch-size=4", out=tmp_path / "run")
    assert failed.returncode == 2, failed.stderr
    (error,) = [line for line in failed.stderr.splitlines() if "error: " in line]
    assert "2 images at once do not fit in memory; use a smaller --resolution" in error
    assert "Traceback" not in failed.stderr


def test_more_parts_than_pairs_of_images(tmp_path: Path) -> None:
    """Batch norm at one pixel needs two images: a part never has less, however small the set."""
    data = write_images(tmp_path / "set", 4)
    overrides = {"batch_size": 64, "accumulate": 16, "epochs": 1}
    run = train_small(data, form="full", overrides=overrides, out=tmp_path / "run")
    assert len(run.history()) == 1
