"""The gate: how answers differ, how much they may, and the `Verdict`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import Precision
from mobilette.data.images import Labels
from mobilette.notebook import html_table
from mobilette.run.metrics import right_answers, softmax

SMALL_SET = 1000
MAX_DROP = 1.0
BINS = 15
# The normal distribution's 97.5% point: 95% lie between its two sides.
Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the logits of an artifact differ from the checkpoint's on the same images.

    Attributes:
        max_abs_diff: infinite where the artifact's logits are not finite.
        scale: the checkpoint's largest absolute logit, at least 1.
        signal_to_noise_db: of all logits, as `signal_to_noise` says.
        top1_agreement: fraction of images with the same largest logit.
        flips: images with another one.
        constant: whether the artifact answers the same for all images, and the checkpoint not.
    """

    images: int
    max_abs_diff: float
    scale: float
    signal_to_noise_db: float
    top1_agreement: float
    flips: int
    constant: bool


def compare(artifact: NDArray[np.float32], checkpoint: NDArray[np.float32]) -> Comparison:
    """Return how ``artifact`` differs from ``checkpoint``, both (N, classes)."""
    wide = artifact.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(wide - checkpoint)
    same = (artifact.argmax(axis=1) == checkpoint.argmax(axis=1)) & np.isfinite(artifact).all(1)
    return Comparison(
        images=len(artifact),
        max_abs_diff=float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()),
        scale=max(1.0, float(np.abs(checkpoint).max())),
        signal_to_noise_db=signal_to_noise(artifact, checkpoint),
        top1_agreement=float(same.mean()),
        flips=int((~same).sum()),
        constant=_is_constant(artifact) and not _is_constant(checkpoint),
    )


def _is_constant(logits: NDArray[np.float32]) -> bool:
    return len(logits) > 1 and bool((logits == logits[0]).all())


def right_answers_kept(
    artifact: NDArray[np.float32], checkpoint: NDArray[np.float32], labels: Labels
) -> float:
    """Return the part of the images that ``checkpoint`` has right that ``artifact`` also has right.

    1 where it has none right. Both are logits (N, classes).
    """
    right = right_answers(checkpoint, labels)
    if not right.any():
        return 1.0
    return float(right_answers(artifact, labels)[right].mean())


def signal_to_noise(artifact: NDArray[np.float32], checkpoint: NDArray[np.float32]) -> float:
    """Return ten times the decimal logarithm of the power of signal over noise, in dB.

    Signal is ``checkpoint``, noise the difference. Infinite where there is none, minus infinity
    where ``artifact`` is not finite or there is no signal.
    """
    signal = float((checkpoint.astype(np.float64) ** 2).sum())
    with np.errstate(invalid="ignore", over="ignore"):
        noise = float(((artifact.astype(np.float64) - checkpoint) ** 2).sum())
    if noise == 0.0:
        return math.inf
    if not math.isfinite(noise) or signal == 0.0:
        return -math.inf
    return 10.0 * math.log10(signal / noise)


def wilson_interval(fraction: float, images: int) -> tuple[float, float]:
    """Return the 95% confidence interval of ``fraction``.

    Wilson's score interval (Probable inference, the law of succession, and statistical inference,
    JASA 22, 1927), which stays inside 0 to 1 and has a width at both ends. ``images`` is how
    many the ``fraction`` is of; without any, nothing is known: 0 to 1.
    """
    if images == 0:
        return 0.0, 1.0
    spread = Z95**2 / images
    centre = (fraction + spread / 2) / (1 + spread)
    half = math.sqrt(fraction * (1 - fraction) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(logits: NDArray[np.float32], labels: Labels) -> float:
    """Return the expected calibration error of ``logits`` (N, classes), 0 to 1.

    Images are put into 15 bins of equal width by the softmax of their largest logit; it is the
    mean over all images of the distance between accuracy and mean confidence of their bin (Guo,
    Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017). Logits that
    are not finite are wrong answers of full confidence.

    Args:
        logits: float32 (N, classes), N at least 1.
        labels: the true classes, (N,); not those of several classes an image.
    """
    finite = np.isfinite(logits).all(axis=1)
    confidence = np.ones(len(logits))
    confidence[finite] = softmax(logits[finite]).max(axis=1)
    right = (logits.argmax(axis=1) == labels) & finite
    # A bin contains its upper end.
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    distances = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(distances).sum() / len(logits))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an artifact of a precision is allowed.

    Attributes:
        difference: of any logit on the golden vectors, as a part of the largest; ``None`` where
            ``signal_to_noise_db`` is asked for instead.
        signal_to_noise_db: of the logits on the golden vectors, at least.
        agreement: fraction of images with the same top-1, at least; for int8 of those that the
            checkpoint has right.
        drop: of accuracy, as a fraction, at most; ``None`` is for the caller to say.
    """

    difference: float | None = None
    signal_to_noise_db: float | None = None
    agreement: float
    drop: float | None


# fp32: engines differ from PyTorch by 5e-6 to 5e-5 of the largest logit; wrong means, colours or
# axes by whole logits.
# The others were measured with seven published networks (V1 x0.25 for 1,000 and for 2 classes, V2,
# V3-Small, SqueezeNet, two of CIFAR's ResNets), signal to noise on the golden vectors:
# - fp16 rounds a number by up to 2**-11 of itself, at every layer anew: 31 to 66 dB in PyTorch.
# - bf16 rounds by up to 2**-8: 15 to 45 dB. That is no more than int8 has, and agreement shows it:
#   86% (V1 x0.25) to 100%. It is not chosen for its size, as int8 is: other answers are a defect.
# - int8 has eight bits of a range that a few images chose: 8 to 27 dB with ONNX Runtime's plain
#   quantiser; V3-Small, -0.1 dB there, agrees on 57% of photographs. The golden vectors are none
#   and leave the ranges that were calibrated: 1 to 10 dB, by engine, for a small network that
#   answers every image as before. So they only tell what is broken (an answer near 0 has 0 dB);
#   the images judge. Wrong answers are seldom sure of themselves: a SqueezeNet with 57% right
#   had 58.8% in int8 and agreed on 91%. So agreement is asked for where the checkpoint is right;
#   there it tells right answers that others, gained by luck, make up for in the accuracy.
LIMITS: Mapping[Precision, Limits] = MappingProxyType(
    {
        "fp32": Limits(difference=1e-3, agreement=0.999, drop=0.001),
        "fp16": Limits(signal_to_noise_db=25.0, agreement=0.99, drop=0.002),
        "bf16": Limits(signal_to_noise_db=10.0, agreement=0.95, drop=0.005),
        "int8": Limits(signal_to_noise_db=1.0, agreement=0.95, drop=None),
    }
)


def judge_golden(comparison: Comparison, precision: Precision = "fp32") -> list[str]:
    """Return what is wrong with an artifact's answers to the golden vectors."""
    limits = LIMITS[precision]
    if comparison.constant:
        return ["golden vectors: the answer is the same for every image"]
    if limits.difference is not None:
        allowed = limits.difference * comparison.scale
        if not comparison.max_abs_diff <= allowed:
            return [
                f"golden vectors: logits differ by up to {comparison.max_abs_diff:.3g}, "
                f"at most {allowed:.3g} is allowed"
            ]
    needed = limits.signal_to_noise_db
    if needed is not None and not comparison.signal_to_noise_db >= needed:
        return [
            f"golden vectors: logits differ, signal to noise is "
            f"{comparison.signal_to_noise_db:.1f} dB, {needed:g} dB are needed for {precision}"
        ]
    return []


def judge_images(
    comparison: Comparison,
    *,
    drop: float,
    kept: float,
    precision: Precision = "fp32",
    max_drop: float = MAX_DROP,
) -> list[str]:
    """Return what is wrong with an artifact's answers to real images.

    Args:
        comparison: with the checkpoint's answers. Where these are fewer than 1,000 images, one of
            them may flip whatever the limits say, unless no drop at all is allowed.
        drop: the loss of accuracy, as a fraction.
        kept: the fraction of the checkpoint's right answers that the artifact keeps; int8 is judged
            by it instead of all answers.
        precision: whose `LIMITS` count.
        max_drop: percentage points that accuracy may drop by for int8.
    """
    limits, failures = LIMITS[precision], []
    small = comparison.images < SMALL_SET
    if comparison.constant:
        failures.append("the answer is the same for every image")
    by_right = precision == "int8"
    agreement = kept if by_right else comparison.top1_agreement
    if agreement < limits.agreement and not (small and comparison.flips <= 1):
        where = " on the images that the checkpoint has right" if by_right else ""
        failures.append(
            f"top-1 agreement{where} is {agreement:.2%}, {limits.agreement:.1%} is needed"
        )
    allowed = max_drop / 100 if limits.drop is None else limits.drop
    if small and allowed > 0:
        allowed = max(allowed, 1 / comparison.images)
    if drop > allowed + 1e-9:
        failures.append(
            f"accuracy drops by {100 * drop:.2f} points, at most {100 * allowed:.2f} are allowed"
        )
    return failures


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found; accuracies are fractions, ``None`` where no images were given.

    Attributes:
        max_abs_diff: the largest difference of any logit, over golden vectors and images.
        signal_to_noise_db: of the logits over the images, in dB, infinite where they are equal;
            over the golden vectors as for ``top1_agreement``.
        top1_agreement: over the images; over the golden vectors where there are no images, or
            no checkpoint to compare with on them.
        calibration_error_source: expected calibration error of the checkpoint, 0 to 1; ``None``
            where an image may be of several classes.
        classes_matched_by: how the images' classes were found among the model's.
        readme_images: how many of them the README's lines also prepared.
        failures: why it did not pass; empty if it did.
        notes: what could not be checked, and why.
    """

    passed: bool
    target: str
    precision: Precision
    engine: str
    max_abs_diff: float
    signal_to_noise_db: float
    top1_agreement: float
    accuracy_source: float | None = None
    accuracy_artifact: float | None = None
    calibration_error_source: float | None = None
    calibration_error_artifact: float | None = None
    images: int = 0
    classes_matched_by: str | None = None
    readme_images: int = 0
    failures: tuple[str, ...]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        shown = {name: value for name, value in asdict(self).items() if value is not None}
        notes = [*shown.pop("failures"), *shown.pop("notes")]
        result = "passed" if shown.pop("passed") else "FAILED"
        rows = [
            (name, f"{value:.6g}" if isinstance(value, float) else value)
            for name, value in shown.items()
        ]
        return html_table(f"verify: {result}", ("measured", "value"), rows, notes)

    @property
    def interval_source(self) -> tuple[float, float] | None:
        """The 95% interval of the checkpoint's accuracy (Wilson)."""
        return self._interval(self.accuracy_source)

    @property
    def interval_artifact(self) -> tuple[float, float] | None:
        """The 95% interval of the artifact's accuracy (Wilson)."""
        return self._interval(self.accuracy_artifact)

    def to_json(self) -> dict[str, object]:
        """Return the verdict as JSON values, the intervals included."""
        return asdict(self) | {
            "interval_source": self.interval_source,
            "interval_artifact": self.interval_artifact,
        }

    def _interval(self, accuracy: float | None) -> tuple[float, float] | None:
        return None if accuracy is None else wilson_interval(accuracy, self.images)
