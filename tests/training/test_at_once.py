"""Two processes that want the same run or artifact: the second is told, nothing is mixed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mobilette.cli.main import run as command_line
from mobilette.engines.load import load
from mobilette.exporters.state_dict import export_state_dict
from mobilette.folders import BusyError
from mobilette.run.directory import Run, open_run
from mobilette.training.events import Event, StepDone
from mobilette.verification.evaluate import evaluate
from mobilette.workflows.export import export
from mobilette.workflows.prune import prune
from mobilette.workflows.quantize import quantize
from tests.test_folders import held, names, said
from tests.training.runs import resume, train

train_small = partial(train, model="mobilenet_v1", width_mult=0.25, resolution=16)
WRITING = r"is writing it; wait until it ends, or end it"


def test_a_run_in_training_is_left_alone_by_others(images: Path, tmp_path: Path) -> None:
    """In other threads, whose locks are those of other processes."""
    out, step = tmp_path / "run", threading.Event()
    refused: list[str] = []
    tried: list[Callable[[], object]] = [
        lambda: resume(out),
        lambda: train_small(images, out=out, force=True, overrides={"epochs": 1}),
    ]

    def report(event: Event) -> None:
        if not isinstance(event, StepDone) or event.epoch != 1 or step.is_set():
            return
        step.set()
        with ThreadPoolExecutor(1) as pool:
            for attempt in tried:
                with pytest.raises(BusyError, match=WRITING) as caught:
                    pool.submit(attempt).result()
                refused.append(str(caught.value))
            assert pool.submit(lambda: evaluate(load(out), images)).result().images

    train_small(images, out=out, report=report, overrides={"epochs": 3, "batch_size": 16})
    assert len(refused) == 2
    assert len(open_run(out).history()) == 3
    assert names(tmp_path) == ["run"]


def test_a_folder_that_another_process_writes_is_refused_before_any_work(
    trained: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    writers: dict[Path, Callable[[], object]] = {
        out: partial(train_small, images, out=out),
        out / "pruned": partial(prune, trained, images, keep=0.9, out=out / "pruned"),
        out / "onnx": partial(export, trained, out=out),
        out / "onnx-int8": partial(quantize, trained, images, out=out),
        out / "state_dict": partial(export_state_dict, trained, names="mobilette", out=out),
    }
    for path, write in writers.items():
        with held(path) as other:
            assert said(other) == str(path)
            with pytest.raises(BusyError, match=f"{path.name}: process {other.pid} {WRITING}"):
                write()
            other.communicate()
    with held(out) as other:
        assert said(other) == str(out)
        assert command_line(["bench", str(trained.path), "--out", str(out)]) == 2
        other.communicate()
    assert f"process {other.pid} is writing it" in capsys.readouterr().err
    assert names(tmp_path) == []


def test_runs_without_a_name_begun_at_once_get_one_each(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = threading.Barrier(2, timeout=120)

    def one(seed: int) -> Run:
        def report(event: Event) -> None:
            if isinstance(event, StepDone) and event.epoch == 0 and event.step == 1:
                begun.wait()

        overrides = {"epochs": 1, "batch_size": 16, "seed": seed}
        return train_small(images, overrides=overrides, report=report)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(one, (1, 2)))
    base = f"{images.name}-mobilenet_v1"
    assert sorted(run.path.name for run in runs) == [base, f"{base}-2"]
    assert names(tmp_path / "runs") == sorted([base, f"{base}-2"])
    for seed, run in zip((1, 2), runs, strict=True):
        assert f"seed = {seed}\n" in (run.path / "recipe.toml").read_text()


@pytest.mark.parametrize("what", ["run", "artifact"])
def test_litter_of_a_killed_process_goes_with_the_redo(
    what: str, trained: Run, images: Path, tmp_path: Path
) -> None:
    name = "run" if what == "run" else "onnx"
    litter = tmp_path / f".{name}.abcdefgh.unfinished"
    litter.mkdir()
    (litter / "best.safetensors").write_bytes(bytes(100))
    if what == "run":
        train_small(images, out=tmp_path / name, overrides={"epochs": 1, "batch_size": 16})
    else:
        export(trained, out=tmp_path)
    assert names(tmp_path) == [name]


def test_what_was_put_aside_is_found_by_whoever_reads_it(run_copy: Path) -> None:
    """Where two folders cannot be exchanged in one step, and the process was killed in between."""
    aside = run_copy.with_name(f".{run_copy.name}.abcdefgh.replaced")
    for read in (open_run, load):
        run_copy.rename(aside)
        assert read(run_copy).arch.resolution == 16
        assert names(run_copy.parent) == [run_copy.name]
