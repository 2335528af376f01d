"""Graphs with one thing changed: refused, or loaded so that they answer as the graph does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.formats.graph import (
    NO_PADDING,
    ActivationNode,
    ConvNode,
    Graph,
    JoinNode,
    Node,
    NormNode,
    PadNode,
    PoolNode,
)
from mobilette.formats.matching import match
from mobilette.nn.network import build_empty
from tests.formats.arch_graphs import graph_of
from tests.formats.execution import execute

Edit = Callable[[Graph], Graph]
# name: width, resolution, form
NETWORKS = {
    "mobilenet_v1": (0.25, 64, "full"),
    "mobilenet_v2": (0.35, 65, "full"),
    "mobilenet_v3_small": (0.35, 64, "full"),
    "resnet8": (1.0, 32, None),
    "resnet18": (0.125, 65, "full"),
    "squeezenet1_0": (0.25, 67, "full"),
    "squeezenet1_1": (0.25, 63, "full"),
    "vgg11": (0.0625, 224, "full"),
}


@cache
def network(name: str) -> tuple[Arch, Graph]:
    width_mult, resolution, form = NETWORKS[name]
    given = Settings(
        width_mult=width_mult,
        resolution=resolution,
        form=form,  # type: ignore[arg-type]
        num_classes=5,
    )
    arch = get_arch(name, given)
    return arch, graph_of(arch)


def check(graph: Graph, arch: Arch) -> str:
    """Return why the graph was refused; else it is loaded, and answers as itself."""
    try:
        found, weights, _ = match(graph, arch)
    except InputError as error:
        return str(error)
    loaded = build_empty(found)
    loaded.load_state_dict(weights, assign=True)
    x = np.random.default_rng(1).normal(0, 1, (2, *graph.shape)).astype(np.float32)
    expected = execute(graph, x)
    with torch.no_grad():
        logits = loaded.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-4 * float(np.abs(expected).max()), rtol=0)
    return ""


def changed(graph: Graph, name: str, **changes: Any) -> Graph:
    """Return the graph with fields of one node replaced."""
    nodes = [replace(node, **changes) if node.name == name else node for node in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def inserted(graph: Graph, reader: str, node: Node) -> Graph:
    """Return the graph with ``node`` between ``reader`` and its first input."""
    nodes: list[Node] = []
    for old in graph.nodes:
        if old.name == reader:
            nodes.append(replace(node, inputs=old.inputs[:1]))
            nodes.append(replace(old, inputs=(node.name, *old.inputs[1:])))
        else:
            nodes.append(old)
    return replace(graph, nodes=tuple(nodes))


def appended(graph: Graph, node: Node) -> Graph:
    """Return the graph with ``node`` behind its output."""
    last = replace(node, inputs=(graph.output,))
    return replace(graph, nodes=(*graph.nodes, last), output=node.name)


def node_of(graph: Graph, name: str) -> Any:
    return next(node for node in graph.nodes if node.name == name)


def norm(channels: int) -> NormNode:
    ones = np.ones(channels, np.float32)
    return NormNode(
        name="more", inputs=(), scale=2 * ones, shift=ones, mean=ones, variance=ones, epsilon=1e-5
    )


def pad(*padding: int) -> PadNode:
    return PadNode(name="pad", inputs=(), padding=padding)  # type: ignore[arg-type]


def act(function: Any) -> ActivationNode:
    return ActivationNode(name="more", inputs=(), function=function)


PASS = PoolNode(name="pass", inputs=(), function="max", kernel=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_unchanged_graphs_are_loaded(name: str) -> None:
    arch, graph = network(name)
    assert check(graph, arch) == ""


# name: network, edit, a part of the message ("": it is loaded)
EDITS: dict[str, tuple[str, Edit, str]] = {
    "hidden layers of two activations": (
        "vgg11",
        lambda g: changed(g, "head.hidden.1.activation", function="relu6"),
        "two activations",
    ),
    "hidden layers of another activation": (
        "vgg11",
        lambda g: changed(
            changed(g, "head.hidden.1.activation", function="relu6"),
            "head.hidden.0.activation",
            function="relu6",
        ),
        "",
    ),
    "norm behind the classifier": (
        "resnet8",
        lambda g: appended(g, norm(5)),
        "batch norm",
    ),
    "activation behind the classifier": (
        "resnet8",
        lambda g: appended(g, act("hard_sigmoid")),
        "ends in activation 'hard_sigmoid'",
    ),
    "padding of the classifier itself": (
        "resnet8",
        lambda g: changed(g, "head.classifier", padding=(1, 1, 1, 1)),
        "padding",
    ),
    "padding before the classifier": (
        "resnet8",
        lambda g: inserted(g, "head.classifier", pad(0, 1, 0, 1)),
        "padding",
    ),
    "padding behind the network": (
        "resnet8",
        lambda g: appended(g, pad(0, 1, 0, 1)),
        "padding",
    ),
    "padding that a pool of one pixel passes on": (
        "resnet8",
        lambda g: inserted(
            inserted(
                changed(g, "rows.1.conv1.conv", padding=NO_PADDING),
                "rows.1.conv1.conv",
                pad(0, 1, 0, 1),
            ),
            "pad",
            PASS,
        ),
        "",
    ),
    "a pool of one pixel reads padding": (
        "resnet8",
        lambda g: inserted(inserted(g, "rows.1.conv1.conv", PASS), "pass", pad(1, 1, 1, 1)),
        "reads the padding",
    ),
    "norm of other channels": (
        "resnet8",
        lambda g: changed(
            g,
            "stem.norm",
            **{
                field: getattr(node_of(g, "stem.norm"), field)[:4]
                for field in ("scale", "shift", "mean", "variance")
            },
        ),
        "batch norm of 4 channels",
    ),
    "activation of one of two readers": (
        "resnet8",
        lambda g: replace(
            inserted(inserted(g, "rows.0.conv1.conv", PASS), "rows.0.conv1.conv", act("relu6")),
        ),
        "in a way that no network here has",
    ),
    "activation before a sum": (
        "resnet8",
        lambda g: inserted(g, "rows.0.add", act("relu")),
        "ends in activation",
    ),
    "activation of a sum": (
        "resnet8",
        lambda g: changed(g, "rows.0.activation", function="relu6"),
        "",
    ),
    "activation of a pool": (
        "resnet8",
        lambda g: inserted(g, "head.classifier", act("relu")),
        "ends in activation",
    ),
    "shortcut from elsewhere": (
        "resnet8",
        lambda g: changed(g, "rows.0.add", inputs=("rows.0.conv2.norm", "rows.0.conv1.activation")),
        "rows.0",
    ),
    "both ends of a sum are one": (
        "resnet8",
        lambda g: changed(g, "rows.0.add", inputs=("rows.0.conv2.norm",) * 2),
        "should be (stem.conv)",
    ),
    "a sum the other way round": (
        "resnet8",
        lambda g: changed(g, "rows.1.add", inputs=node_of(g, "rows.1.add").inputs[::-1]),
        "",
    ),
    "epsilon of one batch norm": (
        "resnet8",
        lambda g: changed(g, "rows.1.conv1.norm", epsilon=0.5),
        "",
    ),
    "concatenation the other way round": (
        "squeezenet1_0",
        lambda g: changed(g, "rows.1.concat", inputs=node_of(g, "rows.1.concat").inputs[::-1]),
        "rows.1",
    ),
    "gate and map exchanged": (
        "mobilenet_v3_small",
        lambda g: changed(
            g,
            "rows.0.squeeze_excite.scale",
            inputs=node_of(g, "rows.0.squeeze_excite.scale").inputs[::-1],
        ),
        "",
    ),
    "gate of another activation": (
        "mobilenet_v3_small",
        lambda g: changed(g, "rows.0.squeeze_excite.expand.activation", function="relu"),
        "",
    ),
    "depthwise with a multiplier": (
        "mobilenet_v1",
        lambda g: changed(
            g,
            "rows.0.depthwise.conv",
            weight=np.repeat(node_of(g, "rows.0.depthwise.conv").weight, 2, 0),
        ),
        "8 channels behind a convolution of 16",
    ),
    "the stem is not padded": (
        "mobilenet_v1",
        lambda g: changed(g, "stem.conv", padding=NO_PADDING),
        "",
    ),
    "maps become odd and padding is spelled out": (
        "mobilenet_v1",
        lambda g: changed(
            changed(g, "stem.conv", padding=NO_PADDING),
            "rows.1.depthwise.conv",
            padding=(0, 1, 0, 1),
        ),
        "is padded on all sides alike or as TensorFlow's SAME",
    ),
    "zeros before a max pool": (
        "resnet18",
        lambda g: inserted(changed(g, "rows.0", padding=NO_PADDING), "rows.0", pad(1, 1, 1, 1)),
        "",
    ),
    "zeros before a max pool of negative values": (
        "resnet18",
        lambda g: changed(
            inserted(changed(g, "rows.0", padding=NO_PADDING), "rows.0", pad(1, 1, 1, 1)),
            "stem.activation",
            function="hard_swish",
        ),
        "zeros",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_graphs(name: str) -> None:
    of, edit, message = EDITS[name]
    arch, graph = network(of)
    refusal = check(edit(graph), arch)
    assert (message in refusal) if message else not refusal, refusal


def test_windows_over_the_edge() -> None:
    """SqueezeNet counts a last window that hangs over; at 65 pixels there is one."""
    arch = get_arch("squeezenet1_1", Settings(width_mult=0.25, resolution=65, form="full"))
    assert "is 3x3, stride 2, padding 0" in check(graph_of(arch), arch)


def field(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return values.map(lambda value: {name: value})


def edits(graph: Graph) -> st.SearchStrategy[Graph]:
    """One arbitrary change of one node."""
    names = st.sampled_from([node.name for node in graph.nodes])
    sources = st.sampled_from([graph.input, *(node.name for node in graph.nodes)])
    functions = st.sampled_from(["relu", "relu6", "hard_swish", "hard_sigmoid"])
    around = st.tuples(*[st.integers(0, 2)] * 4)
    paddings = st.one_of(
        st.sampled_from(["same", NO_PADDING, (1, 1, 1, 1), (0, 1, 0, 1), (2, 2, 2, 2)]), around
    )
    pools = st.builds(
        PoolNode,
        name=st.just("more"),
        inputs=st.just(()),
        function=st.sampled_from(["max", "average"]),
        kernel=st.integers(0, 3),
        stride=st.integers(1, 2),
        padding=paddings,
    )

    def fields(name: str) -> st.SearchStrategy[Graph]:
        node = node_of(graph, name)
        read = [field("inputs", st.tuples(*[sources] * len(node.inputs)))]
        match node:
            case ConvNode():
                read += [
                    field("stride", st.integers(1, 3)),
                    field("padding", paddings),
                    field("bias", st.sampled_from([None, np.ones(len(node.weight), np.float32)])),
                    field("weight", st.just(node.weight[:, :, :1, :1])),
                ]
            case NormNode():
                read.append(field("epsilon", st.floats(1e-4, 1.0)))
            case ActivationNode():
                read.append(field("function", functions))
            case PoolNode():
                read += [
                    field("kernel", st.integers(0, 3)),
                    field("stride", st.integers(1, 2)),
                    field("padding", paddings),
                    field("function", st.sampled_from(["max", "average"])),
                ]
            case JoinNode():
                read += [
                    field("inputs", st.sampled_from([node.inputs[::-1], node.inputs[:1] * 2])),
                    field("function", st.sampled_from(["add", "concat", "scale"])),
                ]
        return st.one_of(read).map(lambda changes: changed(graph, name, **changes))

    channels = {
        len(node.weight): norm(len(node.weight))
        for node in graph.nodes
        if isinstance(node, ConvNode)
    }
    more = st.one_of(
        functions.map(act),
        around.map(lambda x: pad(*x)),
        pools,
        st.sampled_from([*channels.values()]),
    )
    return st.one_of(
        names.flatmap(fields),
        st.tuples(names, more).map(lambda x: inserted(graph, *x)),
        more.map(lambda node: appended(graph, node)),
        names.map(lambda name: replace(graph, output=name)),
    )


@settings(max_examples=150)
@given(st.sampled_from([*NETWORKS]), st.data())
def test_no_change_is_loaded_as_something_else(name: str, data: st.DataObject) -> None:
    arch, graph = network(name)
    check(data.draw(edits(graph)), arch)
