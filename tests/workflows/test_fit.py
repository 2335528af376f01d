"""`fit`: images and a budget in, a verified artifact within it out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilette.arch.catalogue import get_arch
from mobilette.artifact.directory import Artifact
from mobilette.cli.main import run as command
from mobilette.counting.cost import cost
from mobilette.counting.fused_layers import fused_layers
from mobilette.counting.latency import (
    LatencyTable,
    MeasuredLayer,
    interpolated,
    write_latency_table,
)
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.files import read_record
from mobilette.model.directory import ENVIRONMENT
from mobilette.progress import Reporter
from mobilette.reporting.report import report
from mobilette.run.directory import METRICS, Run, open_run
from mobilette.search.contender import Contender
from mobilette.search.race import REFINED
from mobilette.search.scenes import wanted
from mobilette.search.study import open_study
from mobilette.training.events import EpochDone, Event, Sitting
from mobilette.training.recipe import load_recipe
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from mobilette.workflows.fit import fit, go_on, resume_fit, run_fit
from mobilette.workflows.fit_cut import Cutting
from mobilette.workflows.fit_proofs import Proofs, rank
from mobilette.workflows.fit_reasons import teacher_text
from mobilette.workflows.fit_record import (
    CLOCK,
    FIT,
    LINES,
    PLAN,
    REFINEMENT,
    Clock,
    FitRequest,
    Fitted,
    Journal,
    read_plan,
)
from mobilette.workflows.fit_refine import Refinement
from mobilette.workflows.fit_teacher import Teachers
from mobilette.workflows.fit_trial import Trial, judge
from tests.conftest import write_images
from tests.training.runs import Ticks

pytest.importorskip("optuna")

# The classes of each colour's images, where an image may have several.
SEVERAL = (("red", "red;warm"), ("green", "green"), ("blue", "blue"))
BUDGET = "size<=1MB, madds<=4M"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("fit") / "set", 30)


def asked(data: Path, **changes: Any) -> FitRequest:
    values = FitRequest(
        data=str(data),
        budget=BUDGET,
        scene=None,
        to=None,
        precision="fp32",
        seconds=60.0,
        starts=(),
        teacher=None,
        names=("mobilenet_v1", "resnet8", "shufflenet_v2", "squeezenet1_1_bn"),
        max_drop=1.0,
        seed=0,
        storage=None,
        device="cpu",
        workers=0,
        max_unusable=0.1,
        holdout=None,
        groups=None,
        study="fit of a test",
    )
    return replace(values, **changes)


def fit_small(data: Path, out: Path, **changes: Any) -> Fitted:
    """Fit by a clock that goes by whenever it is asked, so that the machine's speed is nothing."""
    return run_fit(asked(data, **changes), out=out, sitting=Sitting(now=Ticks(0.04)))


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_small(data, tmp_path_factory.mktemp("fit") / "out")


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


def test_a_stopped_fit_goes_on(data: Path, tmp_path: Path) -> None:
    """Whatever is in hand is continued; nothing that is finished is done again."""
    events = 0

    def stop(event: Event) -> None:
        nonlocal events
        events += isinstance(event, EpochDone)
        if events == 6:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_fit(asked(data), out=out, sitting=Sitting(now=Ticks(0.04), report=stop))
    before = [(line["key"], line["round"]) for line in Journal(out, print).lines("trained")]
    found = go_on(out, asked(data), sitting=Sitting(now=Ticks(0.04)))
    after = [(line["key"], line["round"]) for line in Journal(out, print).lines("trained")]
    assert after[: len(before)] == before
    assert len(after) == len(set(after))
    assert found.passed


def test_a_finished_fit_is_returned(fitted: Fitted) -> None:
    again = resume_fit(fitted.path)
    assert again.artifact is not None
    assert again.to_json() | {"seconds": 0} == fitted.to_json() | {"seconds": 0}


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
    table = LatencyTable(
        engine="onnx",
        engine_version="1",
        precision="fp32",
        threads=1,
        machine="a device",
        overhead_ms=1.0,
        corrections={},
        layers=(MeasuredLayer(layer=layer, milliseconds=1.0),),
    )
    write_latency_table(table, path)
    want = wanted(f"latency<=1s@{path}, madds<=1G", scene=None, to="onnx", precision="fp32")
    latency, madds = judge(want, exported, trained.arch, top1=1.0)
    assert latency.remark == interpolated([trained.arch], table) != ""
    assert madds.remark == ""


def test_other_images_are_refused(fitted: Fitted, data: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(fitted.path, tmp_path / "fit"))
    values = json.loads((place / FIT).read_text())
    fewer = Path(shutil.copytree(data, tmp_path / "set"))
    next(fewer.rglob("*.png")).unlink()
    (place / FIT).write_text(json.dumps(values | {"data": str(fewer)}))
    with pytest.raises(InputError, match="the images have changed since the fit was begun"):
        resume_fit(place)


def test_other_pixels_in_the_same_files_are_refused(
    fitted: Fitted, data: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(fitted.path, tmp_path / "fit"))
    values = json.loads((place / FIT).read_text())
    other = Path(shutil.copytree(data, tmp_path / "set"))
    (place / FIT).write_text(json.dumps(values | {"data": str(other)}))
    assert resume_fit(place).passed  # the same ones in another place
    path = next(other.rglob("*.png"))
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size).save(path)
    with pytest.raises(InputError, match="as many, with other content; start a new fit"):
        resume_fit(place)


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
    table = LatencyTable(
        engine="onnx",
        engine_version="1",
        precision="fp32",
        threads=1,
        machine="a device",
        overhead_ms=100.0,
        corrections={},
        layers=(MeasuredLayer(layer=fused_layers(get_arch("resnet8"))[0].layer, milliseconds=1.0),),
    )
    monkeypatch.setattr("mobilette.workflows.fit_plan.build_latency_table", lambda *_, **__: table)
    request = asked(data, budget="latency<=50ms@onnx", seconds=1000.0)
    with pytest.raises(InputError, match="no network fits the budget"):
        run_fit(request, out=tmp_path / "out", sitting=Sitting())
    assert not (tmp_path / "out").exists()


def test_half_a_line_of_a_killed_process_is_no_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, lambda line: None)
    journal.add("trained", key="a")
    with (tmp_path / LINES).open("a") as file:
        file.write('{"what": "tra')
    journal.add("trained", key="b")
    assert [line["key"] for line in journal.lines("trained")] == ["a", "b"]


def test_a_process_that_joins_later_ends_when_the_first_does(tmp_path: Path) -> None:
    """Its clock began at what was recorded, which is never the very last."""
    first = Clock(tmp_path, 60.0, Sitting(now=lambda: 40.0))
    second = Clock(tmp_path, 60.0, Sitting(now=lambda: 33.0))
    first.save()
    second.save()
    assert second.left == first.left == 20.0
    first.save()
    assert first.left == 20.0


def test_a_lost_artifact_is_no_success(fitted: Fitted, tmp_path: Path) -> None:
    place = Path(shutil.copytree(fitted.path, tmp_path / "fit"))
    shutil.rmtree(place / "artifact")
    found = resume_fit(place)
    assert not found.passed
    assert found.artifact is None


def test_the_cheapest_that_reaches_an_accuracy_is_kept() -> None:
    want = wanted("top1>=90%", scene=None, to=None, precision=None)
    cheap = {"passed": True, "cost": 1e6, "top1": 0.92}
    dear = {"passed": True, "cost": 2e6, "top1": 0.99}
    missed = {"passed": False, "cost": 1e5, "top1": 0.8}
    assert max([dear, missed, cheap], key=lambda line: rank(line, want)) == cheap


def test_resuming_takes_no_images(data: Path, tmp_path: Path) -> None:
    assert command(["fit", str(data), "--resume", str(tmp_path)]) == 2
    assert command(["fit", "--resume", str(tmp_path)]) == 2


# The refinement


def test_with_time_the_leader_is_refined_and_a_start_cut_to_the_budget(
    misled: Path, trained: Run, tmp_path: Path
) -> None:
    """Networks one change away inherit its weights, and are trained as it was.

    No network that fits learns anything here, so that the start is ahead of the leader.
    """
    limit = int(0.7 * cost(trained.arch).madds)
    found = run_fit(
        asked(
            misled,
            budget=f"madds<={limit}",
            seconds=700.0,
            names=("mobilenet_v1",),
            starts=(str(trained.path),),
        ),
        out=tmp_path / "out",
        sitting=Sitting(now=Ticks(0.5)),
    )
    refinement = read_record(found.path / REFINEMENT, Refinement)
    assert refinement.contenders
    key = f"{trained.path.name}-cut"
    refined = {line["key"] for line in found.lines if line.get("round") == REFINED}
    assert refined == {refinement.leader, key, *(each.key for each in refinement.contenders)}
    leader = open_run(found.path / "runs" / refinement.leader)
    for each in refinement.contenders:
        run = open_run(found.path / "runs" / each.key)
        assert run.arch != leader.arch
        assert json.loads((run.path / ENVIRONMENT).read_text())["start"] == each.start
    assert refinement.over == str(trained.path.resolve())
    (line,) = (line for line in found.lines if line["what"] == "cut")
    assert line["of"] == refinement.over
    assert line["madds"] == cost(open_run(found.path / "runs" / key).arch).madds <= limit
    assert found.passed


def test_what_is_cut_is_over_the_budget_and_ahead(
    images: Path, trained: Run, tmp_path: Path
) -> None:
    def subject(budget: str, top1: float) -> str:
        leader = with_accuracy(trained, tmp_path / budget / str(top1), top1)
        met = teachers(tmp_path, images, budget=budget, starts=(str(trained.path),))
        proofs = Proofs(
            asked=met.asked,
            clock=Clock(tmp_path, 60.0, Sitting()),
            journal=met.journal,
            trial=met.trial,
        )
        with open_study(tmp_path, None) as study:
            cutting = Cutting(study=study, proofs=proofs, teachers=met)
            return cutting.subject(open_run(leader))

    needs = cost(trained.arch)
    assert subject(f"madds<={needs.madds - 1}", 0.5) == str(trained.path.resolve())
    assert subject(f"size<={needs.size_bytes.fp32}", 0.5)  # a file is more than its weights
    assert subject(f"madds<={needs.madds - 1}", 1.0) == ""
    assert subject(f"madds<={needs.madds}", 0.5) == ""


# The teacher


@pytest.fixture(scope="module")
def misled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images of which those to train on are in the wrong classes, those to judge in theirs.

    What is trained on them is wrong of every held-out image.
    """
    root = tmp_path_factory.mktemp("misled")
    right = write_images(root / "right", 30, seed=7)
    names = ("red", "green", "blue")
    for name, other in zip(names, (*names[1:], names[0]), strict=True):
        shutil.copytree(right / name, root / "set" / "train" / other)
    write_images(root / "set" / "val", 20, seed=8)
    return root / "set"


def test_the_last_training_learns_from_the_best_network_met(
    misled: Path, trained: Run, tmp_path: Path
) -> None:
    found = fit_small(misled, tmp_path / "out", starts=(str(trained.path),), names=("resnet8",))
    (line,) = (line for line in found.lines if line["what"] == "taught")
    its, own = line["ahead"]
    assert its > own + 0.5
    recipe = load_recipe(found.path / "runs" / line["key"] / "recipe.toml")
    assert recipe.teacher == line["by"] == str(trained.path.resolve())
    assert f"its teacher was {trained.path.name}, the best network met" in found.why


def teachers(folder: Path, data: Path, *keys: str, **changes: Any) -> Teachers:
    """Return the teachers of a fit whose runs, trained in this order, are in ``folder``."""
    journal = Journal(folder, lambda line: None)
    for key in keys:
        journal.add("trained", key=key, round=0, seconds=1.0, top1=0.0)
    request = asked(data, **changes)
    trial = Trial(asked=request, folder=folder, sitting=Sitting())
    return Teachers(asked=request, journal=journal, trial=trial)


def with_accuracy(run: Run, path: Path, top1: float) -> Path:
    """Copy a run and let its metrics have another accuracy."""
    shutil.copytree(run.path, path)
    header, *rows = (path / METRICS).read_text().splitlines()
    at = header.split(",").index("top1")
    cells = [row.split(",") for row in rows]
    lines = [",".join((*row[:at], str(top1), *row[at + 1 :])) for row in cells]
    (path / METRICS).write_text("\n".join([header, *lines]) + "\n")
    return path


def contender(key: str) -> Contender:
    return Contender(
        key=key,
        name="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        start="scratch",
        params=1,
        madds=1,
        size_bytes=1,
        ram_bytes=1,
    )


def test_a_network_that_raced_teaches_if_it_is_clearly_ahead_and_leaves_time(
    images: Path, trained: Run, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with_accuracy(trained, runs / "a", 0.8)
    with_accuracy(trained, runs / "b", 0.9)
    with_accuracy(trained, runs / "c", 0.805)
    assert teachers(tmp_path, images, "a", "c").choose(contender("a"), 1e3) is None
    assert teachers(tmp_path, images, "b").choose(contender("a"), 1e-3) is None
    found = teachers(tmp_path, images).choose(contender("a"), 1e3)
    assert found == str((runs / "b").resolve())
    with_accuracy(trained, runs / "d", 0.95)
    again = teachers(tmp_path, images, "d")
    assert again.choose(contender("a"), 1e3) == found  # as before a restart
    assert again.choose(contender("d"), 1e3) is None


def test_a_teacher_that_is_given_is_taken(images: Path, trained: Run, tmp_path: Path) -> None:
    with_accuracy(trained, tmp_path / "runs" / "a", 0.5)
    fitting = teachers(tmp_path, images, starts=(str(trained.path),), teacher="runs/mine")
    assert fitting.choose(contender("a"), 1e3) == "runs/mine"
    (line,) = fitting.journal.lines("taught")
    assert teacher_text(line) == "runs/mine, as asked"


def test_runs_of_other_classes_are_no_teachers(images: Path, trained: Run, tmp_path: Path) -> None:
    with_accuracy(trained, tmp_path / "runs" / "a", 0.5)
    other = Path(shutil.copytree(trained.path, tmp_path / "other"))
    (other / "classes.txt").write_text("blue\tblue\ngreen\tgreen\nyellow\tyellow\n")
    fitting = teachers(tmp_path, images, starts=(str(other),))
    assert fitting.choose(contender("a"), 1e3) is None
    fitting = teachers(tmp_path, images, starts=(str(trained.path), str(other)))
    assert fitting.choose(contender("a"), 1e3) == str(trained.path.resolve())
