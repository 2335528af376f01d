"""`evaluate`: the accuracy of a model on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact
from mobilette.data.digests import NEW, Trained
from mobilette.data.held_out import Choice, Read, choose_split, read_choice
from mobilette.data.images import LabelledImage
from mobilette.data.reading import IN_THIS_PROCESS, Reading
from mobilette.data.sources import find_images
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError
from mobilette.model.class_matching import guessed, match_classes, relabelled
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run
from mobilette.run.metrics import Metrics, measure
from mobilette.run.trained import read_trained, trained_on


@checked
def evaluate(
    model: str | Path | Run | Artifact | Model | Predictor,
    data: str | Path,
    *,
    split: str | None = None,
    include_trained: bool = False,
    workers: int | None = None,
    max_unusable: float = 0.1,
    reporter: Reporter = SILENT,
) -> Metrics:
    """Return accuracy, loss and confusions of ``model`` on images that it was not trained on.

    Args:
        model: a run, an artifact or a model, the directory of one, or the result of `load`.
        data: images of the model's classes or some of them, in any form that `find_images` reads.
        split: by default ``val`` if there is one, else every image.
        include_trained: also measure those that the model was trained on, which are left out
            otherwise.
        workers: processes that decode; by default one per core.
        max_unusable: largest fraction of images that may be unreadable.
        reporter: receives the number of images read, each image left out, and how folders and
            classes were understood if that is not obvious.

    Raises:
        InputError: the images cannot be used, have a class that the model lacks, or are all left
            out.
    """
    predictor = model if isinstance(model, Predictor) else load(model)
    predictor.check_classifier()
    reading = Reading(
        workers=workers, max_unusable=max_unusable, split=split, include_trained=include_trained
    )
    labelled, read = read_labelled(predictor, data, reading, reporter)
    ids = [label.id for label in predictor.classes]
    found = measure(predictor.logits(read.split.pixels[:]), read.split.labels, ids)
    return replace(
        found,
        classes_matched_by=labelled.matched_by,
        trained_left_out=read.left_out,
        includes_trained=read.includes_trained,
    )


def read_labelled(
    predictor: Predictor, data: str | Path, reading: Reading, reporter: Reporter
) -> tuple[Labelled, Read]:
    """Return the images that ``reading`` chooses for a predictor, read; what is odd is reported."""
    labelled = labelled_images(
        data,
        predictor.classes,
        reading=reading,
        trained=trained_of(predictor),
        multi_label=predictor.multi_label,
    )
    for line in labelled.remarks:
        reporter.remark(line)
    read = read_split(predictor, labelled.choice, reading, reporter)
    for name, reason in read.unusable:
        reporter.remark(f"left out: {name}: {reason}")
    return labelled, read


def trained_of(subject: Predictor | Artifact | Run | Model) -> Trained:
    """Return what a model was trained on; an artifact's is known by the run it was made from."""
    if isinstance(subject, ArtifactPredictor):
        subject = subject.artifact
    if isinstance(subject, Artifact):
        reason = subject.why_no_model()
        return Trained(unknown=reason) if reason is not None else read_trained(subject.source)
    if isinstance(subject, Predictor):
        model = getattr(subject, "model", None)
        return trained_on(model) if isinstance(model, Model) else NEW
    return trained_on(subject)


def read_split(
    side: Predictor | Model, choice: Choice, reading: Reading, reporter: Reporter
) -> Read:
    """Return chosen images as ``side`` prepares them."""
    return read_choice(
        choice,
        num_classes=len(side.classes),
        resolution=side.arch.resolution,
        preprocess=side.preprocess,
        reading=reading,
        reporter=reporter,
    )


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Chosen images, labelled by a model's classes.

    Attributes:
        choice: the images, of which those that the model was trained on are left out.
        matched_by: how the images' classes were matched to the model's (`match_classes`).
        remarks: what the user should know, one line each.
    """

    choice: Choice
    matched_by: str
    remarks: tuple[str, ...]

    @property
    def images(self) -> tuple[LabelledImage, ...]:
        """The images before any is left out."""
        return self.choice.images


def labelled_images(
    data: str | Path,
    classes: Sequence[ClassLabel],
    *,
    reading: Reading = IN_THIS_PROCESS,
    trained: Trained = NEW,
    multi_label: bool = False,
) -> Labelled:
    """Return the images that ``reading`` chooses for a model, labelled by ``classes``.

    ``trained`` is what it was trained on; ``multi_label`` allows several classes.
    """
    found = find_images(data)
    index, by = match_classes(found.classes, classes, where=found.name)
    if found.multi_label and not multi_label:
        raise InputError(
            f"{found.name}: images may have several classes; this model answers with one"
        )
    choice = choose_split(
        found, reading.split, trained=trained, include_trained=reading.include_trained
    )
    images = relabelled(choice.images, index, multi_label=multi_label)
    return Labelled(
        choice=replace(choice, images=images),
        matched_by=by,
        remarks=(*found.remarks, *guessed(by), *trained.remarks()),
    )
