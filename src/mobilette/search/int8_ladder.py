"""The rungs of the ladder to int8: from the cheapest to what costs minutes of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mobilette.compression.bias_correction import correct_biases
from mobilette.compression.equalisation import absorb_high_biases, equalise
from mobilette.compression.quantisation_aware import train_quantised
from mobilette.compression.ranges import Ranges
from mobilette.compression.sensitivity import sensitivity
from mobilette.data.images import Labels
from mobilette.exporters.target import Quantisation
from mobilette.nn.network import Network

# Images by which layers are ranked, and parts of the layers that may stay in float.
RANKING_IMAGES, LARGEST_FLOAT_PART = 100, 0.34
STEPS, SAID_EVERY = 300, 50
# Layers of which it is said what int8 does to each alone.
SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One rung before it is measured: its number, what it does, and how int8 is made in it.

    ``uncorrected`` is the network before its biases were corrected: these fit the layers that were
    int8 then, and its answers in float are no longer the run's. ``reason`` says why there is
    nothing to measure.
    """

    number: int
    name: str
    quantisation: Quantisation
    uncorrected: Network | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the engine made of an attempt; ``top1`` is ``None`` where it could not have it."""

    attempt: Attempt
    top1: float | None
    kept: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """What rungs are made of.

    Attributes:
        network: the run's, with batch norms folded.
        inputs: normalised calibration images, float (N, C, H, W).
        ranking: normalised images by which layers are ranked, float (N, C, H, W).
        ranking_labels: their classes.
        ranges: the rules that the engine has, the plain one first.
        batches: begins a pass over normalised training images, float (N, C, H, W), that never
            ends; the same for the same seed.
        multi_label: whether an image may be of several classes.
    """

    network: Network
    inputs: Tensor
    ranking: Tensor
    ranking_labels: Labels
    ranges: tuple[Ranges, ...]
    batches: Callable[[int], Iterator[Tensor]]
    multi_label: bool = False


Measure = Callable[[Attempt], Outcome]
Say = Callable[[str], None]


def climb(material: Material, measure: Measure, *, say: Say, seed: int = 0) -> Iterator[Outcome]:
    """Yield the outcome of one attempt after the other, until one keeps the accuracy.

    1. post-training: the engine's own ranges, those of all values, cut off, of least error;
    2. cross-layer equalisation, absorption of high biases and correction of all biases;
    3. layers in float: the most sensitive ones, as few as keep the accuracy;
    4. quantisation-aware training, distilled from the network itself.

    The ranges, whether channels are equalised and what is in float are those of the best attempt
    before.
    """
    best: Outcome | None = None
    for rung in (_post_training, _equalised, _with_float_layers, _trained):
        kept = False
        for outcome in rung(material, best, measure, say, seed):
            yield outcome
            kept |= outcome.kept
            if outcome.top1 is not None and (best is None or outcome.top1 > (best.top1 or 0)):
                best = outcome
            if kept and rung is not _with_float_layers:  # fewer in float may be enough there
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
    ranges = _ranges(best)
    say("equalising channels and correcting biases")
    equal = absorb_high_biases(equalise(material.network, material.inputs), material.inputs)
    network = correct_biases(equal, material.inputs, ranges=ranges)
    yield measure(
        Attempt(
            number=2,
            name="equalised, biases corrected",
            quantisation=Quantisation(ranges=ranges, network=network),
            uncorrected=equal,
        )
    )


def _with_float_layers(
    material: Material, best: Outcome | None, measure: Measure, say: Say, seed: int
) -> Iterator[Outcome]:
    """Yield attempts with the most sensitive layers in float, in the end as few as will do."""
    ranges, base = _ranges(best), best.attempt.uncorrected if best is not None else None
    say("ranking layers by what quantising each alone does")
    found = sensitivity(
        base or material.network,
        material.ranking,
        _single_labels(material.ranking_labels),
        ranges=ranges,
    )
    for each in found[:SHOWN]:
        top1 = "" if each.accuracy is None else f", top-1 {each.accuracy:.2%}"
        say(
            f"{each.layer} alone in int8, {len(material.ranking)} images: "
            f"{each.signal_to_noise_db:.1f} dB{top1}"
        )
    ranked = [each.layer for each in found]

    def attempt(count: int) -> Outcome:
        chosen = frozenset(ranked[:count])
        network = None
        if base is not None:
            inputs = material.inputs
            network = correct_biases(base, inputs, ranges=ranges, float_layers=chosen)
        quantisation = Quantisation(ranges=ranges, float_layers=chosen, network=network)
        return measure(
            Attempt(
                number=3,
                name=_layers(count),
                quantisation=quantisation,
                uncorrected=base,
            )
        )

    yield from fewest(attempt, most=max(1, int(len(ranked) * LARGEST_FLOAT_PART)))


def fewest(attempt: Callable[[int], Outcome], *, most: int) -> Iterator[Outcome]:
    """Yield outcomes of ``attempt(count)``, among them that of the smallest count that is kept.

    Counts are doubled up to ``most`` until one is kept, and then halved between; where more is not
    always better that finds one that is kept, not the smallest. It ends at the first that the
    engine cannot have.
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
    ranges, base = _ranges(best), best.attempt.uncorrected if best is not None else None
    floats = frozenset[str]() if best is None else best.attempt.quantisation.float_layers
    say(f"quantisation-aware training, {STEPS} steps")

    def report(step: int, steps: int, loss: float) -> None:
        if step % SAID_EVERY == 0:
            say(f"step {step} of {steps}: divergence {loss:.4g}")

    network = train_quantised(
        base or material.network,
        partial(material.batches, seed),
        inputs=material.inputs,
        ranges=ranges,
        steps=STEPS,
        float_layers=floats,
        multi_label=material.multi_label,
        report=report,
    )
    name = "quantisation-aware training" + (f", {_layers(len(floats))}" if floats else "")
    if network is None:
        say("training did not bring the answers nearer")
        plain = Quantisation(ranges=ranges)
        yield measure(Attempt(number=4, name=name, quantisation=plain, reason="did not help"))
        return
    quantisation = Quantisation(ranges=ranges, float_layers=floats, network=network)
    yield measure(Attempt(number=4, name=name, quantisation=quantisation))


def _layers(count: int) -> str:
    return f"{count} {'layer' if count == 1 else 'layers'} in float"


def _ranges(best: Outcome | None) -> Ranges:
    """Return the rule that did best so far."""
    return "plain" if best is None else best.attempt.quantisation.ranges


def _single_labels(labels: Labels) -> NDArray[np.int64] | None:
    return labels.astype(np.int64) if labels.ndim == 1 else None
