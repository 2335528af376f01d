"""What a fit does with more time: refines the leader, cuts a start, and lets a teacher teach."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mobilette.counting.cost import cost
from mobilette.files import read_record
from mobilette.model.directory import ENVIRONMENT
from mobilette.run.directory import METRICS, Run, open_run
from mobilette.search.contender import Contender
from mobilette.search.race import REFINED, plan_rounds
from mobilette.search.study import open_study
from mobilette.training.events import Sitting
from mobilette.training.recipe import load_recipe
from mobilette.workflows import fit_cut, fit_plan
from mobilette.workflows.fit import run_fit
from mobilette.workflows.fit_cut import Cutting
from mobilette.workflows.fit_proofs import Proofs
from mobilette.workflows.fit_reasons import teacher_text
from mobilette.workflows.fit_record import REFINEMENT, Clock, Journal
from mobilette.workflows.fit_refine import Refinement
from mobilette.workflows.fit_teacher import Teachers
from mobilette.workflows.fit_trial import Trial
from tests.conftest import write_images
from tests.training.runs import Ticks
from tests.workflows.fits import asked, fit_small

pytest.importorskip("optuna")


def test_with_time_the_leader_is_refined_and_a_start_cut_to_the_budget(
    misled: Path, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks one change away inherit its weights, and are trained as it was.

    No network that fits learns anything here, so that the start is ahead of the leader. The race
    before is of few, and each cut is tried in few ways: what comes after them is the same.
    """
    monkeypatch.setattr(
        fit_plan,
        "plan_rounds",
        lambda available, *, networks, first: plan_rounds(available, networks=3, first=first),
    )
    monkeypatch.setattr(fit_cut, "MOST", 2)
    monkeypatch.setattr(fit_cut, "STEPS", 2)
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
        sitting=Sitting(now=Ticks(1.0)),
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
