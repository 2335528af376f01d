"""Images for pruning: to score channels, measure batch norms and judge accuracy."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from mobilette.compression.channel_scores import Scores, taylor_scores
from mobilette.data.cache import images_cache
from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.digests import NEW, Trained
from mobilette.data.division import WHOLE, Division
from mobilette.data.images import ImageSet
from mobilette.data.normalise import Normalise
from mobilette.data.reading import Reading
from mobilette.data.store import part_of
from mobilette.errors import InputError
from mobilette.formats.fitting import measure_batch_norm
from mobilette.model.class_matching import guessed, match_classes, relabelled
from mobilette.model.model import Model
from mobilette.progress import Reporter
from mobilette.run.inference import checkpoint_logits
from mobilette.run.metrics import measure
from mobilette.training.events import Now
from mobilette.training.loss import Loss
from mobilette.training.recipe import Recipe

SCORED, SCORE_BATCH = 2048, 32  # small batches: scores are means of squares over batches
MEASURED, MEASURE_BATCH = 512, 128


def with_classes_of(model: Model, images: ImageSet) -> ImageSet:
    """Return ``images`` with the classes of ``model``, in their order.

    Raises:
        InputError: they are not of its classes, or not of all of them.
    """
    known = [label.id for label in model.classes]
    index, by = match_classes(images.classes, model.classes, where=images.name)
    if len(index) < len(known):
        missing = [name for number, name in enumerate(known) if number not in index]
        raise InputError(
            f"{images.name} has {len(index)} of the {len(known)} classes of "
            f"{model.origin.source}; all are needed "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''} missing)"
        )
    if model.multi_label != images.multi_label:
        its, theirs = ("several", "one") if model.multi_label else ("one", "several")
        raise InputError(
            f"{model.origin.source}: the model has {its} of the classes per image, but "
            f"{images.name} has {theirs}"
        )
    return replace(
        images,
        classes=tuple(known),
        splits={
            split: relabelled(some, index, multi_label=images.multi_label)
            for split, some in images.splits.items()
        },
        remarks=(*images.remarks, *guessed(by)),
    )


class HeldImages:
    """The training and validation images, prepared for a model.

    None that the model was trained on (``before``) is held out, unless ``reading`` includes them.
    ``seconds`` is how long reading took; ``kept`` whether the next step finds them cached;
    ``includes_trained`` whether some are held out all the same, ``None`` if that is not known.
    """

    def __init__(
        self,
        images: ImageSet,
        model: Model,
        *,
        device: torch.device,
        reading: Reading,
        reporter: Reporter,
        before: Trained = NEW,
        division: Division = WHOLE,
        now: Now = time.perf_counter,
    ) -> None:
        begun, cache = now(), images_cache(reporter.remark)
        used = NEW if reading.include_trained else before
        self.dataset = load_dataset(
            images,
            resolution=model.arch.resolution,
            preprocess=model.preprocess,
            reading=replace(reading, cache=cache),
            reporter=reporter,
            division=division,
            known=used.for_another(),
            seen=used.images,
        )
        self.includes_trained = _includes(self.dataset, before, asked=reading.include_trained)
        self.normalise = Normalise(model.preprocess).to(device)
        self.device = device
        self.seconds, self.kept = now() - begun, cache is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.dataset.close()

    def accuracy(self, model: Model, number: int | None = None) -> float:
        """Return top-1 (multi-label: mAP) on the held-out images, or the first ``number``."""
        network = copy.deepcopy(model.network).to(self.device)
        split = self.dataset.splits["val"]
        pixels = part_of(split.pixels, 0, len(split.labels) if number is None else number)
        logits = checkpoint_logits(network, self.normalise, pixels)
        usable = split.usable()[: len(logits)]
        labels = split.labels[: len(logits)][usable]
        return measure(logits[usable], labels, self.dataset.classes).score

    def taylor(self, model: Model, number: int = SCORED) -> Scores:
        """Return the Taylor scores of the model's channels on ``number`` training images."""
        loss = Loss(Recipe(label_smoothing=0.0), multi_label=self.dataset.multi_label)
        return taylor_scores(model, self._batches(number, SCORE_BATCH), loss=loss.of_labels)

    def measure_norms(self, model: Model, number: int = MEASURED) -> Model:
        """Return ``model`` with batch norms measured on ``number`` training images, on the CPU."""
        batches = (x.cpu() for x, _ in self._batches(number, MEASURE_BATCH))
        return replace(model, weights=measure_batch_norm(model.arch, model.weights, batches))

    def _batches(self, number: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        train = self.dataset.splits["train"]
        drawn = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(train.labels), generator=drawn)[:number]
        for rows in chosen.tensor_split(-(-len(chosen) // size)):
            pixels = torch.from_numpy(train.pixels[rows.numpy()]).to(self.device)
            labels = torch.from_numpy(train.labels[rows.numpy()]).to(self.device)
            usable = torch.from_numpy(train.usable()[rows.numpy()])  # known only after reading
            pixels, labels = pixels[usable], labels[usable]
            yield self.normalise(pixels).contiguous(memory_format=torch.channels_last), labels


def _includes(dataset: Dataset, before: Trained, *, asked: bool) -> bool | None:
    content = dataset.content
    if asked and content is None:  # the images are not read yet
        return None
    found = asked and content is not None and len(content["val"] & before.images) > 0
    return None if before.unknown and not found else found
