"""What a training ends with: its best weights on images that nothing was chosen by."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from mobilette.data.dataset import Dataset
from mobilette.data.splits import Split
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.run.directory import Run, open_run
from mobilette.run.metrics import measure
from mobilette.run.tested import write_tested
from mobilette.training.session import Machine

BATCH = 32


def measure_test(run: Run, dataset: Dataset, machine: Machine) -> None:
    """Measure the best weights of a finished run on ``test``, where there is one, and record it.

    Every process waits until all that is written about these weights is there.
    """
    test = dataset.splits.get("test")
    if test is not None and machine.world.writes:
        with closing(dataset):  # streamed images are read once more
            _measure(run, test, machine)
    machine.world.barrier()


def _measure(run: Run, test: Split, machine: Machine) -> None:
    predictor = CheckpointPredictor(open_run(run.path), device=machine.device)
    logits = [
        predictor.batch_logits(test.pixels[first : first + BATCH])
        for first in range(0, len(test.labels), BATCH)
    ]
    usable = test.usable()
    if usable.any():
        ids = [label.id for label in run.classes]
        write_tested(run, measure(np.concatenate(logits)[usable], test.labels[usable], ids))
