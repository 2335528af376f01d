"""The network that looks at images in an audit: one with weights, or one trained for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.catalogue import get_arch, resolve_name
from mobilette.arch.scale import Resolution, Settings, as_resolution, resolution_text
from mobilette.data.dataset import load_split
from mobilette.data.images import ImageSet, LabelledImage, suggest_resolution
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import PRESETS, Preprocess
from mobilette.data.reading import Reading
from mobilette.data.survey import Describe
from mobilette.errors import InputError
from mobilette.folders import scratch
from mobilette.limits import WIDTH_MULT
from mobilette.model.class_matching import match_classes
from mobilette.model.model import Model
from mobilette.nn.inference import for_inference
from mobilette.progress import Reporter
from mobilette.run.directory import Run
from mobilette.run.inference import checkpoint_logits, features_in_batches
from mobilette.run.subject import resolve
from mobilette.training.environment import choose_device
from mobilette.training.events import Sitting
from mobilette.training.plan import NetworkChoice
from mobilette.training.start import DEFAULT_MODEL, automatic_start, read_start
from mobilette.verification.labels import Fit
from mobilette.workflows.train import run_train

# Weights of large images know what is in small ones, too, if these are enlarged.
_LEAST, _MOST = 128, 224
_PENALTY = 0.005  # C of the logistic regression
_FAINTEST = -30.0  # log-probability of a class that was not fitted
# A network that is trained for the audit.
_OWN, _OWN_WIDTH, _OWN_EPOCHS, _OWN_MOST = "mobilenet_v1", 0.25, 12, 64

Numbers = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """What looks at the images.

    Attributes:
        name: the network in words.
        resolution: of its input.
        preprocess: how images are prepared for it.
        describe: returns what it says of pixels.
        fitting: returns what fits classifiers, given what it said of images, these and their
            labels.
        quick: whether a classifier is fitted in seconds.
    """

    name: str
    resolution: Resolution
    preprocess: Preprocess
    describe: Describe
    fitting: Callable[[Numbers, Sequence[LabelledImage], NDArray[np.int64]], Fit]
    quick: bool


@dataclass(frozen=True)
class ExaminerChoice:
    """The options of `mobilette.audit` that choose its network."""

    run: str | Path | Run | None
    start: str | Path | Model
    model: str | None
    width_mult: float | None
    resolution: Resolution | None
    preprocess: str | None
    device: str


def examiner(images: ImageSet, choice: ExaminerChoice, reporter: Reporter) -> Examiner:
    """Return the examiner: that of a run, else of initial weights, else one trained for it.

    Raises:
        InputError: the run has other classes, or the weights are missing or unknown.
    """
    choose_device(choice.device)  # wrong values are refused before any work
    if choice.resolution is not None:
        choice = replace(choice, resolution=as_resolution(choice.resolution))
    if choice.width_mult is not None:
        WIDTH_MULT.check("width_mult", choice.width_mult)
    if choice.model is not None:
        model, width_mult = resolve_name(choice.model, choice.width_mult)
        get_arch(model, Settings())
        choice = replace(choice, model=model, width_mult=width_mult)
    others = (choice.model, choice.width_mult, choice.preprocess)
    if choice.run is not None and (str(choice.start) != "auto" or any(others)):
        raise InputError(
            "--run looks with the run's network and preprocessing; it takes no --from, --model, "
            "--width-mult or --preprocess"
        )
    found = _of_run(images, choice) if choice.run is not None else _of_start(choice, reporter)
    if found is None:
        return _own(images, choice)
    given = choice.run is not None and choice.resolution is None
    return _of_model(found, images, choice, None if given else _resolution(images, choice))


def _of_run(images: ImageSet, choice: ExaminerChoice) -> Model:
    assert choice.run is not None
    model = resolve(choice.run).model
    match_classes(images.classes, model.classes, where=images.name)
    return model


def _of_start(choice: ExaminerChoice, reporter: Reporter) -> Model | None:
    found = read_start(
        choice.start,
        model=choice.model,
        width_mult=choice.width_mult,
        report=reporter.download,
        preprocess=choice.preprocess,
    )
    if found is None and str(choice.start) == "auto":
        name, width = choice.model or DEFAULT_MODEL, choice.width_mult or 1.0
        found = automatic_start(
            name, width_mult=width, report=reporter.download, remark=reporter.remark
        )
    return found


def _resolution(images: ImageSet, choice: ExaminerChoice) -> Resolution:
    return choice.resolution or min(max(suggest_resolution(images), _LEAST), _MOST)


def _of_model(
    model: Model, images: ImageSet, choice: ExaminerChoice, resolution: Resolution | None
) -> Examiner:
    if resolution is not None:
        model = replace(model, arch=replace(model.arch, resolution=resolution))
    device = choose_device(choice.device)
    network = for_inference(model.network.to(device))
    normalise = Normalise(model.preprocess).to(device)

    def describe(pixels: NDArray[np.uint8]) -> Numbers:
        features = features_in_batches(network, normalise, pixels)
        if not images.flippable:
            return features
        mirrored = np.ascontiguousarray(pixels[..., ::-1])
        features += features_in_batches(network, normalise, mirrored)
        return features

    return Examiner(
        name=f"{model.arch.name} at {resolution_text(model.arch.resolution)} "
        f"({model.origin.source}), logistic regression on its features",
        resolution=model.arch.resolution,
        preprocess=model.preprocess,
        describe=describe,
        fitting=lambda features, _, labels: _logistic(features, labels),
        quick=True,
    )


def _logistic(features: Numbers, labels: NDArray[np.int64]) -> Fit:
    from sklearn.linear_model import LogisticRegression

    classes = int(labels.max()) + 1
    # Averages of activations have a few large values; square roots bring them nearer to the others.
    roots = np.sign(features) * np.sqrt(np.abs(features))
    values = roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-6)

    def fit(rows: NDArray[np.int64], answered: NDArray[np.int64]) -> NDArray[np.float64]:
        found = np.full((len(answered), classes), _FAINTEST)
        known = np.unique(labels[rows])
        if len(known) < 2:
            found[:, known] = 0
            return found
        mean = values[rows].mean(axis=0)
        spread = max(float(values[rows].std(axis=0).mean()), 1e-6)
        regression = LogisticRegression(C=_PENALTY, max_iter=200, tol=1e-3)
        regression.fit((values[rows] - mean) / spread, labels[rows])
        answers = regression.predict_log_proba((values[answered] - mean) / spread)
        found[:, regression.classes_] = np.maximum(answers, _FAINTEST)
        return found

    return fit


def _own(images: ImageSet, choice: ExaminerChoice) -> Examiner:
    """Return an examiner without weights, whose network is trained for each fold."""
    resolution = choice.resolution or min(suggest_resolution(images), _OWN_MOST)
    return Examiner(
        name=f"{_OWN} x{_OWN_WIDTH} at {resolution_text(resolution)}, trained for the audit",
        resolution=resolution,
        preprocess=PRESETS["torch"],
        describe=lambda pixels: np.empty((len(pixels), 0), np.float32),
        fitting=lambda _, usable, labels: _trained(images, usable, labels, resolution, choice),
        quick=False,
    )


def _trained(
    images: ImageSet,
    usable: Sequence[LabelledImage],
    labels: NDArray[np.int64],
    resolution: Resolution,
    choice: ExaminerChoice,
) -> Fit:
    classes = int(labels.max()) + 1

    def fit(rows: NDArray[np.int64], answered: NDArray[np.int64]) -> NDArray[np.float64]:
        known = np.unique(labels[rows])
        number = {label: place for place, label in enumerate(known.tolist())}

        def some(chosen: NDArray[np.int64]) -> tuple[LabelledImage, ...]:
            # The label of an image of no known class is not asked for.
            return tuple(
                replace(usable[row], label=number.get(int(labels[row]), 0))
                for row in chosen.tolist()
            )

        part = ImageSet(
            name="audit",
            classes=tuple(f"{label:06}" for label in known),
            splits={"train": some(rows), "val": some(answered)},
            flippable=images.flippable,
        )
        with scratch() as folder:
            run = run_train(
                part,
                NetworkChoice(_OWN, _OWN_WIDTH, resolution),
                start="scratch",
                overrides={"epochs": _OWN_EPOCHS},
                out=folder / "run",
                device=choice.device,
                reading=Reading(max_unusable=1.0),
                sitting=Sitting(),
            )
            model = run.model
        split, _ = load_split(
            part.splits["val"], resolution=resolution, preprocess=model.preprocess
        )
        normalise = Normalise(model.preprocess)
        found = np.full((len(answered), classes), _FAINTEST)
        logits = checkpoint_logits(model.network, normalise, split.pixels).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        found[:, known] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return found

    return fit
