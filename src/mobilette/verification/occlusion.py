"""What hiding parts of an image does to an answer: maps of any engine, and a check of any map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from mobilette.engines.predictor import BATCH, Predictor
from mobilette.run.metrics import log_sum_exp, sigmoid, softmax
from mobilette.verification.heat_map import from_0_to_1

# Cells along the shorter side of a map by occlusion, as fine as Grad-CAM's at 224 pixels.
CELLS = 8
# What hides: mid-grey, as in Zeiler and Fergus 2013 (arXiv 1311.2901, section 4.2).
GREY = 128
# The part of the pixels that the check hides, and how often it hides as much elsewhere.
PART, ELSEWHERE = 0.2, 19
# A map is believed if at most so many of the other places matter as much: of 0, 1 and 2 the one
# that believes the most right maps without believing more wrong ones, by bench/explain.py.
BETTER = 1

Answer = tuple[float, float]
"""Probability and log-odds of the class."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What hiding the warmest fifth of a map does, beside hiding as much elsewhere.

    Attributes:
        hidden: the probability of the class without the warmest fifth.
        elsewhere: without a fifth of the same shape at other places, on average.
        drop: by how much the log-odds of the class fall without the warmest fifth.
        drop_elsewhere: without a fifth elsewhere, on average.
        ratio: ``drop`` divided by ``drop_elsewhere``; ``None`` if that is not above 0.
        as_much: at how many of the `ELSEWHERE` other places they fall as far.
        believed: whether the map's places matter clearly more than others.
        verdict: the same in words.
    """

    hidden: float
    elsewhere: float
    drop: float
    drop_elsewhere: float
    ratio: float | None
    as_much: int
    believed: bool
    verdict: str


def answers_for(
    predictor: Predictor, images: Iterable[NDArray[np.uint8]], index: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the calibrated probability of class ``index`` and its log-odds, each (N,).

    ``images`` are uint8 (C, H, W), taken as they are needed. Log-odds tell answers apart that round
    to 100%.
    """
    remaining, parts = iter(images), []
    while batch := list(islice(remaining, BATCH)):
        parts.append(predictor.batch_logits(np.stack(batch)))
    logits, temperature = np.concatenate(parts), predictor.answering.temperature
    of = sigmoid if predictor.multi_label else softmax
    probabilities = of(logits, temperature=temperature)[:, index]
    scaled = logits.astype(np.float64) / temperature
    if predictor.multi_label or scaled.shape[1] == 1:
        return probabilities, scaled[:, index]
    return probabilities, scaled[:, index] - log_sum_exp(np.delete(scaled, index, axis=1))


def occlusion_map(
    predictor: Predictor, pixels: NDArray[np.uint8], index: int
) -> NDArray[np.float32]:
    """Return how much hiding each place lowers the log-odds of a class, (h, w) from 0 to 1.

    A grey square of two cells a side moves by one cell: `CELLS` cells along the shorter side, so
    some 64 images are computed, by the engine itself.

    Args:
        predictor: of a run or an artifact.
        pixels: uint8 (C, H, W), what the network sees.
        index: the class, counted from 0.
    """
    height, width = pixels.shape[1:]
    side = min(height, width) / CELLS
    rows, columns = max(round(height / side), 1), max(round(width / side), 1)

    def covered() -> Iterator[NDArray[np.uint8]]:
        yield pixels
        for row in range(rows):
            for column in range(columns):
                image = pixels.copy()
                image[:, _span(row, rows, height), _span(column, columns, width)] = GREY
                yield image

    _, odds = answers_for(predictor, covered(), index)
    drops: NDArray[np.float32] = (odds[0] - odds[1:]).reshape(1, rows, columns).astype(np.float32)
    return from_0_to_1(drops)[0]  # type: ignore[no-any-return]


def _span(number: int, count: int, length: int) -> slice:
    """Return the pixels of the square around cell ``number`` of ``count``: twice as long."""
    middle, cell = (number + 0.5) * length / count, length / count
    return slice(max(round(middle - cell), 0), max(round(middle + cell), 1))


def warmest(heat: NDArray[np.float32], part: float = PART) -> NDArray[np.bool_]:
    """Return the warmest ``part`` of the pixels of ``heat`` (H, W), as a mask."""
    count = max(round(part * heat.size), 1)
    mask = np.zeros(heat.size, np.bool_)
    mask[np.argsort(-heat, axis=None, kind="stable")[:count]] = True
    return mask.reshape(heat.shape)


def _elsewhere(mask: NDArray[np.bool_], random: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Return `ELSEWHERE` masks of the same shape at places that overlap ``mask`` the least.

    Any place of a large mask may cover what decides; of those drawn, a quarter is taken.
    """
    drawn = []
    for _ in range(4 * ELSEWHERE):
        turned = mask[:: random.choice((1, -1)), :: random.choice((1, -1))]
        moved = (int(random.integers(mask.shape[0])), int(random.integers(mask.shape[1])))
        drawn.append(np.roll(turned, moved, (0, 1)))
    return sorted(drawn, key=lambda other: int((other & mask).sum()))[:ELSEWHERE]


def check_map(
    predictor: Predictor,
    pixels: NDArray[np.uint8],
    heat: NDArray[np.float32],
    index: int,
    *,
    seed: int = 0,
) -> Check:
    """Return whether the warm places of ``heat`` matter for the answer more than others do.

    The deletion test of RISE (Petsiuk et al. 2018, arXiv 1806.07421), at one size: the warmest
    fifth is hidden and, for comparison, the same mask mirrored and moved elsewhere, `ELSEWHERE`
    times, around the edges where it has to. So the comparison hides as much, in the same pieces.

    Args:
        predictor: of the model that the map is of.
        pixels: uint8 (C, H, W), what the network sees.
        heat: (H, W), from 0 to 1.
        index: the class, counted from 0.
        seed: of the places.
    """
    mask = warmest(heat)
    masks = [mask, *_elsewhere(mask, np.random.default_rng(seed))]
    hidden = (np.where(each, np.uint8(GREY), pixels) for each in masks)
    probabilities, odds = answers_for(predictor, chain([pixels], hidden), index)
    drops = odds[0] - odds[1:]
    drop, elsewhere = float(drops[0]), float(drops[1:].mean())
    ratio = drop / elsewhere if elsewhere > 0 else None
    as_much = int((drops[1:] >= drop).sum())
    believed = bool(heat.any() and drop > 0 and as_much <= BETTER)
    before, after, beside = probabilities[0], probabilities[1], probabilities[2:].mean()
    what = (
        f"{before:.1%} becomes {after:.1%} without the warmest fifth, {beside:.1%} without a "
        "fifth elsewhere"
    )
    if not heat.any():
        verdict = "shows nothing: no place speaks for this class"
    elif believed:
        times = "" if ratio is None else f" ({ratio:.1f} times as much, in log-odds)"
        verdict = f"to be believed: {what}{times}"
    else:
        verdict = f"not to be believed: {what}; {as_much} of {ELSEWHERE} places matter as much"
    return Check(
        hidden=float(after),
        elsewhere=float(beside),
        drop=drop,
        drop_elsewhere=elsewhere,
        ratio=ratio,
        as_much=as_much,
        believed=believed,
        verdict=verdict,
    )
