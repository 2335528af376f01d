"""The training loss."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobilette.training.recipe import Recipe


class Loss:
    """The loss of a recipe: labels, smoothed and weighted, and a teacher's answers.

    One label per image: cross-entropy. Several: mean binary cross-entropy over the classes.
    """

    def __init__(self, recipe: Recipe, *, multi_label: bool, weights: Tensor | None = None) -> None:
        """Make the loss; ``weights`` (classes,) are per class, by default 1."""
        self.recipe, self.multi_label, self.weights = recipe, multi_label, weights

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """Return float targets (N, classes) for ``labels``, (N,) or 0 and 1 of (N, classes)."""
        if self.multi_label:
            return labels.float()
        # `one_hot` would wait for a GPU to check the labels.
        hot = torch.zeros(len(labels), classes, device=labels.device)
        return hot.scatter_(1, labels[:, None], 1.0)

    def of_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the images, a scalar scaled by the weights.

        ``logits`` are float (N, classes); ``targets`` are int64 (N,) class indices, or what
        `targets` returned, mixed or not.
        """
        smoothing = self.recipe.label_smoothing
        if not self.multi_label:
            total = functional.cross_entropy(
                logits,
                targets,
                weight=self.weights,
                label_smoothing=smoothing,
                reduction="sum",
            )
            # Torch would divide by the weights of these labels: parts would not add up to a batch.
            return total / len(logits)
        targets = targets.float() * (1.0 - smoothing) + 0.5 * smoothing
        return functional.binary_cross_entropy_with_logits(logits, targets, weight=self.weights)

    def of_guessing(self, classes: int) -> float:
        """Return an untrained network's loss on an image of the class with the largest weight.

        A batch may hold only images of a rare class with a large weight.
        """
        most = 1.0 if self.weights is None else max(1.0, float(self.weights.max()))
        return most * (math.log(2.0) if self.multi_label else math.log(classes))

    def of_teacher(self, logits: Tensor, taught: Tensor) -> Tensor:
        """Return how far ``logits`` are from the teacher's ``taught``, both softened; a scalar.

        T² times the Kullback-Leibler divergence (Hinton et al. 2015, arXiv 1503.02531, section 2);
        with several labels per image, of each class's own probability.
        """
        heat = self.recipe.temperature
        if self.multi_label:
            wanted = torch.sigmoid(taught / heat)
            of_all = functional.binary_cross_entropy_with_logits(logits / heat, wanted)
            least = functional.binary_cross_entropy(wanted, wanted)
            return heat * heat * (of_all - least)
        return (heat * heat) * functional.kl_div(
            functional.log_softmax(logits / heat, 1),
            functional.log_softmax(taught / heat, 1),
            log_target=True,
            reduction="batchmean",
        )

    def __call__(self, logits: Tensor, targets: Tensor, taught: Tensor | None = None) -> Tensor:
        """Return the sum of both losses, weighted by the recipe."""
        loss = self.of_labels(logits, targets)
        if taught is None:
            return loss
        part = self.recipe.distillation
        return (1.0 - part) * loss + part * self.of_teacher(logits, taught)


def balanced_weights(labels: NDArray[np.int64] | NDArray[np.uint8], classes: int) -> Tensor:
    """Return float32 weights (classes,) that make every class count the same.

    They are images / (classes x images of the class); 1 for a class without images.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = np.where(counts > 0, len(labels) / (classes * np.maximum(counts, 1)), 1.0)
    return torch.from_numpy(weights.astype(np.float32))
