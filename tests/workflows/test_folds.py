"""`cross_validate`: every image is answered once, by a run that has not seen it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from mobilette.cli.main import run as command
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.model.directory import DATASET
from mobilette.progress import Reporter
from mobilette.run.trained import read_trained
from mobilette.training.time_plan import TooShortError
from mobilette.workflows.folds import cross_validate, resume_folds
from mobilette.workflows.folds_record import COLUMNS, Folds
from tests.conftest import write_images

SMALL: dict[str, Any] = {"model": "mobilenet_v1", "width_mult": 0.25, "resolution": 16}
BRIEF: dict[str, Any] = {"epochs": 2, "overrides": {"batch_size": 16}, "workers": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("folds") / "set", 9)


@pytest.fixture(scope="module")
def folds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Folds:
    return cross_validate(
        data, folds=3, **SMALL, **BRIEF, out=tmp_path_factory.mktemp("folds") / "out"
    )


def rows_of(found: Folds) -> list[dict[str, str]]:
    with found.predictions.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_is_answered_once_by_a_run_that_has_not_seen_it(
    folds: Folds, data: Path
) -> None:
    rows = rows_of(folds)
    assert tuple(rows[0]) == COLUMNS
    names = {path.relative_to(data).as_posix() for path in data.rglob("*.png")}
    assert Counter(row["name"] for row in rows) == Counter(names)
    for number, (run, tested) in enumerate(zip(folds.runs, folds.tested, strict=True), 1):
        own = [row for row in rows if row["fold"] == str(number)]
        assert Counter(row["class"] for row in own) == dict.fromkeys(("blue", "green", "red"), 3)
        known = read_trained(run.path)
        assert not len(known.images & (known.parts["test"] | known.parts["val"]))
        assert len(known.images) + len(known.parts["val"]) + len(known.parts["test"]) == 27
        answers = load(run).predict([data / row["name"] for row in own])
        assert [answer.label for answer in answers] == [row["predicted"] for row in own]
        for answer, row in zip(answers, own, strict=True):
            assert float(row["probability"]) == pytest.approx(answer.probability, abs=1e-4)
        assert tested.top1 == fmean(row["class"] == row["predicted"] for row in own)
    scores = [each.top1 for each in folds.tested]
    assert (folds.top1, folds.spread) == (fmean(scores), stdev(scores))


def test_train_and_val_of_a_divided_set_are_one(folds: Folds, data: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        split = ("train", "train", "val")[number % 3]
        target = tmp_path / "set" / split / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    write_images(tmp_path / "set" / "test", 2, seed=5)
    found = cross_validate(tmp_path / "set", folds=3, **SMALL, **BRIEF, out=tmp_path / "out")
    assert [each.top1 for each in found.tested] == [each.top1 for each in folds.tested]
    sides = {row["name"].partition("/")[2]: row["fold"] for row in rows_of(found)}
    assert sides == {row["name"]: row["fold"] for row in rows_of(folds)}


PROGRAM = """
import sys
from mobilette.workflows.folds import cross_validate
if __name__ == "__main__":
    cross_validate(
        sys.argv[1], folds=3, model="mobilenet_v1", width_mult=0.25, resolution=16,
        epochs=2, overrides={"batch_size": 16}, workers=0, out=sys.argv[2],
        callbacks=[lambda event: print(type(event).__name__, flush=True)],
    )
"""


def test_folds_killed_in_the_second_are_finished(folds: Folds, data: Path, tmp_path: Path) -> None:
    """By SIGKILL; the finished fold is not trained again, and the result is the same."""
    out, program = tmp_path / "out", tmp_path / "program.py"
    program.write_text(PROGRAM)
    arguments = [sys.executable, str(program), str(data), str(out)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "EpochDone\n" and (out / "fold-2" / "metrics.csv").exists():
                break
        process.send_signal(signal.SIGKILL)
    assert not (out / "fold-3").exists()
    first = {path: path.stat().st_mtime_ns for path in (out / "fold-1").iterdir()}
    time.sleep(0.01)
    told: list[str] = []
    found = resume_folds(out, reporter=Reporter(remark=told.append))
    assert {path: path.stat().st_mtime_ns for path in (out / "fold-1").iterdir()} == first
    assert [each.to_json() for each in found.tested] == [each.to_json() for each in folds.tested]
    assert rows_of(found) == rows_of(folds)
    assert [line for line in told if line.startswith("fold ")] == [
        f"fold {number} of 3" for number in (1, 2, 3)
    ]


def test_the_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16", "--workers=0"]
    out = str(tmp_path / "out")
    asked = ["train", str(data), *small, "--epochs=1", "--folds=2", f"--out={out}"]
    assert command([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    keys = {"path", "top1", "spread", "images", "folds", "predictions"}
    assert (found.keys(), found["images"], len(found["folds"])) == (keys, 27, 2)
    assert command(["train", f"--resume={out}"]) == 0
    shown = capsys.readouterr()
    assert f"{out}: top-1 {found['top1']:.2%}, standard deviation" in shown.err
    assert shown.out.splitlines()[0].split() == ["fold", "top-1", "95%", "images"]
    assert command([*asked, "--force", "--holdout=0.2"]) == 2
    assert "--folds holds out one part after the other; it takes no holdout" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, r"--folds 1 is not between 2 and 100"),
        ({"folds": 10}, r"the class 'blue' has 9 images, too few for 10 folds; 10 are needed"),
        ({"folds": 3, "groups": "(blue|green)/|red/(.)"}, r"'blue' are in 1 groups; three are"),
        ({"folds": 3, "recipe": "nothing"}, r"nothing"),
    ],
)
def test_folds_that_cannot_be(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        cross_validate(data, **SMALL, **BRIEF, **options, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_time_is_shared(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TooShortError, match=r"for each of 3 folds, which share --time"):
        cross_validate(data, folds=3, **SMALL, time=0.003, workers=0, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_know_the_images_are_refused(folds: Folds, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folds need weights that have seen none of its images"):
        cross_validate(data, folds=3, start=folds.runs[0].path, **BRIEF, out=tmp_path / "out")


def test_a_fold_has_its_division(folds: Folds) -> None:
    found = json.loads((folds.runs[1].path / DATASET).read_text())
    assert found["division"] == {"holdout": None, "groups": None, "folds": 3, "fold": 2}
