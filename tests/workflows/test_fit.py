"""`fit`: images and a budget in, a verified artifact within it out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilette.arch.catalogue import get_arch
from mobilette.artifact.directory import Artifact
from mobilette.cli.main import run as command
from mobilette.counting.fused_layers import fused_layers
from mobilette.counting.latency import (
    interpolated,
    write_latency_table,
)
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.progress import Reporter
from mobilette.reporting.report import report
from mobilette.run.directory import Run, open_run
from mobilette.search.scenes import wanted
from mobilette.training.events import Sitting
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from mobilette.workflows.fit import fit, go_on, run_fit
from mobilette.workflows.fit_proofs import rank
from mobilette.workflows.fit_record import CLOCK, LINES, PLAN, Fitted, read_plan
from mobilette.workflows.fit_trial import judge
from tests.conftest import write_images
from tests.latency import device_table
from tests.training.runs import Ticks
from tests.workflows.fits import asked, fit_small

pytest.importorskip("optuna")

# The classes of each colour's images, where an image may have several.
SEVERAL = (("red", "red;warm"), ("green", "green"), ("blue", "blue"))


def test_the_result_is_verified_and_within_the_budget(fitted: Fitted, data: Path) -> None:
    assert fitted.passed
    assert fitted.artifact is not None
    assert verify(fitted.artifact.path, data).passed
    size, madds = fitted.terms
    files = fitted.artifact.path / fitted.artifact.contract.model
    assert size.measured == files.stat().st_size <= 1_000_000
    assert 0 < madds.measured <= 4_000_000
    assert fitted.top1 > 0.9  # three colours
    assert str(fitted.images) in fitted.why
    (answer,) = load(fitted.artifact.path).predict([next(data.rglob("*.png"))])
    assert answer.label in ("red", "green", "blue")


def test_a_fit_is_reported_on(fitted: Fitted, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    found = report(fitted.path, out=out)
    assert found.kind == "fit"
    assert found.fit is not None
    assert found.fit.chosen == fitted.key
    assert found.fit.why == fitted.why
    assert [met for _, _, met in found.fit.terms] == [term.passed for term in fitted.terms]
    raced = {one.key: one.top1 for one in found.fit.candidates}
    assert set(raced) == {each.key for each in read_plan(fitted.path).contenders}
    assert raced[fitted.key] is not None
    assert [one.verified for one in found.artifacts] == [True]
    assert found.measured is not None
    assert found.measured.metrics.top1 == fitted.top1  # the artifact's, by its engine
    page = out.read_text(encoding="utf-8")
    assert all(key in page for key in raced)


def test_the_race_is_recorded(fitted: Fitted) -> None:
    plan = read_plan(fitted.path)
    lines = [json.loads(text) for text in (fitted.path / LINES).read_text().splitlines()]
    assert list(fitted.lines) == lines
    trained = [line for line in lines if line["what"] == "trained"]
    places = [(line["key"], line["round"]) for line in trained]
    assert len(places) == len(set(places))
    assert {key for key, _ in places} <= {each.key for each in plan.contenders}
    families = {each.family for each in plan.contenders if (each.key, 0) in places}
    assert len(families) > 1
    assert json.loads((fitted.path / "result.json").read_text()) == fitted.to_json()


def test_a_training_that_wins_is_continued_not_restarted(fitted: Fitted) -> None:
    """The rate is constant until the end, where it falls; epochs are counted on."""
    history = open_run(fitted.path / "runs" / fitted.key).history()
    epochs = [row["epoch"] for row in history]
    assert epochs == sorted(epochs)
    rates = [row["lr"] for row in history]
    assert rates[-1] < 0.2 * max(rates)


def test_of_several_labels_the_mean_average_precision_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", 20)
    rows = ["path,labels"]
    rows += [f"images/{name}/{i}.png,{labels}" for name, labels in SEVERAL for i in range(20)]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    found = fit_small(tmp_path / "list.csv", tmp_path / "out", names=("resnet8",), seconds=50.0)
    assert found.artifact is not None
    assert found.measure == "mean average precision"
    assert found.top1 == pytest.approx(evaluate(found.artifact, tmp_path / "list.csv").score)
    assert "mean average precision" in found.why
    assert " right" not in found.why
    assert command(["fit", "--resume", str(found.path)]) == 0
    printed = capsys.readouterr()
    assert f"mean average precision {found.top1:.2%} on {found.images}" in printed.out
    assert "top-1" not in printed.out + printed.err


def test_where_a_proof_takes_long_the_first_comes_after_seconds(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first training is over, and calibrated with fewer images."""
    monkeypatch.setattr("mobilette.workflows.fit_race.SLOW_TO_PROVE", ("onnx",))
    said: list[str] = []
    out = tmp_path / "out"
    found = run_fit(
        asked(data, precision="int8", names=("resnet8",), seconds=100.0),
        out=out,
        sitting=Sitting(now=Ticks(0.04), reporter=Reporter(remark=said.append)),
    )
    first, *lines = found.lines
    assert (first["what"], first["quick"]) == ("proved", True)
    assert next(line["key"] for line in lines if line["what"] == "trained") == first["key"]
    assert not any(line["quick"] for line in lines if line["what"] == "proved")
    early, *later = (text for text in said if text.startswith("int8 is calibrated with"))
    assert early.startswith("int8 is calibrated with 32 images")
    assert all(text.startswith("int8 is calibrated with 72 images") for text in later)


def test_a_term_that_is_missed_is_named_and_the_best_effort_kept(
    data: Path, tmp_path: Path
) -> None:
    found = fit_small(data, tmp_path / "out", budget="madds<=4M, top1>=99.99999%", seconds=40.0)
    if found.top1 < 1.0:
        assert not found.passed
    assert [term.passed for term in found.terms] == [True, found.top1 == 1.0]
    assert found.artifact is not None


# Bad requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": None}, "what may it cost"),
        ({"budget": "size<=10B"}, "no network fits the budget .* the smallest of these networks"),
        ({"budget": "size<=1MB, size<=2MB"}, "limits size twice"),
        ({"budget": "size<=1XB"}, "unit 'XB' of size is not one of"),
        ({"budget": "latency<=1ms@onx"}, "did you mean 'onnx'"),
        ({"budget": "latency<=1ms@onnx", "to": "litert"}, "but the target is litert"),
        ({"scene": "phne"}, "did you mean 'phone'"),
        ({"time": "5s"}, "too short to train and prove; 20s is the least"),
        ({"time": "5"}, "has no unit"),
        ({"models": "mobilnet*"}, "no network matches"),
        ({"starts": ["nowhere"]}, "nowhere"),
        ({"to": "onx"}, "did you mean 'onnx'"),
        ({"to": "mcu", "precision": "fp32"}, "mcu: precision"),
        ({"precision": "fp16"}, "precision"),
        ({"budget": "latency<=1ms@onnx, latency<=1ms@litert"}, "one engine can be limited"),
        ({"device": "cudaa"}, "cudaa"),
        ({"teacher": "nowhere"}, "--teacher 'nowhere'"),
        ({"storage": "postgresql://me:secret@127.0.0.1:1/x"}, "cannot be reached"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message) as caught:
        fit(data, **({"budget": "size<=1MB"} | options), out=out)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not out.exists()


def test_a_time_too_short_for_any_training_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no network could be trained; .* is too short"):
        run_fit(asked(data), out=tmp_path / "out", sitting=Sitting(now=Ticks(2.0)))


def test_the_command_prints_one_json_value(
    fitted: Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(fitted.path, tmp_path / "fit"))
    assert command(["fit", "--resume", str(out), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["passed"]
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"| `fit` | `{', '.join(found)}` |" in page
    with Image.open(out / "fit.png") as image:
        assert np.asarray(image).std() > 0


def test_an_interpolated_prediction_is_said(
    exported: Artifact, trained: Run, tmp_path: Path
) -> None:
    (layer, *_) = {step.layer for step in fused_layers(trained.arch)}
    path = tmp_path / "pi4.json"
    table = device_table([layer])
    write_latency_table(table, path)
    want = wanted(f"latency<=1s@{path}, madds<=1G", scene=None, to="onnx", precision="fp32")
    latency, madds = judge(want, exported, trained.arch, top1=1.0)
    assert latency.remark == interpolated([trained.arch], table) != ""
    assert madds.remark == ""


def test_what_planning_takes_is_of_the_time(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that is killed while it makes a latency table goes on, and what that took is gone."""
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))  # where no table is
    now, out = Ticks(), tmp_path / "out"
    told: list[dict[str, Any]] = []

    def killed(*_: object, reporter: Reporter, **__: object) -> None:
        now.time += 100.0
        reporter.remark("measured some layers")
        raise KeyboardInterrupt

    monkeypatch.setattr("mobilette.workflows.fit_plan.build_latency_table", killed)
    request = asked(data, budget="latency<=50ms@onnx", seconds=2000.0)

    def spent() -> float:
        return float(json.loads((out / CLOCK).read_text())["seconds"])

    with pytest.raises(KeyboardInterrupt):
        run_fit(request, out=out, sitting=Sitting(now=now), on_line=told.append)
    assert spent() == pytest.approx(100.0, abs=5.0)
    with pytest.raises(KeyboardInterrupt):
        go_on(out, request, sitting=Sitting(now=now))
    assert spent() == pytest.approx(200.0, abs=10.0)
    assert not (out / PLAN).exists()
    assert told == [{"what": "planning", "folder": str(out)}]


def test_a_budget_that_only_the_table_shows_to_be_impossible_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))  # where no table is
    table = device_table([fused_layers(get_arch("resnet8"))[0].layer], overhead_ms=100.0)
    monkeypatch.setattr("mobilette.workflows.fit_plan.build_latency_table", lambda *_, **__: table)
    request = asked(data, budget="latency<=50ms@onnx", seconds=1000.0)
    with pytest.raises(InputError, match="no network fits the budget"):
        run_fit(request, out=tmp_path / "out", sitting=Sitting())
    assert not (tmp_path / "out").exists()


def test_the_cheapest_that_reaches_an_accuracy_is_kept() -> None:
    want = wanted("top1>=90%", scene=None, to=None, precision=None)
    cheap = {"passed": True, "cost": 1e6, "top1": 0.92}
    dear = {"passed": True, "cost": 2e6, "top1": 0.99}
    missed = {"passed": False, "cost": 1e5, "top1": 0.8}
    assert max([dear, missed, cheap], key=lambda line: rank(line, want)) == cheap
