"""Weights of Hugging Face transformers' MobileNets give their logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mobilette.formats.importing import import_weights
from mobilette.nn.network import build_empty
from tests.batch_norm import give_statistics
from tests.parity.libraries import library

RESOLUTION = 65  # odd: TensorFlow's padding is on both sides then
# Their class, options; our name and width
NETWORKS = {
    "V1": ("MobileNetV1", {"depth_multiplier": 0.25}, "mobilenet_v1", 0.25),
    "V2": ("MobileNetV2", {"depth_multiplier": 0.35}, "mobilenet_v2", 0.35),
    "V2 wide": ("MobileNetV2", {"depth_multiplier": 1.4}, "mobilenet_v2", 1.4),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_logits(name: str, suffix: str, tmp_path: Path) -> None:
    transformers: Any = library("transformers")
    kind, options, model, width = NETWORKS[name]
    config = getattr(transformers, f"{kind}Config")(num_labels=7, image_size=RESOLUTION, **options)
    theirs = getattr(transformers, f"{kind}ForImageClassification")(config)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, RESOLUTION, RESOLUTION, generator=generator)
    give_statistics(_Logits(theirs), images)
    expected = theirs.eval()(images).logits
    path = tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save(theirs.state_dict(), path)
    else:
        save_file(theirs.state_dict(), path, {"format": "pt"})
    imported = import_weights(
        path, model=model, width_mult=width, resolution=RESOLUTION, preprocess="raw"
    )
    assert imported.origin.unused == ()
    assert imported.arch.num_classes == 7
    network = build_empty(imported.arch)
    network.load_state_dict(imported.weights, assign=True)
    assert expected.std() > 1e-3
    torch.testing.assert_close(network.eval()(images), expected, atol=1e-4, rtol=0)


class _Logits(torch.nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x).logits
        return logits
