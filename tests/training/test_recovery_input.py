"""Runs and what changes around them: images that break, other recipes, full disks, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mobilette.errors import InputError
from mobilette.progress import Reporter
from mobilette.run.directory import Run, open_run
from mobilette.training.events import EpochDone, Event, StepDone
from mobilette.training.process import StopRequest
from tests.data.sets import divided
from tests.training.runs import resume, train

train_small = partial(train, model="mobilenet_v1", width_mult=0.25, resolution=16, workers=0)
OVERRIDES = {"epochs": 3, "batch_size": 16, "save_every": 2}


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the run that nothing happened to."""
    return train_small(images, overrides=OVERRIDES, out=tmp_path_factory.mktemp("run") / "whole")


def assert_same(path: Path, other: Run) -> None:
    ours, theirs = load_file(path / "best.safetensors"), load_file(other.weights_path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    columns = ("epoch", "step", "lr", "train_loss", "val_loss", "top1")
    mine = [[row[column] for column in columns] for row in open_run(path).history()]
    assert mine == [[row[column] for column in columns] for row in other.history()]


def killed(images: Path, out: Path, *, steps: int) -> Path:
    """Return a run that was ended without a word after so many steps."""
    taken = 0

    def report(event: Event) -> None:
        nonlocal taken
        taken += isinstance(event, StepDone)
        if taken == steps:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train_small(images, overrides=OVERRIDES, out=out, report=report)
    return out


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_break_after_the_scan_cost_themselves_only(
    tmp_path: Path, workers: int
) -> None:
    data = divided(tmp_path / "set", train=16, val=8)
    broken = ["train/cat/003.jpg", "train/dog/004.png", "val/dog/002.jpg"]
    said: list[str] = []

    def remark(text: str) -> None:
        said.append(text)
        if "threads" not in text:  # else all was found and nothing was decoded
            return
        for name in broken:
            (data / name).write_bytes(b"\x93" * (data / name).stat().st_size)

    run = train(
        data,
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        workers=workers,
        overrides={"epochs": 2, "batch_size": 8, "loader": "streamed"},
        out=tmp_path / "run",
        reporter=Reporter(remark=remark),
    )
    assert len(run.history()) == 2
    recorded = json.loads((run.path / "dataset.json").read_text())["unusable"]
    assert sorted(entry["path"] for entry in recorded) == broken
    assert all(entry["reason"] for entry in recorded)
    assert all(sum(line.startswith(name) for line in said) == 1 for name in broken)


def test_too_many_broken_images_end_the_run_in_one_line(tmp_path: Path) -> None:
    data = divided(tmp_path / "set", train=8, val=4)

    def remark(text: str) -> None:
        for path in data.glob("train/*/*") if "threads" in text else ():
            path.write_bytes(b"")

    overrides = {"epochs": 1, "batch_size": 8, "loader": "streamed"}
    with pytest.raises(InputError, match=r"of 24 images cannot be used, more than .* 0.1"):
        train_small(
            data, overrides=overrides, out=tmp_path / "run", reporter=Reporter(remark=remark)
        )


def test_another_recipe_is_shown_and_refused_unless_forced(images: Path, tmp_path: Path) -> None:
    run = killed(images, tmp_path / "run", steps=8)
    before = (run / "last.pt").read_bytes()
    command = [sys.executable, "-m", "mobilette", "train", "--resume", str(run), "--lr", "0.1"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"mobilette: error: {run}: the recipe has changed")
    assert "lr" in line
    assert "0.1" in line
    assert "--force" in line
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace("label_smoothing = 0.1", "label_smoothing = 0"))
    with pytest.raises(InputError, match=r"label_smoothing.*0\.1.*--force"):
        resume(run, workers=0)
    assert (run / "last.pt").read_bytes() == before
    said: list[str] = []
    finished = resume(
        run, force=True, overrides={"lr": 0.1}, workers=0, reporter=Reporter(remark=said.append)
    )
    (line,) = [line for line in said if "changed recipe" in line]
    assert "lr" in line
    assert "label_smoothing" in line
    assert len(finished.history()) == 3
    assert resume(run, workers=0).history() == finished.history()  # its recipe by now


@pytest.mark.skipif(os.name == "nt", reason="a limit of POSIX")
def test_a_state_that_cannot_be_written_leaves_the_old_one(
    images: Path, tmp_path: Path, whole: Run
) -> None:
    """The disk is full in the middle of a state (here: files may not grow beyond 50 kB)."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def report(event: Event) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (1, 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))

    out = tmp_path / "run"
    try:
        with pytest.raises(InputError, match=r"last\.pt: cannot be written \(file too large\)"):
            train_small(images, overrides=OVERRIDES, out=out, report=report)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(out.glob(".*"))
    assert torch.load(out / "last.pt", weights_only=True)["progress"]["epoch"] in (0, 1)
    resume(out, workers=0)
    assert_same(out, whole)


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM of POSIX")
@pytest.mark.parametrize("when", [(StepDone, 0), (EpochDone, 1)])
def test_sigterm_in_the_first_epoch_and_in_a_validation(
    images: Path, tmp_path: Path, whole: Run, when: tuple[type[StepDone | EpochDone], int]
) -> None:
    kind, epoch = when
    sent: list[Event] = []

    def report(event: Event) -> None:
        if isinstance(event, kind) and event.epoch == epoch and not sent:
            sent.append(event)
            os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="stopped; to continue: mobilette train --resume"):
        train_small(images, overrides=OVERRIDES, out=out, report=report)
    progress = torch.load(out / "last.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["step"]) == ((0, 1) if kind is StepDone else (1, 0))
    assert len((out / "metrics.csv").read_text().splitlines()) == 1 + epoch
    resume(out, workers=0)
    assert_same(out, whole)


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM of POSIX")
def test_sigterm_in_the_last_validation_is_too_late(
    images: Path, tmp_path: Path, whole: Run
) -> None:
    def report(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    run = train_small(images, overrides=OVERRIDES, out=tmp_path / "run", report=report)
    assert_same(run.path, whole)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_hang_up_saves_and_stops_unless_it_is_ignored(ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            for _ in range(2):  # of the kernel and of the shell
                os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested is not ignored
            if not ignored:
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGTERM)
    finally:
        assert signal.signal(signal.SIGHUP, before) is (
            signal.SIG_IGN if ignored else signal.SIG_DFL
        )
