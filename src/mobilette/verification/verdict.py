"""`Verdict`: the result of `verify`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mobilette.artifact.contract import Precision
from mobilette.notebook import html_table
from mobilette.run.metrics import wilson_interval
from mobilette.verification.by_class import Change, ClassChange
from mobilette.verification.promised import Promised


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of `verify`; accuracies are fractions, ``None`` without images.

    Attributes:
        max_abs_diff: largest difference of a logit, over golden vectors and images.
        signal_to_noise_db: over the images, infinite if all logits are equal; over the golden
            vectors where ``top1_agreement`` is.
        top1_agreement: over the images; over the golden vectors without images or without a
            checkpoint to compare with.
        calibration_error_source: the checkpoint's expected calibration error before its
            temperature, 0 to 1; ``None`` if an image may have several classes.
        calibrated_error_source: the same after its temperature.
        promise_source: what the checkpoint's promise comes to; ``None`` if it makes none.
        features_signal_to_noise_db: of the features, over the images or, without them, over the
            golden vectors; ``None`` if the artifact does not give features.
        trained_left_out: how many images were left out because the model was trained on them.
        includes_trained: whether the model was trained on some of ``images``; ``None`` where that
            is not known.
        change: of the right answers from the checkpoint to the artifact, over all images.
        by_class: the same for each class that occurs, in their order.
        classes_matched_by: how the images' classes were matched to the model's.
        readme_images: how many images the README's code also prepared.
        failures: why it failed; empty if it passed.
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
    temperature_source: float | None = None
    temperature_artifact: float | None = None
    calibrated_error_source: float | None = None
    calibrated_error_artifact: float | None = None
    promise_source: Promised | None = None
    promise_artifact: Promised | None = None
    images: int = 0
    trained_left_out: int = 0
    includes_trained: bool | None = False
    features_signal_to_noise_db: float | None = None
    change: Change | None = None
    by_class: tuple[ClassChange, ...] = ()
    classes_matched_by: str | None = None
    readme_images: int = 0
    failures: tuple[str, ...]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        shown = {name: value for name, value in asdict(self).items() if value is not None}
        notes = [*shown.pop("failures"), *shown.pop("notes")]
        result = "passed" if shown.pop("passed") else "FAILED"
        if shown.pop("by_class"):
            shown["classes_worse"] = ", ".join(self.classes_worse) or "none"
        for name, value in shown.items():
            if isinstance(value, dict):
                shown[name] = ", ".join(f"{key} {each}" for key, each in value.items())
        rows = [
            (name, f"{value:.6g}" if isinstance(value, float) else value)
            for name, value in shown.items()
        ]
        return html_table(f"verify: {result}", ("measured", "value"), rows, notes)

    @property
    def interval_source(self) -> tuple[float, float] | None:
        """The 95% confidence interval of the checkpoint's accuracy (Wilson)."""
        return self._interval(self.accuracy_source)

    @property
    def interval_artifact(self) -> tuple[float, float] | None:
        """The 95% confidence interval of the artifact's accuracy (Wilson)."""
        return self._interval(self.accuracy_artifact)

    @property
    def classes_worse(self) -> tuple[str, ...]:
        """The ids of the classes that got significantly worse."""
        return tuple(each.id for each in self.by_class if each.worse)

    def to_json(self) -> dict[str, object]:
        """Return the verdict as JSON values, with the intervals and the classes that got worse."""
        return asdict(self) | {
            "classes_worse": self.classes_worse,
            "interval_source": self.interval_source,
            "interval_artifact": self.interval_artifact,
        }

    def _interval(self, accuracy: float | None) -> tuple[float, float] | None:
        return None if accuracy is None else wilson_interval(accuracy, self.images)
