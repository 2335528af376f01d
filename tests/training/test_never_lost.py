"""Between a start, a restart and a resume: the right run goes on, and as it was asked to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from mobilette.data.store import StreamedPixels
from mobilette.errors import InputError
from mobilette.model.directory import ANSWERING, DATASET, ENVIRONMENT, WEIGHTS
from mobilette.nn.kernels import kernels_name
from mobilette.progress import Reporter
from mobilette.run.directory import METRICS, STATE, open_run
from mobilette.training import state as states
from mobilette.training.distributed import _fresh_store
from mobilette.training.events import EpochDone, Event, StepDone
from mobilette.training.optimiser import learning_rate
from mobilette.training.process import StopRequest
from mobilette.training.recipe import load_recipe
from tests.conftest import needs_compiler, write_images
from tests.data.sets import divided
from tests.training.runs import Ticks, resume, same_weights, train
from tests.training.test_distributed import OPTIONS, ended

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="torchrun with gloo")
train_small = partial(train, model="mobilenet_v1", width_mult=0.25, resolution=16)


class Stop(Exception):
    """What a report raises to end a training, as a kill would."""


def stop_after_an_epoch(event: Event) -> None:
    """Stop in the second one: the state at the end of the first is saved."""
    if isinstance(event, StepDone) and event.epoch == 1:
        raise Stop


@linux_only
def test_restarted_processes_leave_a_run_alone_that_they_have_not_begun(
    run_copy: Path, images: Path
) -> None:
    """The run was refused when torchrun started them first; resuming it would be no better."""
    before = (run_copy / STATE).read_bytes()
    status, err = ended(images, *OPTIONS, "--out", run_copy, restarts=1)
    assert status != 0
    # Two processes, two times; torchrun may end the other one before it has said so, too.
    assert 2 <= err.count(f"{run_copy}: exists; give another --out") <= 4
    assert "Connection closed" not in err  # none waited for one that had ended
    assert (run_copy / STATE).read_bytes() == before


def test_processes_that_are_started_again_do_not_read_what_the_dead_have_written() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            ranks = [threads.submit(_fresh_store, store, rank, 3) for rank in (2, 0, 1)]
            second, first, third = (future.result(timeout=120) for future in ranks)
            assert not first.check(["address"])
            first.set("address", "here")
            assert second.get("address") == third.get("address") == b"here"


@linux_only
def test_images_that_one_of_the_processes_finds_broken_are_recorded(tmp_path: Path) -> None:
    data = tmp_path / "set"
    for split, count in (("train", 20), ("val", 10)):
        write_images(data / split, count)
    broken = ["train/green/3.png"]
    broken += [f"val/{name}/{number}.png" for name in ("blue", "red") for number in (2, 7)]
    for name in broken:
        (data / name).write_bytes(b"no image")
    out = tmp_path / "run"
    # The batch of one process is a single image once.
    streamed = ("--batch-size=4", "--set=loader=streamed", "--max-unusable=0.2")
    options = (*OPTIONS, "--epochs=1", *streamed)
    status, err = ended(data, *options, "--out", out)
    assert status == 0, err
    recorded = json.loads((out / DATASET).read_text())["unusable"]
    assert [entry["path"] for entry in recorded] == broken


@pytest.mark.skipif(os.name == "nt", reason="sends signals to itself")
@pytest.mark.parametrize("patient", [True, False])
def test_torchrun_sends_a_second_ctrl_c_by_itself(patient: bool) -> None:
    with StopRequest(patient=patient) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        if patient:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


def test_what_a_killed_process_has_half_written_is_removed(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train_small(images, overrides={"epochs": 2}, out=run, report=stop_after_an_epoch)
    (run / ".last.pt.4321.tmp").write_bytes(bytes(1000))
    resume(run)
    assert not list(run.glob("*.tmp"))
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("unwritten", [WEIGHTS, ANSWERING, METRICS, STATE])
def test_a_run_that_ends_while_it_writes_its_last_state_validates_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unwritten: str
) -> None:
    """No weights and no row are lost between two of the files, whichever is not written."""
    overrides = {"epochs": 1, "batch_size": 16, "save_every": 2}
    whole = train_small(images, overrides=overrides, out=tmp_path / "whole")
    run, validated = tmp_path / "run", threading.Event()

    def ending(write: Callable[..., None]) -> Callable[..., None]:
        def writes(path: Path, content: object) -> None:
            if validated.is_set() and path.name == unwritten:
                raise Stop
            write(path, content)

        return writes

    def report(event: Event) -> None:
        if isinstance(event, EpochDone):
            validated.set()

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_json", "write_text"):
            patch.setattr(states, name, ending(getattr(states, name)))
        with pytest.raises(Stop):
            train_small(images, overrides=overrides, out=run, report=report)
    (row,) = resume(run).history()
    assert row["top1"] == whole.history()[0]["top1"]
    assert same_weights(run, whole.path)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_changed_recipe_also_changes_the_optimiser(
    run_copy: Path, tmp_path: Path, optimizer: str
) -> None:
    overrides = {"epochs": 13, "weight_decay": 0.0625, "lr": 1e-3, "optimizer": optimizer}
    resume(run_copy, overrides=overrides, force=True)
    state = torch.load(run_copy / STATE, weights_only=True)["optimizer"]
    assert {group["weight_decay"] for group in state["param_groups"]} == {0.0625, 0.0}
    kept = "momentum_buffer" if optimizer == "sgd" else "exp_avg_sq"
    assert all(kept in each for each in state["state"].values())


def test_another_batch_size_leaves_the_schedule_where_it_was(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train_small(
            images,
            overrides={"epochs": 4, "batch_size": 4},
            out=run,
            report=stop_after_an_epoch,
        )
    resume(run, overrides={"batch_size": 32}, force=True)
    recipe = load_recipe(run / "recipe.toml")
    rows = open_run(run).history()
    expected = [learning_rate(recipe, epoch / 4) for epoch in (1, 2, 3, 4)]
    assert [row["lr"] for row in rows] == pytest.approx(expected, rel=1e-5)
    assert rows[3]["step"] - rows[1]["step"] == 2 * (96 // 32)


def test_a_finished_run_goes_on_with_more_time(images: Path, tmp_path: Path) -> None:
    run = train_small(images, overrides={"epochs": 1}, out=tmp_path / "run", now=Ticks())
    assert len(run.history()) == 1
    resume(run.path, overrides={"time_limit": 3.0}, force=True, now=Ticks())
    assert len(run.history()) > 1


def test_a_resumed_run_has_the_rest_of_its_time(images: Path, tmp_path: Path) -> None:
    overrides = {"time_limit": 4.0, "batch_size": 16}
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train_small(images, overrides=overrides, out=run, now=Ticks(), report=stop_after_an_epoch)
    said: list[str] = []
    last = resume(run, now=Ticks(), reporter=Reporter(remark=said.append)).history()[-1]
    assert 3.0 < last["seconds"] <= 4.0
    assert last["lr"] < 0.05 * 0.05
    assert any(line.startswith("in 4s: about ") for line in said)


def test_epochs_end_a_run_that_was_begun_with_a_time(images: Path, tmp_path: Path) -> None:
    """The one that was given last decides."""
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train_small(images, overrides={"time_limit": 100.0}, out=run, report=stop_after_an_epoch)
    rows = resume(run, overrides={"epochs": 2}, force=True).history()
    assert rows[-1]["epoch"] == 2


def test_an_image_that_broke_in_between_is_left_out(tmp_path: Path) -> None:
    images, run = write_images(tmp_path / "images", 12), tmp_path / "run"
    with pytest.raises(Stop):
        train_small(
            images,
            overrides={"epochs": 3, "batch_size": 8},
            out=run,
            report=stop_after_an_epoch,
        )
    held_out = json.loads((run / DATASET).read_text())["val_names"]
    broken = next(
        path
        for path in sorted(images.rglob("*.png"))
        if f"{path.parent.name}/{path.name}" not in held_out
    )
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(InputError, match="images have changed since .*--force"):
        resume(run)
    remarks: list[str] = []
    resume(run, force=True, reporter=Reporter(remark=remarks.append))
    assert len(open_run(run).history()) == 3
    assert any("images have changed since" in remark for remark in remarks)
    (left_out,) = json.loads((run / DATASET).read_text())["unusable"]
    assert left_out["path"] == f"{broken.parent.name}/{broken.name}"
    other = write_images(tmp_path / "other", 12)
    (other / "red").rename(other / "pink")
    _unfinish(run)
    with pytest.raises(InputError, match="and so have their classes"):
        resume(run, data=other, force=True)


def test_how_many_images_may_break_holds_when_a_run_goes_on(tmp_path: Path) -> None:
    data, run = divided(tmp_path / "set", train=8, val=4), tmp_path / "run"
    overrides = {"epochs": 2, "batch_size": 8, "loader": "streamed"}
    with pytest.raises(Stop):
        train_small(
            data, overrides=overrides, out=run, report=stop_after_an_epoch, max_unusable=0.5
        )
    images_to_train_on = sorted(data.glob("train/*/*"))
    for path in images_to_train_on[:10]:  # of 24 in all
        path.write_bytes(b"x" * path.stat().st_size)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    resume(run, workers=0)
    assert len(open_run(run).history()) == 2
    for path in images_to_train_on[10:14]:
        path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(InputError, match=r"of 24 images cannot be used, more than .* 0.5"):
        resume(unfinished, workers=0)


def test_a_changed_environment_is_remarked_on(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train_small(images, overrides={"epochs": 2}, out=run, report=stop_after_an_epoch)
    recorded = json.loads((run / ENVIRONMENT).read_text())
    recorded |= {"processes": 3, "threads": 64, "kernels": "others"}
    recorded["versions"]["torch"] = "2.1"
    (run / ENVIRONMENT).write_text(json.dumps(recorded))
    said: list[str] = []
    resume(run, reporter=Reporter(remark=said.append))
    named = kernels_name()
    kernels = [f"not bit-exact: kernels others at the start, {named} now"] if named else []
    assert said[: 3 + len(kernels)] == [
        "not bit-exact: processes 3 at the start, 1 now",
        f"not bit-exact: threads 64 at the start, {torch.get_num_threads()} now",
        f"not bit-exact: torch 2.1 at the start, {torch.__version__} now",
        *kernels,
    ]


def test_images_held_out_are_streamed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = divided(tmp_path / "set", train=12, val=12)
    read: list[int] = []
    rows = StreamedPixels.__getitem__

    def watched(self: StreamedPixels, key: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        found = rows(self, key)
        read.append(len(found))
        return found

    monkeypatch.setattr(StreamedPixels, "__getitem__", watched)
    monkeypatch.setattr("mobilette.run.inference.LARGEST_BATCH", 8)
    overrides = {"epochs": 1, "batch_size": 8, "loader": "streamed", "norm_statistics": "kept"}
    train_small(data, overrides=overrides, out=tmp_path / "run")
    assert read == [8] * 3


def test_no_image_held_out_is_left(tmp_path: Path) -> None:
    data = divided(tmp_path / "set", train=40, val=2)

    def remark(text: str) -> None:
        for path in data.glob("val/*/*") if "threads" in text else ():
            path.write_bytes(b"")

    overrides = {"epochs": 1, "batch_size": 8, "loader": "streamed"}
    with pytest.raises(InputError, match="none of the held-out images can be read any more"):
        train_small(
            data, overrides=overrides, out=tmp_path / "run", reporter=Reporter(remark=remark)
        )


def _unfinish(run: Path) -> None:
    state = torch.load(run / STATE, weights_only=True)
    state["progress"]["finished"] = False
    torch.save(state, run / STATE)


@needs_compiler
def test_what_computes_batch_norms_is_recorded_and_kept(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {True: tmp_path / "fused", False: tmp_path / "plain"}
    for fused, out in folders.items():
        monkeypatch.delenv("CXX", raising=False)
        if not fused:
            monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(Stop):
            train_small(images, overrides={"epochs": 2}, out=out, report=stop_after_an_epoch)
        assert json.loads((out / ENVIRONMENT).read_text())["fused_norms"] is fused
    monkeypatch.setenv("CXX", "no-such-compiler")
    said: list[str] = []
    resume(folders[True], reporter=Reporter(remark=said.append))
    assert said[0] == (
        "continues without fused batch norms, not bit-exact: no C++ compiler (CXX=no-such-compiler)"
    )
    whole = tmp_path / "whole"
    monkeypatch.setenv("CXX", "no-such-compiler")
    train_small(images, overrides={"epochs": 2}, out=whole)
    monkeypatch.delenv("CXX")
    resume(folders[False], reporter=Reporter(remark=said.append))
    assert not any("fused batch norms" in text for text in said[2:])
    assert same_weights(folders[False], whole)
