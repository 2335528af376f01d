from __future__ import annotations

import torch
from torch import nn

from mobilette.formats.pretrained import create_model
from mobilette.nn.network import measure_statistics


def test_statistics_are_the_average_over_the_batches_and_nothing_else_changes() -> None:
    network = create_model("mobilenet_v2", width_mult=0.25, resolution=32).train()
    parameters = [parameter.clone() for parameter in network.parameters()]
    batches = torch.randn(3, 4, 3, 32, 32)
    measure_statistics(network, iter(batches))
    assert not any(module.training for module in network.modules())
    assert all(map(torch.equal, network.parameters(), parameters))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    conv, norm = network.get_submodule("stem.conv"), network.get_submodule("stem.norm")
    outputs = [conv(batch) for batch in batches]
    expected = torch.stack([y.mean(dim=(0, 2, 3)) for y in outputs]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected)
    expected = torch.stack([y.var(dim=(0, 2, 3)) for y in outputs]).mean(dim=0)
    torch.testing.assert_close(norm.running_var, expected)
