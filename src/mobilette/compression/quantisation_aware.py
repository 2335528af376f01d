"""Quantisation-aware training: weights that answer well once they are rounded.

Jacob et al. 2018, arXiv 1712.05877, section 3, on the network with its batch norms folded already:
they have nothing to measure any more, and what is trained is what is exported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator

import torch
from torch import Tensor, nn

from mobilette.compression.observation import answers
from mobilette.compression.ranges import Ranges
from mobilette.compression.simulation import simulated
from mobilette.errors import InputError
from mobilette.nn.network import Network, build_empty
from mobilette.training.loss import Loss
from mobilette.training.recipe import Recipe

Batches = Callable[[], Iterable[Tensor]]
# Called with (steps that are done, steps in all, loss).
Report = Callable[[int, int, float], None]

WARMUP = 0.1


def train_quantised(
    network: Network,
    batches: Batches,
    *,
    inputs: Tensor,
    ranges: Ranges,
    steps: int,
    lr: float = 1e-4,
    float_layers: Collection[str] = (),
    multi_label: bool = False,
    report: Report | None = None,
) -> Network | None:
    """Return ``network`` with weights that were trained to answer in int8 as it does in float.

    The loss is the Kullback-Leibler divergence of the answers from the float network's; labels are
    not needed. Weights and biases are trained with Adam, each tensor with a rate in proportion to
    its size, which is warmed up and falls as a cosine; ranges of activations stay as they are
    calibrated. The same batches give the same network. ``None`` where the trained one answers no
    better on ``inputs`` in int8 than it did before.

    Args:
        network: with batch norms folded, in evaluation mode; it is left alone.
        batches: begins a pass over normalised images, float (N, C, H, W); another one begins
            where it ends before ``steps``.
        inputs: normalised images to calibrate with.
        ranges: how the ranges of activations are chosen.
        steps: how many batches are trained on.
        lr: the highest rate, relative to the root mean square of what is trained.
        float_layers: convolutions and linear layers that are not int8.
        multi_label: whether an image may be of several classes, each answered for by itself.
        report: is told the progress.

    Raises:
        InputError: no images, not of the network's size, no such layer, or no step.
    """
    if steps < 1 or not lr > 0:
        raise InputError(f"{steps} steps at rate {lr}: at least 1 step and a rate above 0 needed")
    model = simulated(network, inputs, ranges=ranges, float_layers=float_layers)
    divergence = Loss(Recipe(temperature=1.0), multi_label=multi_label).of_teacher
    wanted = answers(network, inputs, network.arch)
    before = float(divergence(answers(model, inputs, network.arch), wanted))
    optimizer = _optimizer(model, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    for step, batch in enumerate(_endless(batches, steps), 1):
        with torch.no_grad():
            taught = network(batch)
        loss = divergence(model(batch), taught)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if report is not None:
            report(step, steps, float(loss.detach()))
    if not divergence(answers(model, inputs, network.arch), wanted) < before:
        return None
    trained = build_empty(network.arch)
    trained.load_state_dict(model.float_weights(), assign=True)
    return trained.eval()


def _optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return Adam, whose steps are as large as its rates, with rates that fit the tensors.

    Equalised weights of one layer may be a thousand times those of another.
    """
    sizes = {
        name: float(parameter.detach().square().mean().sqrt())
        for name, parameter in model.named_parameters()
    }
    groups = [
        {"params": [parameter], "lr": lr * (sizes[name] or 1.0)}
        for name, parameter in model.named_parameters()
    ]
    return torch.optim.Adam(groups)


def _rate(progress: float) -> float:
    if progress < WARMUP:
        return progress / WARMUP
    return 0.5 + 0.5 * math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))


def _endless(batches: Batches, steps: int) -> Iterator[Tensor]:
    left = steps
    while left:
        before = left
        for batch in batches():
            yield batch
            left -= 1
            if not left:
                return
        if left == before:
            raise InputError("there are no batches to train on; one at least is needed")
