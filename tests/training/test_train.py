"""Training end to end on small real files; killed and resumed in real processes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mobilette.errors import InputError
from mobilette.progress import Reporter
from mobilette.run.directory import Run
from mobilette.training.events import EpochDone, Event
from mobilette.training.time_plan import TooShortError
from tests.conftest import write_images
from tests.training.runs import Ticks, resume, same_weights, train

OPTIONS = [
    "--model=mobilenet_v2",
    "--width-mult=0.25",
    "--resolution=32",
    "--batch-size=16",
    "--epochs=4",
    "--threads=1",
    "--workers=0",
]

SIGNALLED = Path(__file__).with_name("signalled.py")
train_small = partial(train, model="mobilenet_v1", width_mult=0.25, resolution=16)


class Stop(Exception):
    """What a report raises to end a training in the middle, as a kill would."""


def stop_at_once(event: Event) -> None:
    raise Stop


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mobilette", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_classes_are_learnt(trained: Run) -> None:
    assert max(row["top1"] for row in trained.history()) == 1.0
    assert trained.history()[-1]["lr"] == 0.0


def test_training_leaves_the_callers_random_numbers_alone(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train_small(
        images,
        overrides={"epochs": 1},
        out=tmp_path / "run",
    )
    assert torch.equal(torch.rand(3), expected)


def test_same_seed_same_run_other_seed_other_run(images: Path, tmp_path: Path) -> None:
    runs = [
        train_small(
            images,
            overrides={"epochs": 1, "seed": seed},
            out=tmp_path / name,
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert same_weights(runs[0].path, runs[1].path)
    assert not same_weights(runs[0].path, runs[2].path)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a child")
def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped run"
    overrides = {"epochs": 4, "batch_size": 16}
    whole = train(
        images,
        model="mobilenet_v2",
        width_mult=0.25,
        resolution=32,
        overrides=overrides,
        workers=0,
        out=tmp_path / "whole",
    )
    command = [sys.executable, SIGNALLED, "SIGINT", "9", "train", images, *OPTIONS]
    process = subprocess.run(
        [*map(str, command), "--out", str(stopped)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 130, process.stderr
    assert f"mobilette train --resume '{stopped}'" in process.stderr
    assert "Traceback" not in process.stderr
    finished = run_cli("train", "--resume", stopped, "--workers=0")
    assert finished.returncode == 0, finished.stderr
    assert same_weights(whole.path, stopped)


def test_state_is_saved_inside_an_epoch_too(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a state after every step, stopping at any step and resuming gives the same bits."""
    options = {"epochs": 2, "batch_size": 24}
    train_v3 = partial(
        train,
        images,
        model="mobilenet_v3_small",
        width_mult=0.35,
        resolution=32,
        overrides=options,
    )
    whole = train_v3(out=tmp_path / "whole")
    monkeypatch.setattr("mobilette.training.loop.SECONDS_BETWEEN_STATES", -1.0)

    steps = 0

    def stop(event: Event) -> None:
        nonlocal steps
        steps += not isinstance(event, EpochDone)
        if steps == 6:
            raise Stop

    with pytest.raises(Stop):
        train_v3(out=tmp_path / "part", report=stop)
    state = torch.load(tmp_path / "part" / "last.pt", weights_only=True)
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (1, 1)
    resume(tmp_path / "part")
    assert same_weights(whole.path, tmp_path / "part")


def test_resuming_a_finished_run_says_so(trained: Run) -> None:
    before = trained.weights_path.stat().st_mtime_ns
    finished = run_cli("train", "--resume", trained.path)
    assert finished.returncode == 0
    assert "is finished; nothing to resume" in finished.stderr
    assert trained.weights_path.stat().st_mtime_ns == before


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_hostile_state_is_not_executed(run_copy: Path, tmp_path: Path, how: str) -> None:
    witness = tmp_path / "executed"
    if how == "pickle":
        (run_copy / "last.pt").write_bytes(pickle.dumps(_Hostile(witness)))
    else:
        torch.save({"schema": 1, "progress": _Hostile(witness)}, run_copy / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt: holds more than plain tensors"):
        resume(run_copy)
    assert not witness.exists()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_state_that_is_cut_short(run_copy: Path, part: float) -> None:
    path = run_copy / "last.pt"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match=r"last\.pt: ") as caught:
        resume(run_copy)
    assert "\n" not in str(caught.value)


def _unfinished(run: Path) -> None:
    state = torch.load(run / "last.pt", weights_only=True)
    state["progress"]["finished"] = False
    state["progress"]["epoch"] = 11
    torch.save(state, run / "last.pt")


def test_images_that_changed_are_not_resumed_with(run_copy: Path, tmp_path: Path) -> None:
    _unfinished(run_copy)
    other = write_images(tmp_path / "other", 6)
    with pytest.raises(InputError, match="images have changed since"):
        resume(run_copy, data=other)


def test_moved_images_are_resumed_with(run_copy: Path, images: Path, tmp_path: Path) -> None:
    _unfinished(run_copy)
    moved = tmp_path / "moved"
    moved.symlink_to(images)
    assert resume(run_copy, data=moved).history()[-1]["epoch"] == 12


def test_weights_of_another_run_are_a_start(trained: Run, images: Path, tmp_path: Path) -> None:
    run = train_small(
        images,
        start=trained.path,
        overrides={"epochs": 1, "lr": 1e-4},
        out=tmp_path / "again",
    )
    assert run.history()[0]["top1"] == 1.0
    with pytest.raises(InputError, match="stem.conv has 16 channels, the weights have 8"):
        train(images, width_mult=0.5, start=trained.path, out=tmp_path / "other")
    with pytest.raises(InputError, match="scratch, auto, a run directory or published weights"):
        train(images, start="imagenet", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_time_limit_is_kept_and_the_schedule_ends_with_it(images: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = train_small(
        images,
        overrides={"time_limit": 4.0, "batch_size": 16},
        out=tmp_path / "run",
        now=Ticks(),
        reporter=Reporter(remark=said.append),
    )
    last = run.history()[-1]
    assert 3.0 < last["seconds"] <= 4.0
    assert last["lr"] < 0.05 * 0.05
    assert any(line.startswith("in 4s: about ") for line in said)
    assert last["epoch"] == pytest.approx(last["step"] / 6, abs=0.002)  # a part is none


def test_a_time_too_short_for_some_steps_is_refused_with_one_that_would_do(
    images: Path, tmp_path: Path
) -> None:
    def of(time_limit: float) -> Run:
        return train_small(
            images,
            overrides={"time_limit": time_limit},
            out=tmp_path / "run",
            now=Ticks(),
        )

    with pytest.raises(TooShortError, match="would do") as refused:
        of(0.001)
    assert not (tmp_path / "run").exists()
    assert of(refused.value.needed).history()[-1]["seconds"] <= refused.value.needed


def test_a_time_that_reading_takes_is_refused_before_all_is_read(tmp_path: Path) -> None:
    """Of 480 images at a tenth of a second each, hardly more than half are read."""
    now, read = Ticks(), []

    def tell(done: int, total: int) -> None:
        now.time = 0.1 * done
        read.append(done / total)

    with pytest.raises(TooShortError, match="reading 480 images takes 48 s"):
        train_small(
            write_images(tmp_path / "set", 160, size=8),
            overrides={"time_limit": 30.0},
            out=tmp_path / "run",
            workers=0,
            reporter=Reporter(reading=tell),
            now=now,
        )
    assert read[-1] < 0.7
    assert not (tmp_path / "run").exists()


def test_a_start_from_a_run_survives_a_kill_before_the_first_epoch(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    """The source run is gone when the killed one is resumed."""
    overrides = {"epochs": 1, "batch_size": 16}
    source = Path(shutil.copytree(trained.path, tmp_path / "source"))
    whole = train_small(images, start=source, overrides=overrides, out=tmp_path / "whole")
    with pytest.raises(Stop):
        train_small(
            images,
            start=source,
            overrides=overrides,
            out=tmp_path / "killed",
            report=stop_at_once,
        )
    shutil.rmtree(source)
    resume(tmp_path / "killed")
    assert same_weights(whole.path, tmp_path / "killed")


def test_damaged_weights_to_start_from_leave_nothing(
    run_copy: Path, images: Path, tmp_path: Path
) -> None:
    (run_copy / "best.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"best\.safetensors: not a complete"):
        train_small(
            images,
            start=run_copy,
            out=run_copy,
            force=True,
        )
    assert (run_copy / "best.safetensors").read_bytes() == b"half"
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_renamed_images_are_resumed_with_in_the_same_order(images: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise Stop

    data = Path(shutil.copytree(images, tmp_path / "set"))
    overrides = {"epochs": 2, "batch_size": 16}
    whole = train_small(data, overrides=overrides, out=tmp_path / "whole")
    with pytest.raises(Stop):
        train_small(data, overrides=overrides, out=tmp_path / "part", report=stop)
    for number, file in enumerate(sorted((data / "red").iterdir(), reverse=True)):
        file.rename(file.with_name(f"renamed {number:03}.png"))
    resume(tmp_path / "part")
    assert same_weights(whole.path, tmp_path / "part")


def test_a_loss_that_explodes_is_said_and_never_saved(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the loss is .*0.04 times.*a smaller --lr than 1000"):
        train(
            images,
            width_mult=0.25,
            resolution=32,
            overrides={"lr": 1000.0, "warmup": 0.0, "weight_decay": 1.0, "batch_size": 8},
            out=tmp_path / "run",
        )
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert all(torch.isfinite(t).all() for t in state["network"].values())


def test_one_channel(images: Path, tmp_path: Path) -> None:
    run = train_small(
        images,
        in_channels=1,
        overrides={"epochs": 1},
        out=tmp_path / "grey",
    )
    assert run.arch.in_channels == 1
    assert run.preprocess.colour == "grey"


def test_unusable_images_are_listed_in_the_run(tmp_path: Path) -> None:
    data = write_images(tmp_path / "set", 20)
    (data / "red" / "zz text.jpg").write_text("no image")
    (data / "blue" / "zz empty.png").touch()
    run = train_small(
        data,
        overrides={"epochs": 1},
        out=tmp_path / "run",
    )
    described = json.loads((run.path / "dataset.json").read_text())
    assert {entry["path"] for entry in described["unusable"]} == {
        "red/zz text.jpg",
        "blue/zz empty.png",
    }
