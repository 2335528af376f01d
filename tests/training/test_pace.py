from __future__ import annotations

import time

import numpy as np
import pytest

from mobilette.data.dataset import Dataset
from mobilette.data.split import Split
from mobilette.training.pace import Pace
from mobilette.training.recipe import Recipe
from mobilette.training.state import Progress


def pace(*, validated: int, time_limit: float) -> Pace:
    splits = {
        name: Split(
            pixels=np.zeros((count, 3, 1, 1), np.uint8),
            labels=np.zeros(count, np.int64),
            names=tuple(map(str, range(count))),
        )
        for name, count in (("train", 100), ("val", validated))
    }
    dataset = Dataset(
        classes=("a", "b"),
        splits=splits,
        left_out=(),
        ignored=0,
        fingerprint="",
        digest="files",
        copies=None,
        flippable=True,
        source="",
        split_rule="",
    )
    return Pace(
        Recipe(time_limit=time_limit),
        dataset,
        steps=10,
        batch=10,
        processes=1,
        started=time.perf_counter(),
    )


@pytest.mark.parametrize("slow", [1, 2, 3])
def test_one_slow_step_at_the_start_does_not_end_a_run(slow: int) -> None:
    """Ten seconds of one step, told of all, would make validation take an hour."""
    run = pace(validated=10_000, time_limit=40)
    for number in range(5):
        run.step_took(10.0 if number == slow else 0.001)
        assert run.part_done(Progress(), longest_save=0.0) < 0.5


def test_what_validation_will_take_is_guessed_from_steps() -> None:
    run = pace(validated=10_000, time_limit=40)
    for _ in range(5):
        run.step_took(0.02)
    assert run.seconds_of_validation() == pytest.approx(0.5 * (10_000 + 100) / 10 * 0.02)
    run.validation_took(3.0)
    assert run.seconds_of_validation() == 3.0
