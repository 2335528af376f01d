"""Initial weights are put into a network that is about to be trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mobilette.data.dataset import Dataset
from mobilette.formats.fitting import fit_weights
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.training.measured import images_to_measure
from mobilette.training.optimiser import classifier, scale_classifier
from mobilette.training.step import Trainer

# Standard deviation of a new classifier's first logits.
_MOST_SPREAD = 1.0


def load_start(start: Model, trainer: Trainer, dataset: Dataset, *, keep_classifier: bool) -> None:
    """Give ``trainer`` the weights of ``start``, made to fit its network.

    The classifier learns at a rate that suits what it sees (`scale_classifier`).

    Args:
        start: the weights, for whose network `choose_arch` chose that of ``trainer``.
        trainer: on the device where it trains.
        dataset: batch norms are measured on its training images where they have to be.
        keep_classifier: whether the classes are the same.
    """
    network = trainer.network

    def batches() -> Iterator[Tensor]:
        return (
            batch.cpu() for batch in images_to_measure(trainer, dataset.splits["train"], epoch=0)
        )

    fitted = fit_weights(
        start.arch, start.weights, network.arch, keep_classifier=keep_classifier, batches=batches
    )
    network.load_state_dict(fitted, strict=False)
    average = trainer.average.network
    average.load_state_dict(network.state_dict())
    squared = _squared_length(average, next(iter(batches())))
    if not keep_classifier:
        calm(classifier(network), squared)
        average.load_state_dict(network.state_dict())
    if dataset.multi_label:  # the loss is a mean over the classes
        squared /= len(dataset.classes)
    scale_classifier(trainer.optimizer, network, trainer.recipe, squared=squared)


@torch.no_grad()
def calm(drawn: nn.Module, squared: float) -> None:
    """Shrink the drawn weights of a classifier whose first answers would be far too sure.

    Those of SqueezeNet, which has no batch norm, have a loss of 160 where guessing has 1.6.
    """
    for name, parameter in drawn.named_parameters():
        spread = float(parameter.std()) * squared**0.5 if name.endswith("weight") else 0.0
        if spread > _MOST_SPREAD:
            parameter.mul_(_MOST_SPREAD / spread)


@torch.no_grad()
def _squared_length(network: Network, images: Tensor) -> float:
    """Return the mean squared length of the vectors that the classifier sees."""
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs  # (N, C), or (N, C, H, W) of which the mean is taken afterwards
        seen.append((x.mean((2, 3)) if x.ndim == 4 else x).square().sum(1).mean())

    handle = classifier(network).register_forward_pre_hook(look)
    network(images.to(next(network.parameters()).device))
    handle.remove()
    return float(seen[0])
