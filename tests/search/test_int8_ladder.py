"""The ladder: which rungs are tried, when it stops, and how few layers stay in float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.compression.folding import fold
from mobilette.exporters.target import Quantisation
from mobilette.search import int8_ladder
from mobilette.search.int8_ladder import Attempt, Material, Outcome, climb, fewest
from tests.models import model_of


@pytest.fixture(scope="module")
def material() -> Material:
    torch.manual_seed(0)
    arch = get_arch("mobilenet_v2", Settings(width_mult=0.1, resolution=16, num_classes=3))
    arch = replace(arch, rows=arch.rows[:4])
    images = torch.randn(16, 3, 16, 16)
    return Material(
        model=fold(model_of(arch)),
        inputs=images,
        ranking=images,
        ranking_labels=np.zeros(16, np.int64),
        ranges=("plain", "percentile", "mse"),
        batches=lambda seed: repeat(images),
    )


def tried(
    material: Material, top1: Callable[[Attempt], float | None], *, enough: float
) -> list[Outcome]:
    def measure(attempt: Attempt) -> Outcome:
        found = top1(attempt)
        return Outcome(attempt=attempt, top1=found, kept=found is not None and found >= enough)

    return list(climb(material, measure, say=lambda line: None))


def test_the_first_rung_that_keeps_the_accuracy_ends_the_climb(material: Material) -> None:
    (only,) = tried(material, lambda attempt: 0.9, enough=0.9)
    assert only.attempt.quantisation.ranges == "plain"
    percentile = {"plain": 0.5, "percentile": 0.9}
    found = tried(material, lambda attempt: percentile[attempt.quantisation.ranges], enough=0.9)
    assert [outcome.attempt.quantisation.ranges for outcome in found] == ["plain", "percentile"]


def test_later_rungs_go_on_from_the_best_ranges(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_ladder, "STEPS", 1)
    by_ranges = {"plain": 0.5, "percentile": 0.4, "mse": 0.6}

    def top1(attempt: Attempt) -> float:
        return by_ranges[attempt.quantisation.ranges] if attempt.number == 1 else 0.3

    found = tried(material, top1, enough=0.9)
    assert [outcome.attempt.number for outcome in found][:4] == [1, 1, 1, 2]
    assert found[-1].attempt.number == 4
    assert {o.attempt.quantisation.ranges for o in found if o.attempt.number > 1} == {"mse"}
    counts = [len(o.attempt.quantisation.float_layers) for o in found if o.attempt.number == 3]
    assert counts == sorted(set(counts))
    trained = found[-1].attempt.quantisation
    assert trained.model is not None or found[-1].attempt.reason == "did not help"
    assert trained.float_layers == frozenset()


def test_training_goes_on_from_the_layers_in_float(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_ladder, "STEPS", 1)
    monkeypatch.setattr(int8_ladder, "train_quantised", lambda model, *rest, **options: model)
    found = tried(material, lambda attempt: 0.5 + 0.1 * (attempt.number == 3), enough=0.9)
    first = next(o.attempt for o in found if o.attempt.number == 3)
    last = found[-1].attempt
    assert last.name == "quantisation-aware training, 1 layer in float"
    assert last.quantisation.float_layers == first.quantisation.float_layers != frozenset()


@given(st.integers(1, 40), st.integers(1, 40))
def test_as_few_layers_as_keep_the_accuracy_stay_in_float(needed: int, most: int) -> None:
    def attempt(count: int) -> Outcome:
        chosen = frozenset(map(str, range(count)))
        made = Attempt(number=3, name="", quantisation=Quantisation(float_layers=chosen))
        return Outcome(attempt=made, top1=0.5, kept=count >= needed)

    found = list(fewest(attempt, most=most))
    counts = [len(outcome.attempt.quantisation.float_layers) for outcome in found]
    assert max(counts) <= most
    kept = [count for count in counts if count >= needed]
    assert min(kept, default=None) == (needed if needed <= most else None)
    assert len(found) <= 2 * most.bit_length() + 1


def test_an_engine_that_cannot_have_layers_in_float_goes_on_to_training(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_ladder, "STEPS", 1)
    found = tried(
        material,
        lambda a: None if a.quantisation.float_layers else 0.9 * (a.number == 4),
        enough=0.9,
    )
    assert [outcome.attempt.number for outcome in found] == [1, 1, 1, 2, 3, 4]
