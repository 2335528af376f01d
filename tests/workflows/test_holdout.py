"""A third part, ``test``, that nothing is chosen by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilette.cli.main import run as command
from mobilette.data.division import Division
from mobilette.errors import InputError
from mobilette.exporters.calibration import calibration_images
from mobilette.model.directory import DATASET
from mobilette.run.directory import Run, open_run
from mobilette.run.metrics import wilson_interval
from mobilette.run.tested import TEST, read_tested
from mobilette.run.trained import read_trained
from mobilette.training.events import Event, StepDone
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from mobilette.workflows import measure_test as module
from mobilette.workflows.export import export
from mobilette.workflows.prune import prune
from mobilette.workflows.train import train
from tests.conftest import write_images
from tests.training.runs import resume
from tests.training.runs import train as train_with

SMALL: dict[str, Any] = {"model": "mobilenet_v1", "width_mult": 0.25, "resolution": 16}
BRIEF: dict[str, Any] = {"epochs": 3, "batch_size": 16, "workers": 0}


@pytest.fixture(scope="module")
def with_test(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("holdout") / "run"
    return train(images, **SMALL, **BRIEF, holdout="25%", out=out)


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / DATASET).read_text())
    return found


def test_the_parts_are_apart_and_evaluate_finds_them_again(
    with_test: Run, images: Path, tmp_path: Path
) -> None:
    found = record(with_test.path)
    assert {name: part["pictures"] for name, part in found["splits"].items()} == {
        "train": 72,
        "val": 18,
        "test": 30,
    }
    assert not set(found["val_names"]) & set(found["test_names"])
    tested = read_tested(with_test)
    assert tested is not None
    assert (tested.images, tested.interval) == (30, wilson_interval(tested.top1, 30))
    for data in (images, moved(images, tmp_path / "elsewhere")):
        again = evaluate(with_test, data, split="test", workers=0)
        assert (again.top1, again.images) == (tested.top1, 30)
        assert again.loss == pytest.approx(tested.loss, abs=1e-9)
        best = with_test.best()
        assert best is not None
        chosen = evaluate(with_test, data, split="val", workers=0)
        assert chosen.top1 == pytest.approx(best["top1"], abs=1e-6)
        assert evaluate(with_test, data, workers=0).images == 48  # neither is trained on


def moved(images: Path, root: Path) -> Path:
    """Copy images under other names, in another format."""
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(root / path.parent.name / f"{999 - number}.bmp")
    return root


def test_train_says_which_number_is_which(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16", "--workers=0"]
    out = str(tmp_path / "run")
    asked = ["train", str(images), *small, "--epochs=1", "--holdout=0.2", f"--out={out}"]
    assert command([*asked, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    tested = read_tested(open_run(out))
    assert tested is not None
    assert found["test"] == json.loads(json.dumps(tested.to_json()))
    assert "and 24 for a test at the end" in shown.err
    assert command(["train", f"--resume={out}"]) == 0
    low, high = tested.interval
    best = open_run(out).best()
    assert best is not None
    assert (
        f"val {best['top1']:.1%}: chose the weights. test {tested.top1:.1%} (95%: {low:.1%} to "
        f"{high:.1%}), 24 images, used for nothing\n"
    ) in capsys.readouterr().err


def test_a_given_test_is_measured_streamed_ones_too(tmp_path: Path) -> None:
    for split, count, seed in (("train", 12, 1), ("val", 4, 2), ("test", 6, 3)):
        write_images(tmp_path / "data" / split, count, seed=seed)
    runs = [
        train(
            tmp_path / "data",
            **SMALL,
            **BRIEF,
            overrides={"loader": loader},
            out=tmp_path / loader,
        )
        for loader in ("resident", "streamed")
    ]
    for run in runs:
        tested = read_tested(run)
        assert tested is not None
        again = evaluate(run, tmp_path / "data", split="test", workers=0)
        assert (again.top1, again.images) == (tested.top1, 18)
    with pytest.raises(InputError, match="has a test split; --holdout would cut another"):
        train(tmp_path / "data", **SMALL, **BRIEF, holdout=0.2, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_run_killed_before_its_test_makes_it_when_it_is_resumed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_tested", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(images, **SMALL, **BRIEF, holdout=0.2, out=out)
    assert not (out / TEST).exists()
    history = (out / "metrics.csv").read_text()
    tested = read_tested(resume(out, workers=0))
    assert tested is not None
    assert tested.top1 == evaluate(out, images, split="test", workers=0).top1
    assert (out / "metrics.csv").read_text() == history


def test_groups_are_kept_when_a_run_is_resumed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for label, shade in (("dark", 60), ("light", 190)):
        (data / label).mkdir(parents=True)
        rng = np.random.default_rng(shade)
        for burst in range(8):
            for frame in range(1 + burst % 4):
                pixels = np.clip(rng.normal(shade, 40, (20, 20, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(data / label / f"{label}{burst}_{frame}.png")

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.epoch == 1:
            raise RuntimeError("killed")

    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        train_with(
            data,
            **SMALL,
            overrides={"epochs": 2, "batch_size": 8},
            division=Division(holdout=0.25, groups=r"(\w+)_"),
            out=out,
            report=stop,
            workers=0,
        )
    first = record(out)
    run = resume(out, workers=0)
    assert record(run.path) == first
    names = {
        split: {name.rpartition("_")[0] for name in first[f"{split}_names"]}
        for split in ("val", "test")
    }
    assert not names["val"] & names["test"]
    others = {path.relative_to(data).as_posix() for path in data.rglob("*.png")}
    others -= set(first["val_names"]) | set(first["test_names"])
    assert not {name.rpartition("_")[0] for name in others} & (names["val"] | names["test"])


def test_what_follows_a_run_leaves_its_test_alone(
    with_test: Run, images: Path, tmp_path: Path
) -> None:
    """Pruning, more training, calibration: none of them uses ``test``."""
    parts = read_trained(with_test.path).parts
    narrow = prune(with_test, images, keep=0.7, epochs=1, batch_size=16, out=tmp_path / "narrow")
    further = train(images, start=with_test.path, **BRIEF, out=tmp_path / "further")
    for run in (narrow, further):
        known = read_trained(run.path)
        assert {name: part.to_json() for name, part in known.parts.items()} == {
            name: part.to_json() for name, part in parts.items()
        }
        assert not len(known.images & parts["test"])
        tested = read_tested(run)
        assert tested is not None
        assert tested.images == 30
    calibrated = calibration_images(with_test).pixels
    assert len(calibrated) == 72
    artifact = export(with_test, out=tmp_path / "exports")
    assert verify(artifact, images, split="test").images == 30
