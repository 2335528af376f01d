"""NetAdapt: targets, proposals, the choice among them, and going on after a stop."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.arch.arch import Arch
from mobilette.arch.editing import convs
from mobilette.arch.knobs import Knobs
from mobilette.compression.pruning import counts_of
from mobilette.counting.cost import cost
from mobilette.data.dataset import load_dataset
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.files import read_record
from mobilette.model.model import Model
from mobilette.run.directory import Run
from mobilette.search.netadapt import adapt, best_cut
from mobilette.search.netadapt_record import (
    DECAY,
    RECORD,
    Adaptation,
    iterations_to,
    targets_to,
)
from mobilette.search.practice import Practice
from mobilette.search.proposals import narrowest, propose
from mobilette.training.recipe import Recipe, load_recipe
from tests.families import WIDTHS, arch_of

RECIPE = load_recipe("sliced", overrides={"batch_size": 16, "precision": "fp32"})


def madds(arch: Arch) -> float:
    return float(cost(arch).madds)


@pytest.fixture(scope="module")
def practice(trained: Run, images: Path) -> Practice:
    dataset = load_dataset(
        find_images(images), resolution=trained.arch.resolution, preprocess=trained.preprocess
    )
    return Practice(
        dataset, preprocess=trained.preprocess, recipe=RECIPE, device=torch.device("cpu")
    )


# Targets


@given(st.floats(0.01, 0.99), st.floats(0.1, 1e9), st.integers(1, 60))
def test_targets_come_closer_by_the_same_factor(part: float, start: float, number: int) -> None:
    budget = part * start
    targets = targets_to(budget, start, number)
    assert len(targets) == number
    assert targets[-1] == budget
    saved = [one - other for one, other in zip((start, *targets), targets, strict=False)]
    for one, other in pairwise(saved):
        assert other == pytest.approx(DECAY * one, rel=1e-6, abs=1e-9 * start)


def test_the_authors_steps() -> None:
    # A first step of 2.5% reaches 1 - 0.025 (1 - 0.96^n) / 0.04.
    assert iterations_to(0.75, 1.0) == 13
    assert 0.025 * (1 - 0.96**13) / 0.04 >= 0.25 > 0.025 * (1 - 0.96**12) / 0.04
    assert iterations_to(0.3, 1.0) == 100  # never: the sum of all is 62.5%


# Proposals


@settings(max_examples=5)
@given(st.sampled_from(WIDTHS), st.floats(0.9, 0.99))
def test_each_proposal_is_the_smallest_cut_of_one_group(
    network: tuple[str, float, float], part: float
) -> None:
    arch = arch_of(*network[:2])
    target = part * madds(arch)
    knobs = Knobs(arch)
    sizes = {knob.layers: knob for knob in knobs}
    proposals = propose(arch, madds, target=target)
    assert proposals
    whole = all(each.cost <= target for each in proposals)
    for proposal in proposals:
        assert proposal.cost == madds(proposal.arch) < madds(arch)
        assert proposal.after < proposal.before
        before, after = convs(arch), convs(proposal.arch)
        assert all(conv.channels <= before[name].channels for name, conv in after.items())
        knob = sizes[proposal.layers]
        counts = counts_of(knob)
        now = knob.size * proposal.after // proposal.before
        if whole and not knob.bound:
            number = list(knobs).index(knob)
            wider = [each.size for each in knobs]
            wider[number] = counts[counts.index(now) + 1]
            assert madds(knobs.set(wider)) > target
        elif not whole:
            assert now == counts[0] or knob.bound


def test_only_as_far_as_possible() -> None:
    """No group alone can save so much: each offers what it has."""
    arch = arch_of("mobilenet_v1", 0.5)
    for proposal in propose(arch, madds, target=0.05 * madds(arch)):
        assert proposal.after == 8


def test_the_narrowest_network() -> None:
    arch = narrowest(arch_of("mobilenet_v1", 0.5))
    assert {conv.channels for conv in convs(arch).values()} == {8}


# Short trainings


def test_short_trainings_learn_and_judge_on_other_images(practice: Practice, trained: Run) -> None:
    assert len(practice.apart) == 24  # a quarter of the 96 in train
    assert len(practice.pixels) == 72
    model = trained.model
    before = practice.judged(model)
    assert before.score > 0.8
    spoilt = {
        name: torch.randn_like(tensor) if name == "head.classifier.weight" else tensor
        for name, tensor in model.weights.items()
    }
    random = replace(model, weights=spoilt)
    worse = practice.judged(random)
    assert worse.loss > before.loss
    assert practice.judged(practice.trained(random, 30)).loss < worse.loss


def test_the_same_short_training_twice(practice: Practice, trained: Run) -> None:
    first, second = (practice.trained(trained.model, 5, begun=3) for _ in range(2))
    for name, tensor in first.weights.items():
        assert torch.equal(tensor, second.weights[name]), name


def test_the_best_ratio_is_kept(practice: Practice, trained: Run) -> None:
    model, before = trained.model, practice.judged(trained.model)
    target = 0.9 * madds(model.arch)
    found = best_cut(model, madds, target=target, practice=practice, before=before, steps=0, most=3)
    assert found is not None
    kept, iteration = found
    assert iteration.cost == madds(kept.arch) <= target
    assert iteration.trained == 3
    assert iteration.proposals == len(propose(model.arch, madds, target=target))
    assert iteration.params == cost(kept.arch).params
    assert practice.judged(kept).loss == pytest.approx(iteration.loss)


# From the network to the budget


def adapted(
    practice: Practice, trained: Run, folder: Path, *, part: float = 0.6
) -> tuple[Model, Adaptation]:
    budget = part * madds(trained.arch)
    return adapt(
        trained.model,
        madds,
        budget=budget,
        practice=practice,
        folder=folder,
        iterations=4,
        steps=2,
        most=2,
    )


def test_down_to_the_budget_and_on_after_a_stop(
    practice: Practice, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, done = adapted(practice, trained, tmp_path / "whole")
    assert madds(model.arch) <= 0.6 * madds(trained.arch)
    assert done == read_record(tmp_path / "whole" / RECORD, Adaptation)
    costs = [iteration.cost for iteration in done.iterations]
    assert costs == sorted(costs, reverse=True)
    assert madds(Model.load(tmp_path / "whole" / f"{len(costs):04d}").arch) == costs[-1]

    class KilledError(Exception):
        pass

    trainings = 0
    real = Practice.trained

    def killed(self: Practice, *args: Any, **options: Any) -> Model:
        nonlocal trainings
        trainings += 1
        if trainings == 4:  # in the second iteration
            raise KilledError
        return real(self, *args, **options)

    monkeypatch.setattr(Practice, "trained", killed)
    with pytest.raises(KilledError):
        adapted(practice, trained, tmp_path / "again")
    assert len(read_record(tmp_path / "again" / RECORD, Adaptation).iterations) == 1
    again, same = adapted(practice, trained, tmp_path / "again")
    assert trainings < 4 + 2 * len(costs)
    assert again.arch == model.arch
    for one, other in zip(same.iterations, done.iterations, strict=True):
        assert (one.layers, one.after, one.loss) == (other.layers, other.after, other.loss)


def test_too_little_time_makes_larger_steps(
    practice: Practice, trained: Run, tmp_path: Path
) -> None:
    def none_left() -> float:
        return 0.0

    budget = 0.8 * madds(trained.arch)
    model, done = adapt(
        trained.model,
        madds,
        budget=budget,
        practice=practice,
        folder=tmp_path / "short",
        iterations=20,
        steps=0,
        most=1,
        left=none_left,
    )
    assert madds(model.arch) <= budget
    assert len(done.iterations) < 10


def test_another_request_in_the_folder(practice: Practice, trained: Run, tmp_path: Path) -> None:
    adapted(practice, trained, tmp_path / "work", part=0.9)
    with pytest.raises(InputError, match="begun for another network, budget"):
        adapted(practice, trained, tmp_path / "work", part=0.8)


def test_a_budget_below_the_narrowest(practice: Practice, trained: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be cut to a cost of .* is the smallest"):
        adapted(practice, trained, tmp_path / "work", part=0.001)
    assert not (tmp_path / "work").exists()


def test_too_few_images(trained: Run, images: Path) -> None:
    dataset = load_dataset(
        find_images(images), resolution=trained.arch.resolution, preprocess=trained.preprocess
    )
    with pytest.raises(InputError, match="too few to keep some apart"):
        Practice(
            dataset,
            preprocess=trained.preprocess,
            recipe=Recipe(),
            device=torch.device("cpu"),
            apart=0.0,
        )
