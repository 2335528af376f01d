"""What of a pruning's time is for fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run, open_run
from mobilette.training.events import Sitting
from mobilette.training.recipe import SLICED, load_recipe
from mobilette.training.time_plan import TooShortError
from mobilette.workflows.prune import prune, run_prune
from mobilette.workflows.prune_images import HeldImages
from mobilette.workflows.prune_time import (
    TUNING_SHARE,
    CutCosts,
    PruningTime,
    measure_cut,
    plan_pruning,
)
from tests.training.runs import Ticks

some = st.floats(0, 1_000)


@given(
    limit=st.floats(0.1, 1e5),
    spent=some,
    costs=st.tuples(some, some, some),
    steps=st.integers(1, 9),
)
def test_fine_tuning_keeps_its_share_or_a_time_is_proposed_that_is_accepted(
    limit: float, spent: float, costs: tuple[float, float, float], steps: int
) -> None:
    cut, accuracy, reading = costs
    found = CutCosts(cut=cut, accuracy=accuracy, reading=min(reading, spent))
    try:
        plan = plan_pruning(limit, spent=spent, costs=found, steps=steps)
    except TooShortError as refused:
        limit = max(refused.needed, limit)
        plan = plan_pruning(limit, spent=spent, costs=found, steps=steps)
    assert steps * plan >= TUNING_SHARE * limit * (1 - 1e-9)


def test_the_minute_that_scoring_took_is_refused() -> None:
    """Of 60 s scoring and accuracies took all, and fine-tuning got one second."""
    costs = CutCosts(cut=25.0, accuracy=8.0, reading=0.0)
    with pytest.raises(TooShortError) as refused:
        plan_pruning(60, spent=10, costs=costs, steps=1)
    assert str(refused.value) == (
        "a time of 60s is too short: reading, scoring and cutting take 57.1 s of it, and "
        "fine-tuning has at least 50%; 138s would do"
    )
    plan = plan_pruning(138, spent=10, costs=costs, steps=1)
    assert plan == pytest.approx(138 - 10 - 1.15 * (25 + 2 * 8))


def test_steps_are_fine_tuned_for_as_long_as_each_other() -> None:
    """The second cut is measured as well before what is left is shared."""
    now = Ticks()
    said: list[str] = []
    sitting = Sitting(now=now, reporter=Reporter(remark=said.append)).begin()
    time = PruningTime(100.0, steps=2, sitting=sitting)
    now.time += 10
    time.plan(CutCosts(cut=10.0, accuracy=4.0, reading=0.0))
    assert said == ["in 100s: 46.8 s to read, score, cut and judge, 2 times 26.6 s of fine-tuning"]
    now.time += 1.15 * (4 + 4 + 10)
    assert time.of_tuning(2) == pytest.approx(26.6, abs=0.1)
    now.time += time.of_tuning(2) + 1.15 * (10 + 4)
    assert time.of_tuning(1) == pytest.approx(26.6, abs=0.1)
    now.time += 100
    assert 0 < time.of_tuning(1) < 0.01  # none would be no limit


def test_what_is_measured_on_a_few_images_stands_for_all(
    trained: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tenth of a second for each image that is scored, and one for each judged."""
    now, asked = Ticks(), []
    taylor, accuracy = HeldImages.taylor, HeldImages.accuracy

    def score(self: HeldImages, model: Model, number: int) -> object:
        now.time += 0.1 * number
        asked.append(number)
        return taylor(self, model, number)

    def judge(self: HeldImages, model: Model, number: int) -> float:
        now.time += number
        asked.append(number)
        return accuracy(self, model, number)

    monkeypatch.setattr(HeldImages, "taylor", score)
    monkeypatch.setattr(HeldImages, "accuracy", judge)
    held = HeldImages(
        find_images(images),
        trained.model,
        device=trained.network.state_dict()["stem.conv.weight"].device,
        reading=Reading(workers=0),
        reporter=SILENT,
        now=now,
    )
    with held:
        costs = measure_cut(held, trained.model, importance="taylor", cutting=2.0, now=now)
    assert asked == [2, 32, 2, 24]
    assert costs.cut == pytest.approx(2.0 + 0.1 * 96, abs=0.3)
    assert costs.accuracy == pytest.approx(24.0, abs=0.3)
    assert (costs.reading, held.seconds > 0) == (0.0, True)


def test_the_plan_is_said_before_anything_is_cut_and_kept(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    def pruned(limit: float, said: list[str]) -> Run:
        return run_prune(
            trained,
            images,
            keep=0.7,
            recipe=load_recipe(SLICED, overrides={"batch_size": 16, "time_limit": limit}),
            limits_all=True,
            out=tmp_path / "out",
            reading=Reading(workers=0),
            sitting=Sitting(now=Ticks(), reporter=Reporter(remark=said.append)),
        )

    with pytest.raises(TooShortError, match="fine-tuning has at least 50%; .* would do") as refused:
        pruned(0.2, [])
    assert not (tmp_path / "out").exists()
    said: list[str] = []
    limit = refused.value.needed + 3  # less than a second is too short for the steps themselves
    run = pruned(limit, said)
    plan = next(number for number, line in enumerate(said) if "s of fine-tuning" in line)
    cut = next(number for number, line in enumerate(said) if "after the cut" in line)
    assert plan < cut
    tuning = load_recipe(run.path / "recipe.toml").time_limit
    assert tuning >= TUNING_SHARE * limit
    assert open_run(run.path).history()[-1]["seconds"] <= tuning


def test_a_recipe_with_a_time_of_its_own_is_refused_in_its_own_words(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(TooShortError, match="are over before the first step"):
        prune(
            trained,
            images,
            keep=0.7,
            overrides={"time_limit": 0.01},
            out=tmp_path / "out",
            workers=0,
        )
