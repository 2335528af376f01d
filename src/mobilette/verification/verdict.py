"""`Verdict`: what `verify` found."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mobilette.artifact.contract import Precision
from mobilette.verification.statistics import wilson_interval


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found; accuracies are fractions, ``None`` where no images were given.

    Attributes:
        target: of the artifact.
        precision: of the artifact.
        engine: that executed it.
        max_abs_diff: the largest difference of any logit, over golden vectors and images.
        signal_to_noise_db: of the logits over the images, in dB, infinite where they are equal;
            over the golden vectors as for ``top1_agreement``.
        top1_agreement: over the images; over the golden vectors where there are no images, or
            no checkpoint to compare with on them.
        accuracy_source: of the checkpoint.
        accuracy_artifact: of the artifact.
        calibration_error_source: expected calibration error of the checkpoint, 0 to 1; ``None``
            where an image may be of several classes.
        calibration_error_artifact: that of the artifact.
        images: how many images.
        classes_matched_by: how the images' classes were found among the model's.
        readme_images: how many of them the README's lines prepared, too.
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

    @property
    def interval_source(self) -> tuple[float, float] | None:
        """Between which fractions the checkpoint's true accuracy lies (Wilson, 95%)."""
        return self._interval(self.accuracy_source)

    @property
    def interval_artifact(self) -> tuple[float, float] | None:
        """Between which fractions the artifact's true accuracy lies (Wilson, 95%)."""
        return self._interval(self.accuracy_artifact)

    def to_json(self) -> dict[str, object]:
        """Return the verdict as JSON values, the intervals included."""
        return asdict(self) | {
            "interval_source": self.interval_source,
            "interval_artifact": self.interval_artifact,
        }

    def _interval(self, accuracy: float | None) -> tuple[float, float] | None:
        return None if accuracy is None else wilson_interval(accuracy, self.images)
