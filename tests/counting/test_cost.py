from __future__ import annotations

from collections.abc import Iterator
from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.layers import layers
from mobilette.arch.rows import Bottleneck, Conv, PoolLinear
from mobilette.arch.scale import Settings
from mobilette.compression.folding import fold_batch_norm
from mobilette.counting.cost import Bytes, cost, weight_shapes
from mobilette.nn.network import Network, build_empty, create_model

WIDTHS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.4)
RESOLUTIONS = (32, 96, 128, 160, 192, 224)


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("width", WIDTHS)
def test_counted_equals_built_equals_traced(name: str, width: float) -> None:
    for resolution in RESOLUTIONS:
        arch = get_arch(name, Settings(width_mult=width, resolution=resolution))
        network = build_empty(arch).eval()
        counted = cost(arch)
        assert counted.params == sum(p.numel() for p in network.parameters())
        picture = torch.empty(1, 3, resolution, resolution, device="meta")
        with FlopCounterMode(display=False) as counter:
            network(picture)
        # The counter counts a multiply and an add for each mult-add.
        assert counter.get_total_flops() == 2 * counted.madds


@pytest.mark.parametrize("name", list_models())
def test_size_is_that_of_the_folded_networks_tensors(name: str) -> None:
    network = create_model(name, num_classes=10, width_mult=0.35, resolution=32)
    _, folded = fold_batch_norm(network.arch, network.state_dict())
    biases = sum(t.numel() for n, t in folded.items() if n.endswith("bias"))
    weights = sum(t.numel() for n, t in folded.items() if n.endswith("weight"))
    size = cost(network.arch).size_bytes
    assert size.fp32 == sum(t.numel() * t.element_size() for t in folded.values())
    assert size == Bytes(fp32=4 * (weights + biases), int8=weights + 4 * biases)


def _arch(*, residual: bool) -> Arch:
    row = Bottleneck(
        expand=Conv(channels=40, activation="relu"),
        depthwise=Conv(channels=40, kernel=3, groups=40, activation="relu"),
        squeeze_excite=None,
        project=Conv(channels=10, activation="none"),
        residual=residual,
    )
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


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("resolution", [32, 96])
def test_peak_activations_against_a_simulation_on_the_module(name: str, resolution: int) -> None:
    """Free each tensor of a folded, traced network after its last use, and watch the sum."""
    arch = get_arch(name, Settings(width_mult=0.5, resolution=resolution))
    counted = cost(arch).peak_activation_bytes
    assert counted == Bytes(fp32=4 * counted.int8, int8=counted.int8)
    assert counted.int8 == _simulated_peak(arch)


def _simulated_peak(arch: Arch) -> int:
    network = build_empty(fold_batch_norm_arch(arch)).eval()
    program = torch.export.export(
        network,
        (torch.empty(1, arch.in_channels, arch.resolution, arch.resolution, device="meta"),),
    )
    nodes = [
        node
        for node in program.graph.nodes
        if "val" in node.meta and not node.name.startswith(("p_", "b_"))
    ]
    last = {use: step for step, node in enumerate(nodes) for use in node.all_input_nodes}
    sizes = {node: prod(node.meta["val"].shape) for node in nodes}
    alive: dict[torch.fx.Node, int] = {}
    peak = 0
    for step, node in enumerate(nodes):
        dying = [n for n in node.all_input_nodes if last[n] == step and n in alive]
        name = str(node.target)
        in_place = any(part in name for part in ("relu", "hard", "add", "mul", "flatten", "view"))
        grows = 0 if in_place and any(sizes[n] == sizes[node] for n in dying) else sizes[node]
        peak = max(peak, sum(alive.values()) + grows)
        for done in dying:
            del alive[done]
        alive[node] = sizes[node]
    return peak


def fold_batch_norm_arch(arch: Arch) -> Arch:
    network = Network(arch)
    return fold_batch_norm(arch, network.state_dict())[0]


def _tensors(arch: Arch) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in layers(arch):
        for name, shape in weight_shapes(layer).items():
            yield f"{layer.name}.{name}", shape


@pytest.mark.parametrize("name", list_models())
def test_weight_shapes_are_the_modules_parameters(name: str) -> None:
    arch = get_arch(name, Settings(width_mult=0.25))
    built = {n: tuple(p.shape) for n, p in build_empty(arch).named_parameters()}
    assert dict(_tensors(arch)) == built


def test_cost_takes_a_built_network() -> None:
    network = create_model("mobilenet_v3_small", width_mult=0.35, resolution=96)
    assert cost(network) == cost(network.arch)
