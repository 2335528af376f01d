"""What `training_memory` counts is what autograd keeps, and grows as it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mobilette.arch.catalogue import get_arch
from mobilette.counting.training_memory import training_memory
from mobilette.nn.network import Network


@pytest.mark.parametrize(
    "name", ["mobilenet_v1", "mobilenet_v2", "resnet18", "squeezenet1_1", "shufflenet_v2"]
)
def test_activations_are_what_autograd_keeps(name: str) -> None:
    arch = get_arch(name, num_classes=10, resolution=96)
    network = Network(arch).train()
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(4, 3, 96, 96)).sum()
    measured = sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights
    )
    counted = training_memory(arch, batch_size=4).activations
    assert 0.85 < counted / measured < 1.15


def test_what_grows_with_the_batch_and_shrinks_with_precision() -> None:
    arch = get_arch("mobilenet_v2")
    one, many = (training_memory(arch, batch_size=size) for size in (1, 32))
    assert many.activations == 32 * one.activations
    assert many.fixed == one.fixed == 16 * 3_504_872
    half = training_memory(arch, batch_size=32, precision="bf16")
    assert 2 * half.activations == many.activations
    assert many.total > half.total
