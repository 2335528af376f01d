"""The losses against their definitions, written out in NumPy with 64 bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mobilette.training.loss import Loss, balanced_weights
from mobilette.training.recipe import Recipe
from mobilette.training.recovery import EXPLODED, DivergedError, check_losses

Floats = NDArray[np.float64]
IMAGES, CLASSES = 6, 5


def single(weights: Tensor | None = None, **keys: float) -> Loss:
    return Loss(Recipe(**{"label_smoothing": 0.0} | keys), multi_label=False, weights=weights)  # type: ignore[arg-type]


def several(**keys: float) -> Loss:
    return Loss(Recipe(**{"label_smoothing": 0.0} | keys), multi_label=True)  # type: ignore[arg-type]


def draw(seed: int, spread: float = 3.0) -> tuple[Tensor, Floats]:
    """Return the same logits twice."""
    logits = np.random.default_rng(seed).normal(0, spread, (IMAGES, CLASSES)).astype(np.float32)
    return torch.from_numpy(logits), logits.astype(np.float64)


def log_softmax(x: Floats) -> Floats:
    shifted = x - x.max(1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def log_sigmoid(x: Floats) -> Floats:
    result: Floats = -np.logaddexp(0, -x)
    return result


def kl(p: Floats, log_p: Floats, log_q: Floats) -> Floats:
    result: Floats = (p * (log_p - log_q)).sum(-1)
    return result


@given(st.integers(0, 999), st.floats(0, 0.9))
def test_cross_entropy_with_smoothing_and_weights(seed: int, smoothing: float) -> None:
    """Each class's term counts by its weight; the mean is over the images."""
    logits, x = draw(seed)
    generator = np.random.default_rng(seed + 1)
    labels, weights = generator.integers(0, CLASSES, IMAGES), generator.uniform(0.1, 3, CLASSES)
    soft = np.eye(CLASSES)[labels] * (1 - smoothing) + smoothing / CLASSES
    for given_weights, counted in ((None, np.ones(CLASSES)), (weights, weights)):
        expected = -(soft * counted * log_softmax(x)).sum(1).mean()
        tensor = None if given_weights is None else torch.from_numpy(weights).float()
        loss = single(tensor, label_smoothing=smoothing)
        by_index = loss(logits, torch.from_numpy(labels))
        assert by_index.item() == pytest.approx(expected, rel=1e-5)
        targets = loss.targets(torch.from_numpy(labels), CLASSES)
        assert loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)


def test_the_mean_of_parts_is_that_of_the_whole_with_weights_too() -> None:
    """So that parts of a batch, and processes, add up to the batch."""
    logits, _ = draw(3)
    labels = torch.tensor([0, 0, 0, 1, 2, 4])
    loss = single(torch.tensor([0.2, 3.0, 1.0, 1.0, 5.0]), label_smoothing=0.1)
    parts = [loss(logits[:3], labels[:3]), loss(logits[3:], labels[3:])]
    assert torch.stack(parts).mean().item() == pytest.approx(loss(logits, labels).item(), rel=1e-6)


@given(st.integers(0, 999), st.floats(0, 0.9))
def test_mixed_labels(seed: int, smoothing: float) -> None:
    logits, x = draw(seed)
    mixed = np.random.default_rng(seed).dirichlet(np.ones(CLASSES), IMAGES)
    soft = mixed * (1 - smoothing) + smoothing / CLASSES
    given_loss = single(label_smoothing=smoothing)(logits, torch.from_numpy(mixed).float())
    assert given_loss.item() == pytest.approx(-(soft * log_softmax(x)).sum(1).mean(), rel=1e-5)


@given(st.integers(0, 999), st.floats(0, 0.9))
def test_binary_cross_entropy_with_smoothing(seed: int, smoothing: float) -> None:
    logits, x = draw(seed)
    labels = np.random.default_rng(seed).integers(0, 2, (IMAGES, CLASSES)).astype(np.uint8)
    soft = labels * (1 - smoothing) + 0.5 * smoothing
    expected = -(soft * log_sigmoid(x) + (1 - soft) * log_sigmoid(-x)).mean()
    loss = several(label_smoothing=smoothing)
    for targets in (torch.from_numpy(labels), loss.targets(torch.from_numpy(labels), CLASSES)):
        assert loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 999), st.floats(0.5, 10))
def test_distillation_is_the_divergence_of_softened_answers(seed: int, heat: float) -> None:
    logits, x = draw(seed)
    taught, t = draw(seed + 1)
    expected = heat**2 * kl(
        np.exp(log_softmax(t / heat)), log_softmax(t / heat), log_softmax(x / heat)
    )
    given_loss = single(temperature=heat).of_teacher(logits, taught).item()
    assert given_loss == pytest.approx(expected.mean(), rel=1e-4)
    wanted = log_sigmoid(t / heat), log_sigmoid(-t / heat)
    own = log_sigmoid(x / heat), log_sigmoid(-x / heat)
    of_class = sum(np.exp(w) * (w - o) for w, o in zip(wanted, own, strict=True))
    given_loss = several(temperature=heat).of_teacher(logits, taught).item()
    assert given_loss == pytest.approx(heat**2 * np.mean(of_class), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("make", [single, several])
def test_nothing_is_to_be_learnt_from_a_teacher_of_the_same_answers(
    make: Callable[..., Loss],
) -> None:
    logits, _ = draw(1)
    logits.requires_grad_()
    loss = make(temperature=3.0).of_teacher(logits, logits.detach())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("make", [single, several])
@pytest.mark.parametrize("heat", [1.0, 4.0])
def test_the_gradient_leads_to_the_teacher(make: Callable[..., Loss], heat: float) -> None:
    """T (softmax(z / T) - softmax(t / T)) an image, and likewise with sigmoids."""
    logits, x = draw(1)
    taught, t = draw(2)
    logits.requires_grad_()
    loss = make(temperature=heat).of_teacher(logits, taught)
    loss.backward()  # type: ignore[no-untyped-call]
    log_p, parts = (log_softmax, IMAGES) if make is single else (log_sigmoid, IMAGES * CLASSES)
    expected = heat * (np.exp(log_p(x / heat)) - np.exp(log_p(t / heat))) / parts
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-6)


def test_labels_and_teacher_are_weighed() -> None:
    logits, _ = draw(1)
    taught, _ = draw(2)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    loss = single(distillation=0.3, label_smoothing=0.1)
    both = 0.7 * loss.of_labels(logits, labels) + 0.3 * loss.of_teacher(logits, taught)
    assert loss(logits, labels, taught).item() == pytest.approx(both.item())
    alone = single(distillation=1.0)
    assert alone(logits, labels, taught).item() == alone.of_teacher(logits, taught).item()


@pytest.mark.parametrize("make", [single, several])
def test_a_teacher_that_is_certain_gives_finite_numbers(make: Callable[..., Loss]) -> None:
    taught = torch.full((IMAGES, CLASSES), -3e4)
    taught[:, 0] = 3e4
    logits = torch.zeros(IMAGES, CLASSES, requires_grad=True)
    loss = make(temperature=0.1).of_teacher(logits, taught)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_balanced_weights_make_every_class_count_the_same(labels: list[int]) -> None:
    weights = balanced_weights(np.array(labels), 5).double().numpy()
    counts = np.bincount(labels, minlength=5)
    present = counts > 0
    assert (weights * counts)[present] == pytest.approx(len(labels) / 5, rel=1e-6)
    assert (weights[~present] == 1).all()


@given(st.integers(2, 1000))
def test_guessing(classes: int) -> None:
    zeros = torch.zeros(3, classes)
    known = single()(zeros, torch.tensor([0, 1, 0])).item()
    assert single().of_guessing(classes) == pytest.approx(known, rel=1e-6)
    known = several()(zeros, torch.ones(3, classes)).item()
    assert several().of_guessing(classes) == pytest.approx(known, rel=1e-6)
    assert known == pytest.approx(math.log(2))


def test_a_image_of_a_rare_class_is_no_explosion() -> None:
    weights = balanced_weights(np.array([0] * 200 + [1]), 2)
    loss = Loss(Recipe(class_weights="balanced"), multi_label=False, weights=weights)
    logits = torch.tensor([[3.0, -3.0]]).repeat(8, 1)  # sure of the common class
    value = loss(logits, torch.tensor([0] * 7 + [1])).item()
    assert value > EXPLODED * math.log(2)
    check_losses([value], guessing=loss.of_guessing(2))
    with pytest.raises(DivergedError):
        check_losses([1e4 * value], guessing=loss.of_guessing(2))
