"""`explain`: which parts of images speak for answers, and whether that is to be believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact
from mobilette.data.formats import UnusableImage
from mobilette.engines.answers import Failure
from mobilette.engines.images import ImageLike, images_of, name_of, read_image
from mobilette.engines.load import load
from mobilette.engines.predictor import NOT_FINITE, Predictor
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.errors import InputError, nearest, one_of, shown, visible
from mobilette.limits import SEED
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.run.directory import Run
from mobilette.verification.heat_map import enlarged, grad_cams
from mobilette.verification.occlusion import Check, answers_for, check_map, occlusion_map

Method = Literal["grad-cam", "occlusion"]
METHODS: tuple[Method, ...] = ("grad-cam", "occlusion")


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Where an image speaks for a class.

    Attributes:
        path: of the image; empty if it has none.
        label: the class that is explained: the best guess, or the one that was asked for.
        probability: that the model gives it, calibrated.
        method: ``grad-cam`` or ``occlusion``.
        pixels: what the network sees of the image, uint8 (C, H, W), RGB or grey.
        map: the map as it was measured, float32 (h, w) from 0 to 1.
        heat: the map over ``pixels``, float32 (H, W).
        peak: the warmest place, (x, y) from 0 to 1 of width and height of ``pixels``.
        check: whether the map is to be believed.
    """

    path: str
    label: str
    probability: float
    method: Method
    pixels: NDArray[np.uint8]
    map: NDArray[np.float32]
    heat: NDArray[np.float32]
    peak: tuple[float, float]
    check: Check

    def to_json(self) -> dict[str, object]:
        """Return the explanation as JSON values, without pixels."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "method": self.method,
            "peak": list(self.peak),
            "map": [[round(float(value), 4) for value in row] for row in self.map],
            "hidden": self.check.hidden,
            "elsewhere": self.check.elsewhere,
            "ratio": self.check.ratio,
            "believed": self.check.believed,
            "verdict": self.check.verdict,
        }


@checked
def explain(
    model: str | Path | Run | Artifact | Model | Predictor,
    images: object,
    *,
    label: str | None = None,
    method: Method | None = None,
    device: str = "cpu",
    threads: int = 0,
    seed: int = 0,
) -> tuple[Explanation, ...]:
    """Return which parts of ``images`` speak for their answers, and whether that is so.

    A run or a model is explained by Grad-CAM, from the last feature maps that still show places;
    an artifact by occlusion: its own engine answers with one place after another hidden. Every map
    is checked: hiding its warmest fifth has to matter more than hiding as much elsewhere.

    Args:
        model: as for `load`, or its result.
        images: as for `Predictor.predict`.
        label: the class to explain, by name or id; by default each image's best guess.
        method: ``grad-cam`` or ``occlusion``.
        device: as for `load`, like ``threads``.
        threads: of the engine.
        seed: of the places that are hidden for comparison.

    Raises:
        InputError: an image cannot be read, there is no such class, or the model has no gradients.
    """
    found = []
    for number, each in enumerate(
        explain_each(
            model if isinstance(model, Predictor) else load(model, device=device, threads=threads),
            images,
            label=label,
            method=method,
            seed=seed,
        ),
        start=1,
    ):
        if isinstance(each, Failure):
            raise InputError(visible(f"{each.path or f'image {number}'}: {each.error}"))
        found.append(each)
    return tuple(found)


def explain_each(
    predictor: Predictor,
    images: object,
    *,
    label: str | None = None,
    method: str | None = None,
    seed: int = 0,
) -> Iterator[Explanation | Failure]:
    """Yield what `explain` returns of each image, or why it cannot be read.

    Raises:
        InputError: as for `explain`, at once.
    """
    predictor.check_classifier()
    SEED.check("seed", seed)
    index = None if label is None else class_index(predictor.classes, label)
    own = "grad-cam" if isinstance(predictor, CheckpointPredictor) else "occlusion"
    chosen = one_of(method or own, METHODS, "method")
    if chosen == "grad-cam" and own != chosen:
        raise InputError(
            "method grad-cam needs gradients, which an artifact has not; give the run that it was "
            "exported from, or method occlusion"
        )
    asked = images_of(images)
    return (_explained(predictor, image, index, chosen, seed) for image in asked)


def class_index(classes: tuple[ClassLabel, ...], label: str) -> int:
    """Return the number of the class whose name or id is ``label``, counted from 0.

    Raises:
        InputError: there is none, or two of that name.
    """
    found = [i for i, each in enumerate(classes) if each.name == label]
    found = found or [i for i, each in enumerate(classes) if each.id == label]
    if not found:
        names = [each.name for each in classes]
        raise InputError(f"label {shown(label)} is none of the classes{nearest(label, names)}")
    if len(found) > 1:
        ids = ", ".join(classes[i].id for i in found[:5])
        raise InputError(
            f"label {shown(label)} is the name of {len(found)} classes; give an id: {ids}"
        )
    return found[0]


def _explained(
    predictor: Predictor, image: ImageLike, index: int | None, method: str, seed: int
) -> Explanation | Failure:
    name = name_of(image)
    try:
        seen = predictor.preprocess.geometry(read_image(image), predictor.arch.resolution)
        pixels = np.array(seen)  # PyTorch warns of memory that is not writable
    except UnusableImage as error:
        return Failure(path=name, error=str(error))
    logits = predictor.logits(pixels[None])[0]
    if not np.isfinite(logits).all():
        return Failure(path=name, error=NOT_FINITE)
    index = int(logits.argmax()) if index is None else index
    if isinstance(predictor, CheckpointPredictor) and method == "grad-cam":
        found = grad_cams(predictor.model, pixels[None], np.array([index]))[0]
    else:
        found = occlusion_map(predictor, pixels, index)
    heat = enlarged(found, predictor.arch.size)
    top, left = np.unravel_index(heat.argmax(), heat.shape)
    height, width = heat.shape
    probabilities, _ = answers_for(predictor, [pixels], index)
    return Explanation(
        path=name,
        label=predictor.classes[index].name,
        probability=float(probabilities[0]),
        method="grad-cam" if method == "grad-cam" else "occlusion",
        pixels=pixels,
        map=found,
        heat=heat,
        peak=((int(left) + 0.5) / width, (int(top) + 0.5) / height),
        check=check_map(predictor, pixels, heat, index, seed=seed),
    )
