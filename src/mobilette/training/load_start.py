"""Initial weights are put into a network that is about to be trained."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mobilette.data.dataset import Dataset
from mobilette.training.measured import pictures_to_measure
from mobilette.training.start import Start
from mobilette.training.step import Trainer
from mobilette.weights.fitting import fit_weights


def load_start(start: Start, trainer: Trainer, dataset: Dataset, *, keep_classifier: bool) -> None:
    """Give ``trainer`` the weights of ``start``, made to fit its network.

    Args:
        start: the weights, for whose network `choose_arch` chose that of ``trainer``.
        trainer: on the device where it trains.
        dataset: batch norms are measured on its training pictures where they have to be.
        keep_classifier: whether the classes are the same.
    """
    network = trainer.network

    def batches() -> Iterator[Tensor]:
        return (
            batch.cpu() for batch in pictures_to_measure(trainer, dataset.splits["train"], epoch=0)
        )

    fitted = fit_weights(
        start.arch, start.weights, network.arch, keep_classifier=keep_classifier, batches=batches
    )
    network.load_state_dict(fitted, strict=False)
    trainer.average.network.load_state_dict(network.state_dict())
