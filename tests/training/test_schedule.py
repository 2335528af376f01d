"""The course of a run against PyTorch's own schedulers, and what holds for every recipe."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR

from mobilette.arch.scale import size_of
from mobilette.training.optimiser import learning_rate, momentum, resolution_at
from mobilette.training.recipe import Recipe

STEPS = 101


def sgd(lr: float, momentum: float = 0.9) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=momentum)


def course(optimizer: torch.optim.SGD, scheduler: LRScheduler) -> tuple[list[float], list[float]]:
    """Return rate and momentum of each of `STEPS` steps."""
    rates, momenta = [], []
    for step in range(STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        momenta.append(float(optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if step + 1 < STEPS:
            scheduler.step()
    return rates, momenta


def progresses() -> list[float]:
    return [step / (STEPS - 1) for step in range(STEPS)]


def test_cosine_is_torchs() -> None:
    optimizer = sgd(0.3)
    rates, momenta = course(optimizer, CosineAnnealingLR(optimizer, T_max=STEPS - 1))
    recipe = Recipe(lr=0.3, warmup=0.0, momentum=0.9)
    assert [learning_rate(recipe, p) for p in progresses()] == pytest.approx(rates, abs=1e-12)
    assert {momentum(recipe, p) for p in progresses()} == set(momenta) == {0.9}


def test_constant_is_torchs_linear_warm_up() -> None:
    optimizer = sgd(0.3)
    rates, momenta = course(optimizer, LinearLR(optimizer, start_factor=1e-9, total_iters=50))
    recipe = Recipe(schedule="constant", lr=0.3, warmup=0.5, momentum=0.9)
    assert [learning_rate(recipe, p) for p in progresses()] == pytest.approx(rates, abs=1e-8)
    assert {momentum(recipe, p) for p in progresses()} == set(momenta) == {0.9}


@pytest.mark.parametrize("peak", [0.3, 0.15, 0.9])
def test_one_cycle_is_torchs_with_its_defaults(peak: float) -> None:
    """The rate goes up and down, the momentum down and up; div 25, final 1e4, 0.85 to 0.95."""
    optimizer = sgd(0.1)
    # In torch the peak is one step before this part of the steps.
    part = (peak * (STEPS - 1) + 1) / STEPS
    cycle = OneCycleLR(optimizer, max_lr=0.3, total_steps=STEPS, pct_start=part)
    rates, momenta = course(optimizer, cycle)
    recipe = Recipe(schedule="one_cycle", lr=0.3, warmup=peak, momentum=0.95)
    assert [learning_rate(recipe, p) for p in progresses()] == pytest.approx(rates, rel=1e-9)
    assert [momentum(recipe, p) for p in progresses()] == pytest.approx(momenta, rel=1e-9)


@given(
    st.sampled_from(["cosine", "one_cycle", "constant"]),
    st.floats(0, 0.9),
    st.floats(0, 0.9999),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_rates_rise_once_and_fall_once_and_momenta_oppose_them(
    schedule: Literal["cosine", "one_cycle", "constant"],
    warmup: float,
    heavy: float,
    places: list[float],
) -> None:
    recipe = Recipe(schedule=schedule, lr=0.2, warmup=warmup, momentum=heavy)
    for direction, side in (
        (1, [p for p in sorted(places) if p < warmup]),
        (-1, [p for p in sorted(places) if p >= warmup]),
    ):
        rates = [direction * learning_rate(recipe, p) for p in side]
        assert rates == sorted(rates)
        momenta = [-direction * momentum(recipe, p) for p in side]
        assert momenta == sorted(momenta)
    assert all(0 <= learning_rate(recipe, p) <= 0.2 for p in places)
    assert all(max(heavy - 0.1, 0) <= momentum(recipe, p) <= heavy for p in places)


SIDES = st.integers(16, 512)


@given(st.floats(0.25, 1.0), st.tuples(SIDES, SIDES), st.lists(st.floats(0, 1), max_size=30))
def test_resolutions_grow_in_multiples_of_four_and_end_full(
    start: float, full: tuple[int, int], places: list[float]
) -> None:
    recipe = Recipe(start_resolution=start)
    sizes = [size_of(resolution_at(recipe, place, full=full)) for place in sorted(places)]
    for whole, sides in zip(full, zip(*sizes, strict=True), strict=False):
        assert list(sides) == sorted(sides)
        assert all(side % 4 == 0 or side == whole for side in sides)
        assert all(max(start * whole - 2, 16) <= side <= whole for side in sides)
    ends = {size_of(resolution_at(recipe, place, full=full)) for place in (0.75, 0.9, 1.0)}
    assert ends == {full}
    every = {resolution_at(recipe, place / 1000, full=full) for place in range(1001)}
    assert len(every) <= 5


def test_the_steps_of_a_progressive_run() -> None:
    recipe = Recipe(start_resolution=0.5)
    sides = [resolution_at(recipe, place, full=160) for place in (0, 0.18, 0.19, 0.4, 0.6, 0.74)]
    assert sides == [80, 80, 100, 120, 140, 140]
    assert resolution_at(recipe, 0.75, full=160) == 160
