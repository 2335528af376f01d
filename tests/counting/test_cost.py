from __future__ import annotations

from collections.abc import Iterator
from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.editing import merged
from mobilette.arch.families.mobilenet_v2 import bottleneck
from mobilette.arch.layers import layers
from mobilette.arch.rows import Block, Conv, PoolLinear
from mobilette.arch.scale import Resolution, Settings
from mobilette.compression.folding import fold
from mobilette.counting.cost import Bytes, cost, weight_shapes
from mobilette.formats.pretrained import create_model
from mobilette.nn.network import build_empty
from tests.models import model_of

WIDTHS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.4)
RESOLUTIONS = (32, 96, 128, 160, 192, 224, (96, 160), (200, 32))
# The others are counted, built and traced in tests/contract.
MOBILENETS = list_models("mobilenet")
# One of every kind of block and head.
KINDS = [
    *("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "squeezenet1_1", "squeezenet1_0_bn"),
    *("shufflenet_v1_g3", "shufflenet_v2", "resnet18", "resnet50", "resnet20", "resnet8", "vgg11"),
]


@pytest.mark.parametrize("name", MOBILENETS)
@pytest.mark.parametrize("width", WIDTHS)
def test_counted_equals_built_equals_traced(name: str, width: float) -> None:
    for resolution in RESOLUTIONS:
        arch = get_arch(name, Settings(width_mult=width, resolution=resolution))
        network = build_empty(arch).eval()
        counted = cost(arch)
        assert counted.params == sum(p.numel() for p in network.parameters())
        image = torch.empty(1, *arch.shape, device="meta")
        with FlopCounterMode(display=False) as counter:
            network(image)
        # The counter counts a multiply and an add for each mult-add.
        assert counter.get_total_flops() == 2 * counted.madds


@pytest.mark.parametrize("name", KINDS)
def test_size_is_that_of_the_folded_networks_tensors(name: str) -> None:
    network = create_model(name, num_classes=10, width_mult=0.35, resolution=32)
    folded = fold(model_of(network)).weights
    biases = sum(t.numel() for n, t in folded.items() if n.endswith("bias"))
    weights = sum(t.numel() for n, t in folded.items() if n.endswith("weight"))
    size = cost(network.arch).size_bytes
    assert size.fp32 == sum(t.numel() * t.element_size() for t in folded.values())
    assert size == Bytes(fp32=4 * (weights + biases), int8=weights + 4 * biases)


def _arch(*, residual: bool) -> Arch:
    row = bottleneck(10, 40, 10, stride=1)
    if not residual:
        row = Block(entry=row.paths[0])
    return Arch(
        name="test",
        resolution=16,
        in_channels=3,
        stem=Conv(channels=10, kernel=3, activation="relu"),
        rows=(row,),
        head=PoolLinear(classes=2),
    )


def test_peak_activations_by_hand() -> None:
    """At the depthwise step its input and output are alive, and the residual if there is one."""
    pixels = 16 * 16
    without = cost(_arch(residual=False)).peak_activation_bytes
    assert without == Bytes(fp32=4 * (40 + 40) * pixels, int8=(40 + 40) * pixels)
    assert cost(_arch(residual=True)).peak_activation_bytes.int8 == (10 + 40 + 40) * pixels


def test_peak_activations_of_published_networks_by_hand() -> None:
    """V1: the first pointwise, 32 to 64 channels at 112. V2: the first expanded depthwise."""
    v1 = cost(get_arch("mobilenet_v1")).peak_activation_bytes.int8
    v2 = cost(get_arch("mobilenet_v2")).peak_activation_bytes.int8
    assert v1 == (32 + 64) * 112 * 112
    assert v2 == 96 * 112 * 112 + 96 * 56 * 56


# PyTorch makes a padded copy for resnet8's TensorFlow padding; an engine does not.
@pytest.mark.parametrize("name", [name for name in KINDS if name != "resnet8"])
@pytest.mark.parametrize("resolution", [32, 96, (75, 101)])
def test_peak_activations_against_a_simulation_on_the_module(
    name: str, resolution: Resolution
) -> None:
    """Free each tensor of a folded, traced network after its last use, and watch the sum."""
    arch = get_arch(name, Settings(width_mult=0.5, resolution=resolution))
    counted = cost(arch).peak_activation_bytes
    assert counted == Bytes(fp32=4 * counted.int8, int8=counted.int8)
    assert counted.int8 == _simulated_peak(arch)


VIEWS = ("transpose", "slice")
OVERWRITING = ("relu", "hard", "add", "mul", "flatten", "dropout")


def _simulated_peak(arch: Arch) -> int:
    network = build_empty(fold(model_of(arch)).arch).eval()
    program = torch.export.export(
        network,
        (torch.empty(1, *arch.shape, device="meta"),),
    )
    nodes = [
        node
        for node in program.graph.nodes
        if "val" in node.meta and not node.name.startswith(("p_", "b_"))
    ]
    storage: dict[torch.fx.Node, torch.fx.Node] = {}
    last: dict[torch.fx.Node, int] = {}
    for step, node in enumerate(nodes):
        sources = [storage[n] for n in node.all_input_nodes if n in storage]
        is_view = any(part in str(node.target) for part in VIEWS)
        storage[node] = sources[0] if is_view else node
        last |= dict.fromkeys(sources, step)
    alive: dict[torch.fx.Node, int] = {}
    peak = 0
    for step, node in enumerate(nodes):
        size = prod(node.meta["val"].shape) if storage[node] is node else 0
        read = {storage[n] for n in node.all_input_nodes if n in storage}
        dying = [source for source in read if last[source] == step]
        name = str(node.target)
        if "cat" in name:
            grows = max(0, size - sum(alive[source] for source in dying))
        else:
            overwrites = any(part in name for part in OVERWRITING)
            grows = 0 if overwrites and any(alive[s] == size for s in dying) else size
        peak = max(peak, sum(alive.values()) + grows)
        for done in dying:
            del alive[done]
        if size:
            alive[node] = size
    return peak


def _tensors(arch: Arch) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in layers(arch):
        for name, shape in weight_shapes(layer).items():
            yield f"{layer.name}.{name}", shape


@pytest.mark.parametrize("name", KINDS)
def test_weight_shapes_are_the_modules_parameters(name: str) -> None:
    arch = get_arch(name, Settings(width_mult=0.25))
    built = {n: tuple(p.shape) for n, p in build_empty(arch).named_parameters()}
    assert dict(_tensors(arch)) == built


def test_cost_takes_a_built_network() -> None:
    network = create_model("mobilenet_v3_small", width_mult=0.35, resolution=96)
    assert cost(network) == cost(network.arch)


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0"])
def test_size_and_memory_are_of_the_merged_branches(name: str) -> None:
    arch = get_arch(name)
    counted, deployed = cost(arch), cost(merged(arch))
    assert counted.params > deployed.params
    assert counted.size_bytes == deployed.size_bytes
    assert counted.peak_activation_bytes == deployed.peak_activation_bytes
    assert counted.size_bytes.fp32 == 4 * deployed.params
