"""Options of `train` that are keys of the recipe, and the functions that it calls."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

import mobilette
from mobilette.errors import InputError
from mobilette.training.events import EpochDone, Event, StepDone
from mobilette.training.recipe import load_recipe, merge_keys
from tests.training.runs import same_weights

train_small = partial(
    mobilette.train, model="mobilenet_v1", width_mult=0.25, resolution=16, workers=0
)


def test_options_are_keys_of_the_recipe(images: Path, tmp_path: Path) -> None:
    run = train_small(images, epochs=1, batch_size=16, lr=0.01, seed=3, out=tmp_path / "run")
    recipe = load_recipe(run.path / "recipe.toml")
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.seed) == (1, 16, 0.01, 3)


@pytest.mark.parametrize(("time", "seconds"), [(90, 90), ("90s", 90.0), ("1.5m", 90.0)])
def test_a_time_is_a_number_of_seconds_or_text(time: float | str, seconds: float) -> None:
    assert merge_keys({"lr": 0.1}, time=time) == {"lr": 0.1, "time_limit": seconds}


def test_the_same_value_given_twice_is_no_contradiction() -> None:
    assert merge_keys({"epochs": 3}, epochs=3) == {"epochs": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 3, "overrides": {"epochs": 1}}, "epochs is given twice: 3 .* 1 "),
        (
            {"time": "10m", "overrides": {"time_limit": 9}},
            "time_limit is given twice: 600",
        ),
        ({"time": "10m", "epochs": 1}, "give one of them"),
        ({"time": 0}, "time 0 is too short"),
        ({"time": "soon"}, "'soon' is not a duration"),
        ({"epochs": 0}, "epochs 0 is not between"),
        ({"lr": -0.5}, r"lr -0\.5 is not between"),
        ({"epochs": "many"}, "epochs is 'many', not a whole number"),
        ({"epoch": 3}, "no option 'epoch'; did you mean epochs"),
        ({"callbacks": [print, 3]}, "callbacks: 3 is not a function"),
        ({"callbacks": print}, "callbacks is .*print.*, not a list of functions"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(
    images: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        train_small(images, **options, out=tmp_path / "run")  # type: ignore[arg-type]
    assert re.search(message, str(refused.value))
    assert not (tmp_path / "run").exists()


def test_an_exception_in_a_callback_stops_a_run_that_can_be_resumed(
    images: Path, tmp_path: Path
) -> None:
    """It is raised after the step, with the state saved."""
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if isinstance(event, StepDone) and (event.epoch, event.step) == (1, 2):
            raise ValueError("enough")

    keys = {"epochs": 3, "batch_size": 16, "save_every": 100}
    whole = train_small(images, overrides=keys, out=tmp_path / "whole")
    with pytest.raises(ValueError, match="enough"):
        train_small(images, overrides=keys, out=tmp_path / "part", callbacks=[stop])
    assert isinstance(seen[-1], StepDone)
    assert [event.epoch for event in seen if isinstance(event, EpochDone)] == [1]
    seen.clear()
    mobilette.resume(tmp_path / "part", callbacks=[seen.append])
    first = seen[0]
    assert isinstance(first, StepDone)
    assert (first.epoch, first.step) == (1, 3)
    assert same_weights(whole.path, tmp_path / "part")


def test_an_exception_after_the_last_epoch_leaves_a_finished_run(
    images: Path, tmp_path: Path
) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"):
        train_small(images, epochs=1, out=tmp_path / "run", callbacks=[fail])
    assert mobilette.resume(tmp_path / "run").history()[-1]["epoch"] == 1
