"""Steps as CUDA graphs on a GPU: captured ones agree with the others.

Each is taken twice, because a GPU adds up in any order. With ``-s`` the distances are printed.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch

from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.formats.pretrained import create_model
from mobilette.training.environment import choose_precision
from mobilette.training.graphs import WARM_UP
from mobilette.training.recipe import Recipe
from mobilette.training.step import Trainer
from tests.training.agreement import described, disagreements, distances

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.filterwarnings("default"),  # of PyTorch's, on devices that nobody tried
]
STEPS = WARM_UP + 5


def made(name: str, *, graphs: bool, **keys: Any) -> Trainer:
    device = torch.device("cuda")
    torch.manual_seed(0)
    network = create_model(name, num_classes=10, resolution=32)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = Recipe(graphs=graphs, compile="never", **({"lr": 0.05, "warmup": 0.3} | keys))
    precision = choose_precision(recipe.precision, device)
    normalise = Normalise(preset("torch")).to(device)
    trainer = Trainer(network, normalise=normalise, recipe=recipe, precision=precision)
    trainer.begin_epoch(0)
    return trainer


def step(trainer: Trainer, index: int) -> None:
    """Take a step on images and labels of its own, at a rate of its own."""
    drawn = torch.Generator().manual_seed(index)
    pixels = torch.randint(0, 256, (128, 3, 32, 32), generator=drawn).to(torch.uint8).cuda()
    labels = torch.randint(0, 10, (128,), generator=drawn).cuda()
    progress = (index + 1) / (2 * STEPS)
    trainer.step(pixels, labels, index=index, place=(0, index), progress=progress)
    if trainer.graphs is not None:
        assert trainer.graphs.captured == (index >= WARM_UP)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet18", {"precision": "fp32"}),
        ("mobilenet_v2", {"precision": "fp32"}),
        ("mobilenet_v2", {"precision": "auto"}),
        ("shufflenet_v2", {"precision": "auto", "cutmix": 1.0}),
        ("mobilenet_v2", {"precision": "auto", "schedule": "one_cycle"}),
        ("mobilenet_v3_small", {"precision": "auto", "optimizer": "adamw", "lr": 0.002}),
    ],
)
def test_captured_steps_are_as_far_from_others_as_those_among_themselves(
    name: str, keys: dict[str, Any]
) -> None:
    """Weights, norms' statistics, average and moments."""
    eager, captured = (partial(made, name, graphs=graphs, **keys) for graphs in (False, True))
    found = distances(eager, captured, step, steps=STEPS)
    print(json.dumps({"network": name, **keys, "distances": described(found)}), flush=True)
    assert not disagreements(found)
