"""One training step: augment, forward, loss, backward, update, average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilette.data.augmentation import flip_and_crop
from mobilette.data.normalise import Normalise
from mobilette.nn.network import Network
from mobilette.training.ema import WeightAverage
from mobilette.training.environment import Precision
from mobilette.training.optimiser import learning_rate
from mobilette.training.randomness import Purpose, derive, generator
from mobilette.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a step changes (network, average, optimiser) and what it needs to know."""

    network: Network
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    normalise: Normalise
    recipe: Recipe
    precision: Precision
    flip: bool

    def begin_epoch(self, epoch: int) -> None:
        """Set what is trained, and what batch norms do, in ``epoch`` (counted from 0)."""
        self.network.train()
        if epoch < self.recipe.frozen_epochs:
            self.network.stem.eval()
            self.network.rows.eval()
        if self.recipe.norm_statistics == "kept":
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def _logits(self, x: Tensor, *, frozen: bool) -> Tensor:
        if frozen:
            with torch.no_grad():
                x = self.network.rows(self.network.stem(x))
            x = self.network.head(x)
        else:
            x = self.network(x)
        return x

    def step(
        self, pixels: Tensor, labels: Tensor, *, index: int, place: tuple[int, int], progress: float
    ) -> Tensor:
        """Train on one batch and return its mean loss, a scalar on the device.

        Args:
            pixels: uint8 (N, C, H, W) on the training device.
            labels: int64 (N,).
            index: steps taken before this one, in the whole run.
            place: (epoch, step in it), from which this step's random numbers are derived.
            progress: the part of the run that is over, 0 to 1.
        """
        recipe = self.recipe
        rate = learning_rate(recipe, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        torch.manual_seed(
            derive(recipe.seed, Purpose.step, *place)
        )  # dropout draws from the global generator
        batch = flip_and_crop(
            pixels,
            flip=self.flip,
            padding=round(recipe.crop_padding * pixels.shape[-1]),
            generator=generator(recipe.seed, Purpose.step, *place),
        )
        x = self.normalise(batch).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self._logits(x, frozen=place[0] < recipe.frozen_epochs)
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=recipe.label_smoothing
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.average.update(index)
        return loss.detach()
