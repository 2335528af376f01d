from __future__ import annotations

import pytest

from mobilette.training.recipe import Recipe
from mobilette.training.state import Progress
from mobilette.training.time_plan import Pace


def pace(*, validation: float) -> Pace:
    return Pace(
        Recipe(time_limit=40.0),
        steps=10,
        started=0.0,
        validation=validation,
        now=lambda: 10.0,
    )


@pytest.mark.parametrize("slow", [1, 2, 3])
def test_one_slow_step_at_the_start_does_not_end_a_run(slow: int) -> None:
    run = pace(validation=0.5)
    for number in range(5):
        run.step_took(10.0 if number == slow else 0.001)
        assert run.part_done(Progress(), longest_save=0.0) < 0.5


def test_dear_steps_do_not_make_a_validation_dear() -> None:
    """With a teacher a step takes long, and a validation, which has none, what was measured."""
    run = pace(validation=0.5)
    for _ in range(5):
        run.step_took(2.0)
    assert run.part_done(Progress(), longest_save=0.0) == pytest.approx(10 / (40 - 1.15 * 2.5))
    run.validation_took(3.0)
    assert run.part_done(Progress(), longest_save=0.0) == pytest.approx(10 / (40 - 1.15 * 5))
