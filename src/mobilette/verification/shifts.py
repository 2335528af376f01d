"""Robustness: the accuracy of a model under everyday shifts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact, is_artifact, open_artifact
from mobilette.data.images import LabelledImage, Labels, label_array
from mobilette.data.reading import Reading
from mobilette.data.shifted import COUNT, VERSIONS, read_shifted
from mobilette.data.shifts import STRENGTH
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.errors import InputError
from mobilette.files import read_record, write_json
from mobilette.limits import AMOUNT, DIFFERENCE, FRACTION
from mobilette.model.model import Model
from mobilette.notebook import html_table
from mobilette.progress import SILENT, Reporter
from mobilette.records import Ranged
from mobilette.run.directory import Run, open_run
from mobilette.run.metrics import measure, right_answers, wilson_interval
from mobilette.run.subject import model_sha256, resolve
from mobilette.verification.evaluate import read_labelled
from mobilette.verification.statistics import drop_interval

ROBUSTNESS = "robustness.json"
Interval = Annotated[tuple[float, float], DIFFERENCE]


@dataclass(frozen=True, kw_only=True)
class UnderShift(Ranged):
    """The accuracy under a shift of a strength.

    Attributes:
        shift: one of `mobilette.data.shifts.SHIFTS`.
        strength: 1, 2 or 3.
        score: what `Robustness.measure` says, 0 to 1.
        drop: loss of it, as a fraction; negative for a gain.
        interval: the 95% confidence interval of ``score`` (Wilson); ``None`` for mean average
            precision.
        drop_interval: that of ``drop`` (Newcombe); ``None`` for mean average precision.
    """

    shift: str
    strength: Annotated[int, STRENGTH]
    score: Annotated[float, FRACTION]
    drop: Annotated[float, DIFFERENCE]
    interval: Interval | None = None
    drop_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Robustness(Ranged):
    """The result of `evaluate_shifts`, and the content of robustness.json.

    Attributes:
        data: the images, as they were named.
        images: how many were measured.
        measure: ``top1`` or, where an image may have several classes, ``mean_average_precision``.
        unshifted: it without a shift, 0 to 1.
        interval: the 95% confidence interval of ``unshifted`` (Wilson).
        mean: the mean of ``score`` over the rows.
        rows: every shift at every strength.
        sha256: of the model: an artifact's contract's, else of the weights' file.
        trained_left_out: how many images were left out because the model was trained on them.
        includes_trained: whether it was trained on some of ``images``; ``None`` if not known.
    """

    data: str
    images: Annotated[int, AMOUNT]
    measure: Literal["top1", "mean_average_precision"]
    unshifted: Annotated[float, FRACTION]
    interval: Interval | None
    mean: Annotated[float, FRACTION]
    rows: tuple[UnderShift, ...]
    sha256: str
    trained_left_out: Annotated[int, AMOUNT] = 0
    includes_trained: bool | None = False
    schema: Literal[1] = 1

    def to_json(self) -> dict[str, object]:
        """Return the content as JSON values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        rows = [
            (row.shift, row.strength, f"{row.score:.2%}", f"{100 * row.drop:.2f}")
            for row in self.rows
        ]
        what = f"{self.measure} {self.unshifted:.2%} without a shift, {self.images:,} images"
        return html_table(what, ("shift", "strength", self.measure, "points lost"), rows)


@checked
def evaluate_shifts(
    model: str | Path | Run | Artifact | Model | Predictor,
    data: str | Path,
    *,
    split: str | None = None,
    include_trained: bool = False,
    workers: int | None = None,
    max_unusable: float = 0.1,
    reporter: Reporter = SILENT,
) -> Robustness:
    """Return the accuracy of ``model`` under twelve everyday shifts at three strengths.

    The shifts (`mobilette.data.shifts`) are applied to decoded pictures, as a camera would, before
    the model's preprocessing. A model for several classes per image is measured by mean average
    precision.

    Args:
        model: as for `evaluate`; an artifact is executed by its engine.
        data: images of the model's classes or some of them, in any form that `find_images` reads.
        split: by default ``val`` if there is one, else every image.
        include_trained: as for `evaluate`.
        workers: processes that decode and shift; by default one per core.
        max_unusable: largest fraction of images that may be unreadable.
        reporter: receives the number of images done, and what `evaluate` reports.

    Raises:
        InputError: as for `evaluate`.
    """
    predictor = model if isinstance(model, Predictor) else load(model)
    predictor.check_classifier()
    reading = Reading(
        workers=workers, max_unusable=max_unusable, split=split, include_trained=include_trained
    )
    _, read = read_labelled(predictor, data, reading, reporter)
    answers, labels = _answers(predictor, read.images, reading, reporter)
    found = _of_answers(answers) if labels.ndim == 1 else _of_logits(answers, labels)
    first, *rows = found
    return Robustness(
        data=str(data),
        images=len(labels),
        measure="top1" if labels.ndim == 1 else "mean_average_precision",
        unshifted=first.score,
        interval=first.interval,
        mean=float(np.mean([row.score for row in rows])),
        rows=tuple(rows),
        trained_left_out=read.left_out,
        includes_trained=read.includes_trained,
        sha256=_sha256(predictor),
    )


def _answers(
    predictor: Predictor,
    images: Sequence[LabelledImage],
    reading: Reading,
    reporter: Reporter,
) -> tuple[NDArray[Any], Labels]:
    """Return what `_kept` keeps of the answers to the usable images, and these images' labels."""
    labels = label_array([image.label for image in images], num_classes=len(predictor.classes))
    batches = read_shifted(
        images,
        resolution=predictor.arch.resolution,
        preprocess=predictor.preprocess,
        reading=reading,
        reporter=reporter,
    )
    kept, positions = [], []
    for some, pixels in batches:
        if len(some):
            logits = predictor.logits(pixels.reshape(-1, *pixels.shape[2:]))
            kept.append(_kept(logits.reshape(len(some), COUNT, -1), labels[some]))
            positions.append(some)
    if not kept:
        raise InputError("there is no usable image to read")
    return np.concatenate(kept), labels[np.concatenate(positions)]


def _kept(logits: NDArray[np.float32], labels: Labels) -> NDArray[Any]:
    """Return what has to be kept of ``logits`` (N, versions, classes).

    Whether each answer is right, bool (N, versions); for several classes per image, all.
    """
    if labels.ndim == 2:
        return logits
    return np.stack([right_answers(logits[:, each], labels) for each in range(COUNT)], axis=1)


def _of_answers(right: NDArray[np.bool_]) -> Iterator[UnderShift]:
    """Yield the accuracies of right and wrong answers (N, versions); the first is unshifted."""
    for number, (shift, strength) in enumerate((("", 1), *VERSIONS)):
        score = float(right[:, number].mean())
        yield UnderShift(
            shift=shift,
            strength=strength,
            score=score,
            drop=float(right[:, 0].mean()) - score,
            interval=wilson_interval(score, len(right)),
            drop_interval=drop_interval(right[:, 0], right[:, number]),
        )


def _of_logits(logits: NDArray[np.float32], labels: Labels) -> Iterator[UnderShift]:
    """Yield the mean average precisions of logits (N, versions, classes), as `_of_answers`."""
    ids = [str(number) for number in range(logits.shape[2])]
    scores = [measure(logits[:, number], labels, ids).score for number in range(COUNT)]
    for (shift, strength), score in zip((("", 1), *VERSIONS), scores, strict=True):
        yield UnderShift(shift=shift, strength=strength, score=score, drop=scores[0] - score)


def _sha256(predictor: Predictor) -> str:
    if isinstance(predictor, ArtifactPredictor):
        return predictor.contract.sha256
    if isinstance(predictor, CheckpointPredictor):
        subject = predictor.model if predictor.path is None else predictor.path
        return model_sha256(*resolve(subject))
    return ""


def keep(robustness: Robustness, folder: Path) -> Path:
    """Write ``robustness`` as robustness.json into the folder of its run or artifact.

    Raises:
        InputError: it cannot be written.
    """
    write_json(folder / ROBUSTNESS, robustness.to_json())
    return folder / ROBUSTNESS


def read_robustness(folder: Path) -> Robustness | None:
    """Return what `keep` wrote for the run or artifact in ``folder``.

    ``None`` if there is nothing, or if it was measured with other weights.

    Raises:
        InputError: it is damaged, or the folder is neither.
    """
    if not (folder / ROBUSTNESS).is_file():
        return None
    found = read_record(folder / ROBUSTNESS, Robustness)
    if is_artifact(folder):
        now = open_artifact(folder).contract.sha256
    else:
        now = model_sha256(*resolve(open_run(folder)))
    return found if found.sha256 == now else None
