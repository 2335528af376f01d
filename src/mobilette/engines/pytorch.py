"""PyTorch: executes the checkpoint of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from mobilette.data.cores import threads_by_quota
from mobilette.data.normalise import Normalise
from mobilette.engines.predictor import Predictor
from mobilette.nn.network import Network
from mobilette.run.directory import Run
from mobilette.run.inference import largest_batch, logits_in_batches


class CheckpointPredictor(Predictor):
    """A run's best weights, executed by PyTorch."""

    engine = "PyTorch"

    def __init__(self, run: Run, *, device: torch.device | str = "cpu", threads: int = 0) -> None:
        self.arch, self.preprocess, self.classes = run.arch, run.preprocess, run.classes
        self.multi_label = run.multi_label
        self.threads = threads or min(threads_by_quota(), torch.get_num_threads())
        self.network: Network = run.network.to(torch.device(device))
        self.normalise = Normalise(run.preprocess).to(torch.device(device))
        self._size = largest_batch(self.network)

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        with _threads(self.threads):
            return logits_in_batches(self.network, self.normalise, pixels, size=self._size)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads inside, or as many as it does where that is 0."""
    before = torch.get_num_threads()
    if count in (0, before):
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
