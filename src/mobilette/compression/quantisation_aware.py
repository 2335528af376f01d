"""Quantisation-aware training: weights trained to answer well after rounding to int8.

Jacob et al. 2018, arXiv 1712.05877, section 3. Batch norms are folded before training, so the
trained network is the exported one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from mobilette.compression.observation import answers
from mobilette.compression.ranges import Ranges
from mobilette.compression.simulation import simulated
from mobilette.errors import InputError
from mobilette.model.model import Model
from mobilette.training.loss import Loss
from mobilette.training.recipe import Recipe

WARMUP = 0.1


def train_quantised(
    model: Model,
    batches: Iterable[Tensor],
    *,
    inputs: Tensor,
    ranges: Ranges,
    steps: int,
    lr: float = 1e-4,
    float_layers: Collection[str] = (),
    report: Callable[[int, int, float], None] | None = None,
) -> Model | None:
    """Return ``model`` trained to answer the same in int8 as in float; ``None`` if that failed.

    The loss is the Kullback-Leibler divergence from the float answers; no labels are needed. Adam
    trains weights and biases for ``steps`` steps, with warm-up and a cosine schedule; ``lr`` is its
    peak rate relative to each tensor's root mean square. Activation ranges stay as calibrated on
    ``inputs``. The same batches give the same model. Training has failed if the int8 answers to
    ``inputs`` are no better than before.

    ``model`` has its batch norms folded; images are normalised, float (N, C, H, W). ``batches``
    yields one batch per step. ``report`` is called with the step, ``steps`` and the loss.

    Raises:
        InputError: ``inputs`` do not fit the network, it has no such layer, or ``steps`` or ``lr``
            is not positive.
    """
    if steps < 1 or not lr > 0:
        raise InputError(f"{steps} steps at rate {lr}: needs at least 1 step and a rate above 0")
    int8 = simulated(model, inputs, ranges=ranges, float_layers=float_layers)
    divergence = Loss(Recipe(temperature=1.0), multi_label=model.multi_label).of_teacher
    wanted = answers(model, inputs)
    before = float(divergence(answers(int8, inputs), wanted))
    optimizer = _optimizer(int8, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    for step, batch in enumerate(islice(batches, steps), 1):
        with torch.no_grad():
            taught = model.network(batch)
        loss = divergence(int8(batch), taught)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if report is not None:
            report(step, steps, float(loss.detach()))
    if not divergence(answers(int8, inputs), wanted) < before:
        return None
    return replace(model, weights=int8.float_weights())


def _optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return Adam with rates in proportion to each tensor's root mean square.

    After equalisation, weights of one layer may be a thousand times as large as of another.
    """
    groups = []
    for parameter in model.parameters():
        size = float(parameter.detach().square().mean().sqrt())
        groups.append({"params": [parameter], "lr": lr * (size or 1.0)})
    return torch.optim.Adam(groups)


def _rate(progress: float) -> float:
    if progress < WARMUP:
        return progress / WARMUP
    return 0.5 + 0.5 * math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))
