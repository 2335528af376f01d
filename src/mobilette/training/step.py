"""One training step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.scale import Resolution
from mobilette.data.augmentation import Augmentation, augment
from mobilette.data.mixing import mix
from mobilette.data.normalise import Normalise
from mobilette.errors import InputError
from mobilette.nn.network import Network
from mobilette.training.distributed import ALONE, World
from mobilette.training.environment import Precision
from mobilette.training.events import Clock
from mobilette.training.graphs import Graphs, Numbers
from mobilette.training.loss import Loss
from mobilette.training.optimiser import (
    SCALE,
    WeightAverage,
    body,
    build_optimizer,
    learning_rate,
    momentum,
    resolution_at,
)
from mobilette.training.recipe import Recipe
from mobilette.training.sampling import Purpose, derive, generator

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Trainer:
    """Network, average, optimiser and scaler, and a training step that changes them."""

    def __init__(
        self,
        network: Network,
        *,
        normalise: Normalise,
        recipe: Recipe,
        precision: Precision = "fp32",
        fused_norms: bool = False,
        flip: bool = True,
        loss: Loss | None = None,
        teacher: Callable[[Tensor], Tensor] | None = None,
        world: World = ALONE,
        clock: Clock | None = None,
    ) -> None:
        """Make a trainer; ``network``, ``normalise`` and ``teacher`` are on the training device.

        Weights stay fp32 at any ``precision``. ``fused_norms``: whether our kernels compute batch
        norms (`mobilette.nn.kernels`). ``flip``: whether a mirrored image means the same. ``loss``
        defaults to one label per image and equal weights. ``teacher`` returns logits for augmented
        pixels. `InputError` if ``start_resolution`` is too small for the network.
        """
        _check_smallest(network.arch, recipe)
        self.network, self.normalise, self.recipe = network, normalise, recipe
        self.precision, self.teacher, self.world = precision, teacher, world
        self.device = normalise.weight.device
        self.loss = loss or Loss(recipe, multi_label=False)
        self.clock = clock or Clock()
        self.average = WeightAverage(network, decay=recipe.ema_decay)
        self.optimizer = build_optimizer(network, recipe, scaled=precision == "fp16")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.augmentation = Augmentation(
            crop=recipe.crop,
            crop_padding=recipe.crop_padding,
            crop_scale=recipe.crop_scale,
            flip=flip and recipe.flip,
            colour_jitter=recipe.colour_jitter,
            randaugment=recipe.randaugment,
            erasing=recipe.erasing,
        )
        launched = self.device.type == "cuda" and not recipe.graphs
        if recipe.compile == "always" or (recipe.compile == "auto" and launched):
            network.compile()
        self._number: Callable[[str, float], float | Tensor] = _rounded
        self._share: float | Tensor = 0.0
        self.graphs: Graphs | None = None
        if recipe.graphs:
            self._number = Numbers(self.device)
            self.graphs = Graphs(self._learn, device=self.device)
            forget = self.graphs.clear  # loading a state replaces the optimiser's tensors
            self.optimizer.register_load_state_dict_post_hook(lambda _: forget())
        network.fused_norms = self.average.network.fused_norms = fused_norms
        self._together: nn.Module = network
        self._frozen: bool | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Set what is trained, and what batch norms do, in ``epoch`` (counted from 0)."""
        frozen = epoch < self.recipe.frozen_epochs
        self.network.train()
        rest = body(self.network)
        if frozen != self._frozen:
            rest.requires_grad_(not frozen)
            if self.world.size > 1:  # it looks only once at what has a gradient
                together = DistributedDataParallel(self.network)
                # Statistics are measured anew. The argument's name varies with torch.
                together.broadcast_buffers = False
                self._together = together
            self._frozen = frozen
        if frozen:
            rest.eval()
        if self.recipe.norm_statistics == "kept":
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def step(
        self,
        pixels: Tensor,
        labels: Tensor,
        *,
        index: int,
        place: tuple[int, int],
        progress: float,
        parts: int = 1,
        rate_factor: float = 1.0,
    ) -> Tensor:
        """Train on one batch, or this process's share of it; return its mean loss, a device scalar.

        Args:
            pixels: uint8 (N, C, H, W) on the training device.
            labels: int64 (N,), or 0 and 1 of (N, classes).
            index: steps taken before this one in the whole run.
            place: (epoch, step within it), from which the step's random numbers are derived.
            progress: fraction of the run that is done, 0 to 1.
            parts: number of parts that go through the network in turn; gradients accumulate.
            rate_factor: multiplies the recipe's rate.
        """
        self._set_numbers(index, progress, rate_factor)
        _, _, height, width = pixels.shape
        resolution = resolution_at(self.recipe, progress, full=(height, width))
        # Each part has the two images that batch norm needs, even if some are broken.
        most = min(parts, max(len(pixels) // 2, 1))
        pieces = list(zip(pixels.tensor_split(most), labels.tensor_split(most), strict=True))
        if self.graphs is not None and most == 1:
            images, targets = self._augment(pixels, labels, resolution, place, self.world.rank)
            loss = self.graphs.step(images, targets, kind=self._frozen)
            self.clock.lap("captured")
            return loss
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for number, (some, theirs) in enumerate(pieces):
            # Parts and processes draw alike, so that two processes equal one with two parts.
            part = self.world.rank * parts + number
            images, targets = self._augment(some, theirs, resolution, place, part)
            is_last, together = number == len(pieces) - 1, self._together
            with (  # gradients are exchanged once
                together.no_sync()
                if isinstance(together, DistributedDataParallel) and not is_last
                else nullcontext()
            ):
                loss = self._loss_of(images, targets) * (len(some) / len(pixels))
                self.clock.lap("forward")
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                self.clock.lap("backward")
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self._share)
        self.clock.lap("optimiser")
        return total

    def _augment(
        self,
        pixels: Tensor,
        labels: Tensor,
        resolution: Resolution,
        place: tuple[int, int],
        part: int,
    ) -> tuple[Tensor, Tensor]:
        """Return images and targets of one part of a step, and seed what the network draws."""
        recipe, words = self.recipe, (*place, part)
        torch.manual_seed(derive(recipe.seed, Purpose.step, *words))  # dropout
        drawn = generator(recipe.seed, Purpose.step, *words)
        pixels = augment(pixels, self.augmentation, resolution=resolution, generator=drawn)
        targets = labels
        if recipe.mixup or recipe.cutmix:
            targets = self.loss.targets(labels, self.network.arch.num_classes)
            pixels, targets = mix(
                pixels, targets, mixup=recipe.mixup, cutmix=recipe.cutmix, generator=drawn
            )
        self.clock.lap("augmentation")
        return pixels, targets

    def _loss_of(self, images: Tensor, targets: Tensor) -> Tensor:
        x = self.normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"
        ):
            taught = self.teacher(images) if self.teacher is not None else None
            logits = self._together(x)
        return self.loss(logits.float(), targets, taught)

    def _learn(self, images: Tensor, targets: Tensor) -> Tensor:
        """Take a step in one part, as a graph can hold it; return the loss."""
        # Without gradients the backward pass makes new ones, in the graph's own memory.
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss_of(images, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.average.update(self._share)
        return loss.detach()

    def _set_numbers(self, index: int, progress: float, rate_factor: float) -> None:
        """Set what changes from step to step: rates, momentum and the weight of the average."""
        rate = learning_rate(self.recipe, progress) * rate_factor
        for number, group in enumerate(self.optimizer.param_groups):
            own = rate * group["lr_factor"] * group.get(SCALE, 1.0)
            group["lr"] = self._number(f"rate {number}", own)
            if self.recipe.schedule == "one_cycle":
                beta = self._number("momentum", momentum(self.recipe, progress))
                group.update({"betas": (beta, 0.999)} if "betas" in group else {"momentum": beta})
        self._share = self._number("average", self.average.share(index))


def _rounded(name: str, value: float) -> float:
    """Return ``value`` as the fp32 that a graph would read, so that both take the same step."""
    return float(np.float32(value))


def _check_smallest(arch: Arch, recipe: Recipe) -> None:
    try:
        layers(arch.with_resolution(resolution_at(recipe, 0.0, full=arch.resolution)))
    except InputError as error:
        raise InputError(f"start_resolution {recipe.start_resolution}: {error}") from None
