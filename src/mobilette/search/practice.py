"""Short trainings on images in memory, judged on some that are kept apart."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mobilette.compression.channel_scores import Scores, taylor_scores
from mobilette.data.dataset import Dataset
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError
from mobilette.model.model import Model
from mobilette.nn.network import Network, measure_statistics
from mobilette.run.inference import checkpoint_logits
from mobilette.run.metrics import measure
from mobilette.training.environment import can_fuse_norms, choose_precision
from mobilette.training.loss import Loss
from mobilette.training.recipe import Recipe
from mobilette.training.sampling import Purpose, epoch_order, generator, images_per_step
from mobilette.training.step import Trainer

# Of the training images, what judges: NetAdapt's authors keep ten images a class of ImageNet, 1%
# (section 4.1); of small sets that would be too few.
APART, MOST_APART = 0.25, 2_000
LARGEST = 2**30  # bytes of decoded images
SCORED, SCORE_BATCH = 512, 32  # small batches: scores are means of squares over batches
MEASURED, MEASURE_BATCH = 256, 128


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a network answers to the images kept apart.

    Attributes:
        score: top-1, or mean average precision.
        loss: mean cross-entropy. It tells networks apart that make the same few mistakes.
    """

    score: float
    loss: float


class Practice:
    """The training images of a set, decoded once, for as many short trainings as are wanted.

    A part of them is kept apart to judge; the split ``val`` is never looked at. All networks see
    the same images in the same order, so that they differ in nothing else.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        preprocess: Preprocess,
        recipe: Recipe,
        device: torch.device,
        apart: float = APART,
    ) -> None:
        """Read the images into memory, or as many as `LARGEST` allows.

        Args:
            dataset: whose split ``train`` is used.
            preprocess: how the networks take images.
            recipe: its batch size, optimiser, peak rate, augmentation and loss are used.
            device: trains and judges.
            apart: fraction of the images that judge.

        Raises:
            InputError: there are too few images.
        """
        train = dataset.splits["train"]
        drawn = generator(recipe.seed, Purpose.statistics)
        chosen = torch.randperm(len(train.labels), generator=drawn).numpy()
        each = math.prod(train.pixels.shape[1:])
        chosen = chosen[: max(LARGEST // each, 1)]
        pixels = np.asarray(train.pixels[chosen])
        usable = train.usable()[chosen]
        images = torch.from_numpy(pixels[usable]).to(device)
        labels = torch.from_numpy(train.labels[chosen[usable]]).to(device)
        judging = min(round(apart * len(images)), MOST_APART)
        if judging < 1 or len(images) - judging < 2:
            raise InputError(
                f"{dataset.source}: {len(images)} training images are too few to keep some apart"
            )
        self.apart, self.apart_labels = images[:judging], labels[:judging]
        self.pixels, self.labels = images[judging:], labels[judging:]
        self.classes, self.device = dataset.classes, device
        self.flippable, self.multi_label = dataset.flippable, dataset.multi_label
        self.normalise = Normalise(preprocess).to(device)
        # Networks differ and live for a few steps: compiling them would take longer.
        self.recipe = replace(recipe, compile="never", start_resolution=1.0, frozen_epochs=0)
        self.batch = images_per_step(recipe.batch_size, len(self.pixels), processes=1)

    def trained(self, model: Model, steps: int, *, begun: int = 0) -> Model:
        """Return ``model`` after ``steps`` steps at the recipe's peak rate, batch norms measured.

        ``begun`` is the steps done before, which decides what images come. The weights are the
        steps' average. Without steps, only the batch norms are measured.
        """
        recipe = self.recipe
        measures = recipe.norm_statistics == "batch"
        if not steps:
            return self._measured_anew(model) if measures else model
        network = copy.deepcopy(model.network).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainer = Trainer(
            network,
            normalise=self.normalise,
            recipe=recipe,
            precision=choose_precision(recipe.precision, self.device),
            fused_norms=can_fuse_norms(self.device),
            flip=self.flippable,
            loss=self._loss(recipe),
        )
        with torch.random.fork_rng():
            trainer.begin_epoch(0)
            for index, (place, rows) in enumerate(self._order(begun, steps)):
                trainer.step(
                    self.pixels[rows],
                    self.labels[rows],
                    index=index,
                    place=place,
                    progress=recipe.warmup,  # where the rate is at its peak
                )
        if measures:
            trainer.average.measure_statistics(self._measured())
        return _with_weights(model, trainer.average.network)

    def _measured_anew(self, model: Model) -> Model:
        network = copy.deepcopy(model.network).to(self.device)
        network.fused_norms = can_fuse_norms(self.device)
        measure_statistics(network, self._measured())
        return _with_weights(model, network)

    def judged(self, model: Model) -> Judgement:
        """Return how ``model`` answers to the images kept apart."""
        network = copy.deepcopy(model.network).to(self.device)
        logits = checkpoint_logits(network, self.normalise, self.apart.cpu().numpy())
        found = measure(logits, self.apart_labels.cpu().numpy(), self.classes)
        loss = found.loss if math.isfinite(found.loss) else math.inf
        return Judgement(score=found.score, loss=loss)

    def scores(self, model: Model) -> Scores:
        """Return the Taylor scores of the model's channels, on training images."""
        loss = self._loss(replace(self.recipe, label_smoothing=0.0))
        return taylor_scores(model, self._scored(), loss=loss.of_labels)

    def _loss(self, recipe: Recipe) -> Loss:
        return Loss(recipe, multi_label=self.multi_label)

    def _order(self, begun: int, steps: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Yield place (epoch, step) and rows of each step."""
        labels = self.labels.cpu().numpy()
        each = len(labels) // self.batch
        order: dict[int, Tensor] = {}
        for index in range(begun, begun + steps):
            epoch, step = divmod(index, each)
            if epoch not in order:
                drawn = generator(self.recipe.seed, Purpose.order, epoch)
                order = {
                    epoch: epoch_order(
                        labels, sampling=self.recipe.sampling, shards=None, generator=drawn
                    )
                }
            rows = order[epoch][step * self.batch : (step + 1) * self.batch]
            yield (epoch, step), rows.to(self.device)

    def _scored(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self._rows(SCORED, SCORE_BATCH):
            yield self._input(self.pixels[rows]), self.labels[rows]

    def _measured(self) -> Iterator[Tensor]:
        for rows in self._rows(MEASURED, MEASURE_BATCH):
            yield self._input(self.pixels[rows])

    def _rows(self, number: int, size: int) -> tuple[Tensor, ...]:
        """Return ``number`` images in equal parts of at most ``size``, so that each has two."""
        rows = torch.arange(min(number, len(self.pixels)), device=self.device)
        return rows.tensor_split(-(-len(rows) // size))

    def _input(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.normalise(pixels)
        return x.contiguous(memory_format=torch.channels_last)


def _with_weights(model: Model, network: Network) -> Model:
    weights = {name: each.cpu().clone() for name, each in network.state_dict().items()}
    return replace(model, weights=weights)
