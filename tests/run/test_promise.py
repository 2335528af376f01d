"""Promises: exact bounds, thresholds that keep them, and text that asks for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from mobilette.errors import InputError
from mobilette.model.answering import Answering, Known, Promise
from mobilette.run.answers import NOT_SURE, UNLIKE, check_promise, fit_answering, why_unknown
from mobilette.run.metrics import softmax
from mobilette.run.promise import (
    CONFIDENCE,
    FIRST,
    QUARTER,
    THRESHOLDS,
    Asked,
    choose_least_score,
    choose_threshold,
    images_needed,
    largest_part,
    parse_promise,
)


def bound(faults: int, images: int) -> float:
    return float(largest_part(np.array([faults]), np.array([images]))[0])


@given(some.integers(1, 40), some.floats(1e-6, 1))
@example(images=1, part=0.95)
def test_the_bound_holds_with_its_confidence(images: int, part: float) -> None:
    """By enumeration of everything that can be drawn, so without luck."""
    drawn = np.arange(images + 1)
    bounds = largest_part(drawn, np.full(images + 1, images))
    holds = binom.pmf(drawn, images, part)[bounds >= part - 1e-12].sum()
    assert holds >= CONFIDENCE - 1e-9


@given(some.data(), some.integers(1, 5_000))
def test_the_bound_is_scipys(data: some.DataObject, images: int) -> None:
    faults = data.draw(some.integers(0, images))
    test = binomtest(faults, images, alternative="less")
    assert bound(faults, images) == pytest.approx(test.proportion_ci(CONFIDENCE).high, abs=1e-9)


@given(some.floats(1e-4, 0.9))
def test_the_fewest_images_are_the_fewest(part: float) -> None:
    needed = images_needed(part)
    assert bound(0, needed) <= part + 1e-12
    assert needed == 1 or bound(0, needed - 1) > part - 1e-12


def population(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return probabilities of best classes, and how often they are right: less, above 0.9."""
    generator = np.random.default_rng(seed)
    said = 1 / (1 + np.exp(-generator.normal(2.5, 2, 4_000)))
    return said, np.where(said > 0.9, said - 0.01, said)


@pytest.mark.parametrize(("images", "error"), [(400, 0.05), (1_500, 0.05), (3_000, 0.03)])
def test_thresholds_keep_the_promise_as_often_as_said(images: int, error: float) -> None:
    """Of 400 calibrations with known errors, at most 5% (and three deviations) break it."""
    said, right = population(0)
    generator, broken, found = np.random.default_rng(1), 0, 0
    answered = [right[said >= least] for least in THRESHOLDS]
    wrong = [1 - each.mean() if len(each) else 0.0 for each in answered]
    risk = dict(zip(THRESHOLDS.tolist(), wrong, strict=True))
    for _ in range(400):
        rows = generator.integers(0, len(said), images)
        value = choose_threshold(said[rows], generator.random(images) < right[rows], error).value
        found += value is not None
        broken += value is not None and risk[value] > error
    assert found > 100
    assert broken <= 400 * (1 - CONFIDENCE) + 3 * (400 * 0.05 * 0.95) ** 0.5


@given(some.integers(0, 2**32 - 1), some.sampled_from([0.01, 0.03, 0.1]))
def test_it_is_mapies_fixed_sequence(seed: int, error: float) -> None:
    methods = pytest.importorskip("mapie.risk_control.methods", reason="mapie is not installed")
    from mapie.risk_control.fwer_control import FWERFixedSequenceTesting

    said, chance = population(seed)
    right = np.random.default_rng(seed).random(len(said)) < chance
    answers = np.array([(said >= least).sum() for least in THRESHOLDS])
    wrong = np.array([(~right & (said >= least)).sum() for least in THRESHOLDS])
    first = max(images_needed(error), min(FIRST * images_needed(error), len(said) // QUARTER))
    tried = answers >= first
    risk = np.maximum(wrong[tried] - 1e-6, 0) / answers[tried]  # it rounds n * risk up
    p = methods.compute_hoeffding_bentkus_p_value(risk, answers[tried], error, binary=True)
    kept = FWERFixedSequenceTesting().run(p[:, 0], 1 - CONFIDENCE)
    expected = THRESHOLDS[tried][kept[-1]] if len(kept) else None
    assert choose_threshold(said, right, error).value == expected


def test_where_no_threshold_keeps_it_the_smallest_bound_is_told() -> None:
    said, right = np.linspace(0.5, 1, 1_000), np.ones(1_000, np.bool_)
    right[::10] = False
    found = choose_threshold(said, right, 0.02)
    assert found.value is None
    assert 0.1 < found.bound < 0.13
    assert choose_threshold(said[:10], right[:10], 0.02).bound == 1.0


def test_answers_below_the_threshold_are_not_counted() -> None:
    """All above 0.8 are right, none below it: just those are answered."""
    said = np.linspace(0.5, 0.999, 2_000)
    found = choose_threshold(said, said > 0.8, 0.01)
    assert found.value is not None
    assert 0.79 < found.value <= 0.81
    assert found.answers == (said >= found.value).sum()


@given(some.integers(60, 200), some.sampled_from([0.9, 0.95]))
def test_known_images_are_kept_with_confidence(images: int, kept: float) -> None:
    """By the distribution of an order statistic: the part below it is a beta variable."""
    least = choose_least_score(np.arange(images, dtype=np.float64), kept)
    below = int(least)  # so many of the images are below
    assert binom.sf(below, images, 1 - kept) >= CONFIDENCE
    assert binom.sf(below + 1, images, 1 - kept) < CONFIDENCE


TEXTS = {
    "error<=1%": Asked(error=0.01),
    "error<=0.01": Asked(error=0.01),
    " error <= 2.5 % ": Asked(error=0.025),
    "error≤1%": Asked(error=0.01),
    "known>=95%": Asked(kept=0.95),
    "error<=1%, known>=0.9": Asked(error=0.01, kept=0.9),
    "known>=90%,error<=1%": Asked(error=0.01, kept=0.9),
}


@pytest.mark.parametrize("text", TEXTS)
def test_promises_are_read(text: str) -> None:
    assert parse_promise(text) == TEXTS[text]
    assert parse_promise(str(TEXTS[text])) == TEXTS[text]


WRONG = {
    "error<=0%": "error 0% is not between 0% and 100%, both left out: no number of images shows",
    "error<=0": "error 0 is not between 0% and 100%, both left out: no number of images shows",
    "error<=100%": "error 100% is not between",
    "error<=200%": "error 200% is not between",
    "error<=2": "a percentage ends in %: error<=2%",
    "known>=100%": "known 100% is not between",
    "1%": "is not a promise; write 'error<=1%', 'known>=95%' or both",
    "error<1%": "is not a promise",
    "error>=1%": "is not a promise",
    "error<=1%%": "is not a promise",
    "error<=-1%": "is not a promise",
    "error<=nan": "is not a promise",
    "error<=1%,error<=2%": "is not a promise",
    "accuracy>=99%": "is not a promise",
    "": "is not a promise",
    ",": "is not a promise",
}


@pytest.mark.parametrize("text", WRONG)
def test_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_promise(text)
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    for asked, fewest in ((Asked(error=0.01), 299), (Asked(kept=0.95), 59)):
        with pytest.raises(InputError, match=f"set: {fewest - 1} images held out .* {fewest} are"):
            check_promise(asked, images=fewest - 1, multi_label=False, where="set")
        check_promise(asked, images=fewest, multi_label=False, where="set")
    with pytest.raises(InputError, match="set: an image may have several classes, but a promise"):
        check_promise(Asked(error=0.1), images=10**6, multi_label=True, where="set")


def answers(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits of 5 classes; the surer, the more often right."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1, (count, 5)).astype(np.float32)
    labels = generator.integers(0, 5, count)
    logits[np.arange(count), labels] += generator.normal(4, 3, count).astype(np.float32)
    return logits, labels


def test_what_is_fitted_is_what_is_said_and_done() -> None:
    logits, labels = answers(4_000)
    asked = Asked(error=0.02, kept=0.9)
    found = fit_answering(logits, labels, split="test", asked=asked)
    answering = found.answering
    assert found.kept
    assert answering.promise is not None
    assert answering.known is not None
    assert (answering.promise.pictures, answering.promise.split) == (4_000, "test")
    best = softmax(logits, temperature=answering.temperature).max(axis=1)
    why = [why_unknown(answering, *each) for each in zip(best.tolist(), logits, strict=True)]
    given = np.array([not reason for reason in why])
    assert set(why) == {"", NOT_SURE, UNLIKE}
    assert given.mean() == answering.promise.coverage
    assert (logits.argmax(axis=1) != labels)[given].mean() < 0.02
    assert np.mean([reason != UNLIKE for reason in why]) >= 0.9
    assert "error<=2% is promised with 95% confidence" in found.remarks[-1]


def test_a_promise_that_cannot_be_kept_is_none() -> None:
    logits, labels = answers(1_000)
    found = fit_answering(-logits, labels, split="val", asked=Asked(error=0.05))
    assert not found.kept
    assert found.answering.promise is None
    assert "NOT promised, no threshold keeps it: with 95% confidence" in found.remarks[-1]


def test_reasons() -> None:
    known = Known(score="energy", threshold=2.0, kept=0.95, pictures=100, split="val")
    promise = Promise(
        error=0.01, confidence=0.95, threshold=0.9, coverage=0.5, pictures=100, split="val"
    )
    both = Answering(promise=promise, known=known)
    high, low = np.array([5, 0], np.float32), np.array([1, 0], np.float32)
    assert why_unknown(both, 0.95, high) == ""
    assert why_unknown(both, 0.9, high) == ""
    assert why_unknown(both, 0.89, high) == NOT_SURE
    assert why_unknown(both, 0.95, low) == UNLIKE
    assert why_unknown(Answering(), 0.1, low) == ""
