"""What is done in a time, decided from costs alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.progress import Advance
from mobilette.training.time_plan import (
    FROZEN_SHARE,
    LEAST_STEPS,
    Costs,
    TimePlan,
    TooShortError,
    plan_time,
    timed_reading,
)

seconds = st.floats(0.0001, 100)


@given(
    limit=st.floats(0.1, 1e5),
    spent=st.floats(0, 1e4),
    step=seconds,
    frozen=st.floats(0.01, 1),
    validation=st.floats(0, 1_000),
    images=st.integers(2, 100_000),
    batch=st.integers(2, 256),
    frozen_epochs=st.integers(0, 5),
    reading=st.tuples(st.floats(0, 10), st.floats(0, 1)),
    overlap=st.booleans(),
)
def test_a_plan_fits_and_keeps_the_shares_or_proposes_a_time_that_is_accepted(
    limit: float,
    spent: float,
    step: float,
    frozen: float,
    validation: float,
    images: int,
    batch: int,
    frozen_epochs: int,
    reading: tuple[float, float],
    overlap: bool,
) -> None:
    first, part = reading
    costs = Costs(
        step=step,
        frozen_step=step * frozen,
        validation=validation,
        first_reading=first,
        reading=first * part,
        overlap=overlap,
    )
    steps = max(images // batch, 1)

    def plan(time: float) -> TimePlan:
        return plan_time(
            time,
            spent=spent,
            costs=costs,
            steps_of_epoch=steps,
            frozen_steps=frozen_epochs * steps,
            unread=steps,
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
    (slow_alone, alone), (slow, fast) = (costs.of_steps(frozen=each) for each in (True, False))
    if frozen_epochs:
        assert made.frozen_steps >= least
        unread = min(made.frozen_steps, steps)
        taken = unread * slow_alone + (made.frozen_steps - unread) * alone + validation
        training = limit - spent - 1.15 * (validation + max(slow, fast))
        assert taken <= FROZEN_SHARE * training * (1 + 1e-6) + slow_alone
    # What is left is used: one step more would not fit.
    unread = min(max(steps - made.frozen_steps, 0), made.steps)
    more = (made.steps - unread) * fast + unread * slow + slow
    used = (taken if frozen_epochs else 0.0) + more + 1.15 * (validation + max(slow, fast))
    assert spent + used >= limit * (1 - 1e-6)


def test_more_time_is_never_less_training() -> None:
    costs = Costs(step=1.0, frozen_step=0.3, validation=2.0)
    plans = [
        plan_time(t, spent=5, costs=costs, steps_of_epoch=20, frozen_steps=20)
        for t in range(30, 200)
    ]
    for one, other in pairwise(plans):
        assert other.steps + other.frozen_steps >= one.steps + one.frozen_steps


def test_transfer_on_a_busy_machine_trains_everything_too() -> None:
    """A frozen epoch that would take all of the time is cut short."""
    costs = Costs(step=3.0, frozen_step=1.0, validation=5.0)
    plan = plan_time(90, spent=6, costs=costs, steps_of_epoch=100, frozen_steps=100)
    assert 20 < plan.frozen_steps < 40
    assert plan.steps * costs.step > 30


def test_a_second_for_a_minutes_work_is_refused_with_its_reasons() -> None:
    costs = Costs(step=1.0, frozen_step=0.5, validation=4.0)
    with pytest.raises(TooShortError) as refused:
        plan_time(1, spent=3, costs=costs, steps_of_epoch=50, frozen_steps=50)
    assert str(refused.value) == (
        "a time of 1s is too short: 3.0 s are over before the first step, 8 steps take 8.0 s and a "
        "validation 4.0 s; 30s would do"
    )
    assert refused.value.needed == 30


@given(seconds, st.integers(2, 7))
def test_a_set_of_few_steps_needs_one_epoch(step: float, steps: int) -> None:
    costs = Costs(step=step, frozen_step=step, validation=0.0)
    limit = 1.2 * step * (steps + 2)
    plan = plan_time(limit, spent=0.0, costs=costs, steps_of_epoch=steps, frozen_steps=0)
    assert plan.steps >= steps - 1


def test_steps_wait_for_images_that_are_decoded_for_the_first_time() -> None:
    """60,000 JPEGs at 2,000 a second on a GPU whose steps of 128 take 10 ms."""
    costs = Costs(step=0.01, frozen_step=0.0, validation=1.0, first_reading=0.064, overlap=True)

    def plan(limit: float, unread: int) -> TimePlan:
        return plan_time(
            limit, spent=2, costs=costs, steps_of_epoch=468, frozen_steps=0, unread=unread
        )

    assert plan(20, 468).steps == int((18 - 1.15 * 1.064) / 0.064)
    left = 58 - 1.15 * 1.064 - 468 * 0.064
    assert plan(60, 468).steps == 468 + int(left / 0.01)
    assert plan(60, 0).steps == int((58 - 1.15 * 1.01) / 0.01)  # decoded in the cache already
    apart = Costs(step=0.01, frozen_step=0.0, validation=1.0, first_reading=0.064)
    assert apart.of_steps(frozen=False) == pytest.approx((0.074, 0.01))  # on the CPU


def read(speed: int, *, limit: float, report: Advance) -> None:
    """Read 60,000 images, so many a second, after one second of something else."""
    over = 0.0
    tell = timed_reading(report, limit=limit, elapsed=lambda: over)
    assert tell is not None
    for done in range(64, 60_001, 64):
        over = 1.0 + done / speed
        tell(done, 60_000)


def test_reading_that_cannot_end_in_time_is_refused_after_some_images() -> None:
    told = []
    with pytest.raises(TooShortError) as refused:
        read(2_000, limit=10.0, report=lambda done, total: told.append(done))
    assert told[-1] == 64 + 256
    assert str(refused.value) == (
        "a time of 10s is too short: reading 60,000 images takes 31 s at 2000 per second; "
        "62s would leave as much for training"
    )


def test_reading_that_ends_in_time_is_left_alone() -> None:
    told = []
    read(2_000, limit=31.0, report=lambda done, total: told.append(done))
    assert told[-1] == 59_968
    read(1, limit=0.0, report=lambda done, total: None)  # no limit
