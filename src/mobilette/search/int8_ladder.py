"""The ladder to int8: four rungs, from the cheapest to minutes of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mobilette.compression.bias_correction import correct_biases
from mobilette.compression.equalisation import absorb_high_biases, equalise
from mobilette.compression.quantisation_aware import train_quantised
from mobilette.compression.ranges import Ranges
from mobilette.compression.simulation import sensitivity
from mobilette.data.images import Labels
from mobilette.exporters.target import Quantisation
from mobilette.model.model import Model

# Images to rank layers with, and the largest fraction of the layers that may stay in float.
RANKING_IMAGES, LARGEST_FLOAT_PART = 100, 0.34
STEPS, STEPS_PER_LINE = 300, 50
# Number of layers whose sensitivity is printed.
SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way to make int8, before it is measured.

    Attributes:
        number: the rung, 1 to 4.
        uncorrected: the model before bias correction, which suits only the layers that were int8
            then.
        reason: why there is nothing to measure.
    """

    number: int
    name: str
    quantisation: Quantisation
    uncorrected: Model | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of an attempt; ``top1`` is ``None`` if the engine does not support it."""

    attempt: Attempt
    top1: float | None
    kept: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The input of the rungs; images are normalised, float (N, C, H, W).

    Attributes:
        model: the run's, with batch norms folded.
        inputs: calibration images.
        ranking: images to rank layers with.
        ranges: the ways to choose ranges that the engine has, ``plain`` first.
        batches: returns endless batches of training images for a random seed.
    """

    model: Model
    inputs: Tensor
    ranking: Tensor
    ranking_labels: Labels
    ranges: tuple[Ranges, ...]
    batches: Callable[[int], Iterator[Tensor]]


Measure = Callable[[Attempt], Outcome]
Say = Callable[[str], None]


def climb(material: Material, measure: Measure, *, say: Say, seed: int = 0) -> Iterator[Outcome]:
    """Yield the outcome of one attempt after another, until one keeps the accuracy.

    1. post-training quantisation, with each way to choose ranges;
    2. cross-layer equalisation, absorption of high biases and bias correction;
    3. the most sensitive layers in float, as few as keep the accuracy;
    4. quantisation-aware training, distilled from the float network.

    Each rung starts from the best attempt so far: its ranges, equalisation and float layers.
    """
    best: Outcome | None = None
    for rung in (_post_training, _equalised, _with_float_layers, _trained):
        kept = False
        for outcome in rung(material, best, measure, say, seed):
            yield outcome
            kept |= outcome.kept
            if outcome.top1 is not None and (best is None or outcome.top1 > (best.top1 or 0)):
                best = outcome
            if kept and rung is not _with_float_layers:  # there, fewer float layers may suffice
                return
        if kept:
            return


def _post_training(
    material: Material, best: Outcome | None, measure: Measure, say: Say, seed: int
) -> Iterator[Outcome]:
    for ranges in material.ranges:
        name = f"post-training, {ranges}"
        yield measure(Attempt(number=1, name=name, quantisation=Quantisation(ranges=ranges)))


def _equalised(
    material: Material, best: Outcome | None, measure: Measure, say: Say, seed: int
) -> Iterator[Outcome]:
    ranges, _ = _so_far(best)
    say("equalising channels and correcting biases")
    equal = absorb_high_biases(equalise(material.model, material.inputs), material.inputs)
    model = correct_biases(equal, material.inputs, ranges=ranges)
    yield measure(
        Attempt(
            number=2,
            name="equalised, biases corrected",
            quantisation=Quantisation(ranges=ranges, model=model),
            uncorrected=equal,
        )
    )


def _with_float_layers(
    material: Material, best: Outcome | None, measure: Measure, say: Say, seed: int
) -> Iterator[Outcome]:
    ranges, base = _so_far(best)
    say("ranking layers by how much int8 in each alone changes the answers")
    found = sensitivity(
        base or material.model,
        material.ranking,
        _single_labels(material.ranking_labels),
        ranges=ranges,
    )
    for each in found[:SHOWN]:
        top1 = "" if each.accuracy is None else f", top-1 {each.accuracy:.2%}"
        say(
            f"only {each.layer} in int8, {len(material.ranking)} images: "
            f"{each.signal_to_noise_db:.1f} dB{top1}"
        )
    ranked = [each.layer for each in found]

    def attempt(count: int) -> Outcome:
        chosen = frozenset(ranked[:count])
        model = None
        if base is not None:
            inputs = material.inputs
            model = correct_biases(base, inputs, ranges=ranges, float_layers=chosen)
        return measure(
            Attempt(
                number=3,
                name=_layers(count),
                quantisation=Quantisation(ranges=ranges, float_layers=chosen, model=model),
                uncorrected=base,
            )
        )

    yield from fewest(attempt, most=max(1, int(len(ranked) * LARGEST_FLOAT_PART)))


def fewest(attempt: Callable[[int], Outcome], *, most: int) -> Iterator[Outcome]:
    """Yield outcomes of ``attempt(count)``, including the smallest count that is kept.

    Counts are doubled up to ``most`` until one is kept, then bisected. If more is not always
    better, the count found may not be the smallest. It stops at a count that the engine does not
    support.
    """
    too_few, enough, count = 0, 0, 1
    while not enough and too_few < most:
        outcome = attempt(count)
        yield outcome
        if outcome.top1 is None:
            return
        if outcome.kept:
            enough = count
        else:
            too_few, count = count, min(2 * count, most)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        outcome = attempt(middle)
        yield outcome
        if outcome.kept:
            enough = middle
        else:
            too_few = middle


def _trained(
    material: Material, best: Outcome | None, measure: Measure, say: Say, seed: int
) -> Iterator[Outcome]:
    ranges, base = _so_far(best)
    floats = frozenset[str]() if best is None else best.attempt.quantisation.float_layers
    say(f"quantisation-aware training, {STEPS} steps")

    def report(step: int, steps: int, loss: float) -> None:
        if step % STEPS_PER_LINE == 0:
            say(f"step {step} of {steps}: divergence {loss:.4g}")

    model = train_quantised(
        base or material.model,
        material.batches(seed),
        inputs=material.inputs,
        ranges=ranges,
        steps=STEPS,
        float_layers=floats,
        report=report,
    )
    name = "quantisation-aware training" + (f", {_layers(len(floats))}" if floats else "")
    if model is None:
        say("training did not improve the answers")
        plain = Quantisation(ranges=ranges)
        yield measure(Attempt(number=4, name=name, quantisation=plain, reason="did not help"))
        return
    quantisation = Quantisation(ranges=ranges, float_layers=floats, model=model)
    yield measure(Attempt(number=4, name=name, quantisation=quantisation))


def _layers(count: int) -> str:
    return f"{count} {'layer' if count == 1 else 'layers'} in float"


def _so_far(best: Outcome | None) -> tuple[Ranges, Model | None]:
    """Return the ranges of the best attempt, and its model before bias correction."""
    if best is None:
        return "plain", None
    return best.attempt.quantisation.ranges, best.attempt.uncorrected


def _single_labels(labels: Labels) -> NDArray[np.int64] | None:
    return labels.astype(np.int64) if labels.ndim == 1 else None
