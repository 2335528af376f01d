"""What a step and a validation take, measured before the first."""

from __future__ import annotations

import copy

import numpy as np
import torch

from mobilette.data.dataset import Dataset
from mobilette.data.streaming import part_of
from mobilette.run.inference import checkpoint_logits
from mobilette.training.clock import Now
from mobilette.training.measured import PICTURES
from mobilette.training.recovery import is_out_of_memory
from mobilette.training.step import Trainer
from mobilette.training.time_plan import Costs

_VALIDATED = 64  # pictures that a validation is measured on
_LONG = 0.02  # of the time: a first step that takes longer is not repeated


def measure_costs(
    trainer: Trainer, dataset: Dataset, *, share: int, limit: float, now: Now
) -> Costs | None:
    """Return what steps and validations take, the longest over all processes.

    ``trainer`` is afterwards what it was before. ``None`` where memory runs out: steps in smaller
    parts are a matter of the loop.

    Args:
        trainer: with its initial weights.
        dataset: pictures to train on and to validate.
        share: pictures of a step in this process.
        limit: seconds in which all training is to be done.
        now: tells the time.
    """
    network, average = trainer.network, trainer.average.network
    before = [copy.deepcopy(each.state_dict()) for each in (network, average)]
    scaler = trainer.scaler.state_dict()
    train = dataset.splits["train"]
    rows = np.arange(share)
    pixels = torch.from_numpy(train.pixels[rows]).to(trainer.device)
    labels = torch.from_numpy(train.labels[rows]).to(trainer.device)

    def step(epoch: int) -> float:
        begun = now()
        trainer.begin_epoch(epoch)
        loss = trainer.step(pixels, labels, index=0, place=(0, 0), progress=0.0)
        float(loss)  # waits for the device
        return now() - begun

    frozen_epochs = trainer.recipe.frozen_epochs
    try:
        first = step(frozen_epochs)
        (first,) = trainer.world.agree_on((first,))
        whole = first if first > _LONG * limit else step(frozen_epochs)
        frozen = 0.0
        if frozen_epochs:
            first_frozen = step(0)
            frozen = min(first_frozen, whole)
        validation = _validation(trainer, dataset, now)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or trainer.world.size > 1:
            raise
        return None
    finally:
        network.load_state_dict(before[0])
        average.load_state_dict(before[1])
        trainer.optimizer.state.clear()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.scaler.load_state_dict(scaler)
    whole, frozen, validation = trainer.world.agree_on((whole, frozen, validation))
    return Costs(step=whole, frozen_step=frozen, validation=validation)


def _validation(trainer: Trainer, dataset: Dataset, now: Now) -> float:
    split = dataset.splits["val"]
    count = min(_VALIDATED, len(split.labels))
    pixels = part_of(split.pixels, 0, count)
    begun = now()
    checkpoint_logits(trainer.average.network, trainer.normalise, pixels)
    taken = now() - begun
    pictures = len(split.labels) / trainer.world.size
    if trainer.recipe.norm_statistics == "batch":
        pictures += min(PICTURES, len(dataset.splits["train"].labels))
    return taken * max(pictures / count, 1.0)
