"""What is done in a time, decided from costs alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.training.time_plan import (
    FROZEN_SHARE,
    LEAST_STEPS,
    Costs,
    TimePlan,
    TooShortError,
    plan_time,
)

seconds = st.floats(0.0001, 100)


@given(
    limit=st.floats(0.1, 1e5),
    spent=st.floats(0, 1e4),
    step=seconds,
    frozen=st.floats(0.01, 1),
    validation=st.floats(0, 1_000),
    pictures=st.integers(2, 100_000),
    batch=st.integers(2, 256),
    frozen_epochs=st.integers(0, 5),
)
def test_a_plan_fits_and_keeps_the_shares_or_proposes_a_time_that_is_accepted(
    limit: float,
    spent: float,
    step: float,
    frozen: float,
    validation: float,
    pictures: int,
    batch: int,
    frozen_epochs: int,
) -> None:
    costs = Costs(step=step, frozen_step=step * frozen, validation=validation)
    steps = max(pictures // batch, 1)

    def plan(time: float) -> TimePlan:
        return plan_time(
            time, spent=spent, costs=costs, steps_of_epoch=steps, frozen_epochs=frozen_epochs
        )

    try:
        made = plan(limit)
    except TooShortError as refused:
        limit = max(refused.needed, limit + 1e-9)
        made = plan(limit)
    least = min(LEAST_STEPS, steps)
    assert made.seconds <= limit
    assert made.frozen_steps <= frozen_epochs * steps
    assert made.steps >= least - 1  # a rounded division
    if frozen_epochs:
        assert made.frozen_steps >= least
        alone = made.frozen_steps * costs.frozen_step + validation
        training = limit - spent - 1.15 * (validation + step)
        assert alone <= FROZEN_SHARE * training * (1 + 1e-6) + costs.frozen_step
        assert made.steps * step >= (1 - FROZEN_SHARE) * training * (1 - 1e-6) - 2 * step


def test_more_time_is_never_less_training() -> None:
    costs = Costs(step=1.0, frozen_step=0.3, validation=2.0)
    plans = [
        plan_time(t, spent=5, costs=costs, steps_of_epoch=20, frozen_epochs=1)
        for t in range(30, 200)
    ]
    for one, other in pairwise(plans):
        assert other.steps + other.frozen_steps >= one.steps + one.frozen_steps


def test_transfer_on_a_busy_machine_trains_everything_too() -> None:
    """A frozen epoch that would take all of the time is cut short."""
    costs = Costs(step=3.0, frozen_step=1.0, validation=5.0)
    plan = plan_time(90, spent=6, costs=costs, steps_of_epoch=100, frozen_epochs=1)
    assert 20 < plan.frozen_steps < 40
    assert plan.steps * costs.step > 30


def test_a_second_for_a_minutes_work_is_refused_with_its_reasons() -> None:
    costs = Costs(step=1.0, frozen_step=0.5, validation=4.0)
    with pytest.raises(TooShortError) as refused:
        plan_time(1, spent=3, costs=costs, steps_of_epoch=50, frozen_epochs=1)
    assert str(refused.value) == (
        "a time of 1s is too short: 3.0 s are over before the first step, 8 steps take 8.0 s and a "
        "validation 4.0 s; 30s would do"
    )
    assert refused.value.needed == 30


@given(seconds, st.integers(2, 7))
def test_a_set_of_few_steps_needs_one_epoch(step: float, steps: int) -> None:
    costs = Costs(step=step, frozen_step=step, validation=0.0)
    limit = 1.2 * step * (steps + 2)
    plan = plan_time(limit, spent=0.0, costs=costs, steps_of_epoch=steps, frozen_epochs=0)
    assert plan.steps >= steps - 1
