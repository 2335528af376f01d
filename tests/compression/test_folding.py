from __future__ import annotations

import pytest
import torch
from torch import nn

from mobilette.arch.editing import merged
from mobilette.compression.folding import fold, merge_branches
from mobilette.formats.pretrained import create_model
from mobilette.nn.layers import Add
from tests.batch_norm import give_statistics
from tests.compression.networks import copied
from tests.models import model_of

# One of every kind of block and head.
KINDS = [
    *("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "squeezenet1_0_bn"),
    *("shufflenet_v1_g3", "shufflenet_v2", "resnet50", "resnet20", "resnet8", "vgg11_bn"),
    *("mobilenet_v4_conv_small", "mnasnet_a1", "ghostnet", "repvgg_a0", "mobileone_s0"),
]


@pytest.mark.parametrize("name", KINDS)
def test_the_folded_network_answers_the_same(name: str) -> None:
    network = create_model(name, num_classes=11, width_mult=0.35, resolution=64).eval()
    give_statistics(network, torch.randn(4, 3, 64, 64))
    folded = fold(model_of(network)).network
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected, answer = network(x), folded(x)
    assert (answer - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-6


def test_the_source_is_left_alone() -> None:
    model = model_of(create_model("mobilenet_v2", width_mult=0.25, resolution=32))
    before = copied(model)
    fold(model)
    after = model.weights
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0"])
def test_merged_branches_answer_the_same_without_batch_norms(name: str) -> None:
    network = create_model(name, num_classes=11, width_mult=0.35, resolution=64).eval()
    give_statistics(network, torch.randn(4, 3, 64, 64))
    deployed = merge_branches(model_of(network))
    assert deployed.arch == merged(network.arch)
    kinds = {type(module) for module in deployed.network.modules()}
    assert nn.BatchNorm2d not in kinds
    assert Add not in kinds
    x = torch.randn(3, 3, 64, 64).double()  # in which only the merged weights are rounded
    with torch.no_grad():
        expected, answer = network.double()(x), deployed.network.double()(x)
    assert (answer - expected).abs().max() < 1e-5 * expected.abs().max()


def test_other_networks_have_no_branches_to_merge() -> None:
    model = model_of(create_model("resnet18", width_mult=0.25, resolution=32))
    assert merge_branches(model).arch == model.arch
