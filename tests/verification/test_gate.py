from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilette.artifact.contract import Precision
from mobilette.verification.gate import (
    MAX_DROP,
    Comparison,
    compare,
    judge_golden,
    judge_images,
    right_answers_kept,
)


def logits(images: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 3, (images, 10)).astype(np.float32)


def flipped(source: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    changed = source.copy()
    changed[:count] = -changed[:count]
    return changed


def judge(
    comparison: Comparison,
    *,
    drop: float,
    precision: Precision = "fp32",
    max_drop: float = MAX_DROP,
) -> list[str]:
    """Judge images that the checkpoint has right, all of them."""
    return judge_images(
        comparison,
        drop=drop,
        kept=comparison.top1_agreement,
        precision=precision,
        max_drop=max_drop,
    )


def test_equal_logits_pass() -> None:
    comparison = compare(logits(50), logits(50))
    assert (comparison.max_abs_diff, comparison.top1_agreement, comparison.flips) == (0.0, 1.0, 0)
    assert judge_golden(comparison) == judge(comparison, drop=0.0) == []


@pytest.mark.parametrize(("noise", "passes"), [(1e-5, True), (1e-2, False)])
def test_golden_vectors_tolerate_rounding_only(noise: float, passes: bool) -> None:
    source = logits(8)
    comparison = compare((source + noise * np.sign(source)).astype(np.float32), source)
    assert (judge_golden(comparison) == []) is passes


@pytest.mark.parametrize(
    ("images", "flips", "passes"),
    [(999, 1, True), (999, 2, False), (1000, 1, True), (1000, 2, False), (5000, 5, True)],
)
def test_agreement(images: int, flips: int, passes: bool) -> None:
    comparison = compare(flipped(logits(images), flips), logits(images))
    assert comparison.flips == flips
    assert (judge(comparison, drop=0.0) == []) is passes


@pytest.mark.parametrize(
    ("images", "drop", "passes"),
    [(5000, 0.001, True), (5000, 0.0012, False), (200, 1 / 200, True), (200, 2 / 200, False)],
)
def test_drop(images: int, drop: float, passes: bool) -> None:
    comparison = compare(logits(images), logits(images))
    assert (judge(comparison, drop=drop) == []) is passes


@pytest.mark.parametrize(("max_drop", "passes"), [(0.0, False), (0.1, True)])
def test_no_drop_is_no_image(max_drop: float, passes: bool) -> None:
    comparison = compare(logits(200), logits(200))
    judged = judge_images(
        comparison,
        kept=comparison.top1_agreement,
        drop=1 / 200,
        precision="int8",
        max_drop=max_drop,
    )
    assert (judged == []) is passes
    assert passes or judged == ["accuracy drops by 0.50 points, at most 0.00 are allowed"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_fail(value: float) -> None:
    broken = logits(20)
    broken[:] = value
    comparison = compare(broken, logits(20))
    assert comparison.max_abs_diff == np.inf
    assert comparison.top1_agreement == 0.0
    assert judge_golden(comparison)
    assert judge(comparison, drop=0.0)


PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_answer_that_is_the_same_for_every_image_fails(precision: Precision) -> None:
    """However close it is: images that look alike are answered alike."""
    source = logits(1) + 1e-4 * logits(20)
    comparison = compare(np.repeat(source[:1], 20, axis=0), source)
    assert comparison.top1_agreement == 1.0
    assert judge_golden(comparison, precision) == [
        "golden vectors: the answer is the same for every image"
    ]
    assert judge(comparison, drop=0.0, precision=precision)
    assert not compare(source, source).constant


@pytest.mark.parametrize(
    ("precision", "noise", "passes"),
    [
        ("fp16", 0.01, True),
        ("fp16", 0.3, False),
        ("bf16", 0.1, True),
        ("bf16", 0.6, False),
        ("int8", 0.3, True),
        ("int8", 2.0, False),
    ],
)
def test_precisions_are_allowed_their_own_rounding(
    precision: Precision, noise: float, passes: bool
) -> None:
    source = logits(8)
    shift = noise * np.random.default_rng(1).normal(0, 3, source.shape)
    comparison = compare((source + shift).astype(np.float32), source)
    assert (judge_golden(comparison, precision) == []) is passes
    wrong = judge_golden(comparison, precision)
    assert passes or "dB are needed for " + precision in wrong[0]


@pytest.mark.parametrize(
    ("drop", "max_drop", "passes"), [(0.01, 1.0, True), (0.011, 1.0, False), (0.02, 2.0, True)]
)
def test_int8_may_lose_what_it_is_allowed(drop: float, max_drop: float, passes: bool) -> None:
    comparison = compare(flipped(logits(2000), 100), logits(2000))
    assert comparison.top1_agreement == 0.95
    judged = judge_images(
        comparison, kept=comparison.top1_agreement, drop=drop, precision="int8", max_drop=max_drop
    )
    assert (judged == []) is passes
    less = compare(flipped(logits(2000), 101), logits(2000))
    assert "95.0% is needed" in judge(less, drop=0.0, precision="int8")[0]


@pytest.mark.parametrize(("lost", "passes"), [(50, True), (51, False)])
def test_int8_is_asked_to_keep_right_answers(lost: int, passes: bool) -> None:
    """Of a checkpoint with half of 2,000 right: others may flip, right ones gained do not count."""
    source = logits(2000)
    labels = source.argmax(axis=1)
    labels[1000:] = (-source[1000:]).argmax(axis=1)
    artifact = flipped(source, lost)
    artifact[1000:1300] = -artifact[1000:1300]
    kept = right_answers_kept(artifact, source, labels)
    assert kept == 1 - lost / 1000
    comparison = compare(artifact, source)
    judged = judge_images(comparison, drop=-0.1, kept=kept, precision="int8")
    assert (judged == []) is passes
    if not passes:
        assert "on the images that the checkpoint has right is 94.90%" in judged[0]
    for other in ("fp32", "fp16", "bf16"):
        assert judge_images(comparison, drop=-0.1, kept=1.0, precision=other)


def test_without_right_answers_none_are_lost() -> None:
    source = logits(20)
    assert right_answers_kept(source, source, (-source).argmax(axis=1)) == 1.0
