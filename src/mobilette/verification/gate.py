"""The gate: may this artifact stand in for the network it was made from?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# fp32 engines differ from PyTorch by 5e-6 to 5e-5 of the largest logit; wrong means, colours or
# axes by whole logits.
TOLERANCE = 1e-3
AGREEMENT = 0.999
LARGEST_DROP = 0.001
SMALL_SET = 1000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the logits of an artifact differ from the checkpoint's on the same pictures.

    Attributes:
        max_abs_diff: infinite where the artifact's logits are not finite.
        scale: the checkpoint's largest absolute logit, at least 1.
        top1_agreement: fraction of pictures with the same largest logit.
    """

    images: int
    max_abs_diff: float
    scale: float
    top1_agreement: float
    flips: int


def compare(artifact: NDArray[np.float32], checkpoint: NDArray[np.float32]) -> Comparison:
    """Return how ``artifact`` differs from ``checkpoint``, both (N, classes)."""
    difference = np.abs(artifact.astype(np.float64) - checkpoint)
    same = (artifact.argmax(axis=1) == checkpoint.argmax(axis=1)) & np.isfinite(artifact).all(1)
    return Comparison(
        images=len(artifact),
        max_abs_diff=float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()),
        scale=max(1.0, float(np.abs(checkpoint).max())),
        top1_agreement=float(same.mean()),
        flips=int((~same).sum()),
    )


def judge_golden(comparison: Comparison) -> list[str]:
    """Return what is wrong with an fp32 artifact's answers to the golden vectors."""
    allowed = TOLERANCE * comparison.scale
    if comparison.max_abs_diff <= allowed:
        return []
    return [
        f"golden vectors: logits differ by up to {comparison.max_abs_diff:.3g}, "
        f"at most {allowed:.3g} is allowed"
    ]


def judge_pictures(comparison: Comparison, *, drop: float) -> list[str]:
    """Return what is wrong with an fp32 artifact's answers to real pictures.

    Top-1 agreement must be at least 99.9%, or at most one picture may flip among fewer than
    1,000; ``drop``, the loss of accuracy as a fraction, must be at most 0.1 points, or that one
    picture.
    """
    failures = []
    small = comparison.images < SMALL_SET
    if comparison.top1_agreement < AGREEMENT and not (small and comparison.flips <= 1):
        failures.append(
            f"top-1 agreement is {comparison.top1_agreement:.2%}, {AGREEMENT:.1%} is needed"
        )
    allowed = max(LARGEST_DROP, 1 / comparison.images if small else 0.0)
    if drop > allowed + 1e-9:
        failures.append(f"accuracy drops by {drop:.2%}, at most {allowed:.2%} is allowed")
    return failures
