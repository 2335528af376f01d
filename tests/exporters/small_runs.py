"""Untrained runs of a few rows, for what depends on the kind of layer and not on its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Resolution, Settings
from mobilette.artifact.golden import golden_inputs
from mobilette.data.preprocess import preset
from mobilette.exporters.target import Calibration
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import WEIGHTS
from mobilette.nn.network import Network
from mobilette.run.directory import Run, write_run

CLASSES = ("a", "b", "c", "d", "e")


def small_run(
    folder: Path,
    name: str,
    rows: Sequence[int] | None = None,
    *,
    preprocess: str = "tf",
    resolution: Resolution = 32,
) -> Run:
    """Return a run in ``folder``: ``rows`` of a network, with random weights."""
    settings = Settings(width_mult=0.5, resolution=resolution, num_classes=len(CLASSES))
    arch = get_arch(name, settings)
    if rows is not None:
        arch = replace(arch, rows=tuple(arch.rows[index] for index in rows))
    torch.manual_seed(0)
    network = Network(arch)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / WEIGHTS)
    classes = tuple(ClassLabel(id=each, name=each) for each in CLASSES)
    preprocessing = preset(preprocess)
    write_run(
        folder,
        arch=arch,
        preprocess=preprocessing,
        classes=classes,
        recipe="",
        dataset={},
        environment={"imported": "small_run"},
    )
    return Run(path=folder, arch=arch, preprocess=preprocessing, classes=classes)


def small_calibration(resolution: Resolution = 32, channels: int = 3) -> Calibration:
    """Return 32 images like the golden ones, darker and lighter."""
    images = golden_inputs(channels, resolution).astype(np.int16)
    shifted = [images + shift for shift in (0, -40, 40, 80)]
    pixels = np.clip(np.concatenate(shifted), 0, 255).astype(np.uint8)
    return Calibration(pixels=pixels, source="golden images")
