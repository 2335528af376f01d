"""Untrained networks of every family, as runs, and the Python of a README, executed as printed."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.artifact.golden import golden_inputs
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import ENVIRONMENT, IMPORTED, WEIGHTS
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.run.directory import Run

FAMILIES = {
    "mobilenet_v1": 0.25,
    "mobilenet_v2": 0.35,
    "mobilenet_v3_small": 0.5,
    "mobilenet_v4_conv_small": 0.35,
    "mnasnet_a1": 0.25,
    "ghostnet": 0.25,
    "repvgg_a0": 0.125,
    "shufflenet_v1_g3": 0.5,
    "shufflenet_v2": 0.5,
    "squeezenet1_1": 0.5,
    "resnet18": 0.25,
    "resnet20": 0.5,
    "vgg11_bn": 0.125,
}


def untrained(name: str, folder: Path, *, resolution: int = 32, in_channels: int = 3) -> Run:
    """Return a run of random weights whose batch norms know what activations are like."""
    settings = Settings(
        width_mult=FAMILIES[name],
        resolution=resolution,
        num_classes=5,
        in_channels=in_channels,
    )
    arch, preprocess = get_arch(name, settings), preset("torch", in_channels=in_channels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(arch)
        pixels = torch.from_numpy(golden_inputs(in_channels, resolution))
        with torch.no_grad():
            for _ in range(20):
                network.train()(Normalise(preprocess)(pixels))
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / WEIGHTS)
    (folder / ENVIRONMENT).write_text(json.dumps({IMPORTED: name}))
    classes = tuple(ClassLabel(id=str(index), name=f"class {index}") for index in range(5))
    return Run(path=folder, arch=arch, preprocess=preprocess, classes=classes)


class Odd(nn.Module):
    """A network with an operator that no engine of a phone has."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = OddLayer()

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C) of ``x`` (N, C, H, W)."""
        result: Tensor = self.odd(x).mean(dim=(2, 3))
        return result


def odd_model(model: Model) -> Model:
    """Return ``model`` with an `Odd` network."""
    changed = replace(model)
    vars(changed)["network"] = Odd().eval()
    return changed


class OddLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.special.bessel_j0(x)
        return result


def run_printed(folder: Path) -> tuple[str, NDArray[np.float32]]:
    """Execute the README's Python in ``folder`` and return the label and the logits.

    The image is one with sides of different length, at ``folder/image.jpg``.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (17, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.jpg")
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what engines say of themselves when imported
        patch.chdir(folder)
        exec(code, names)
    return names["labels"][names["logits"].argmax()].partition("\t")[2], names["logits"]
