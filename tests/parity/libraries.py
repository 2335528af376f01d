"""torchvision and timm, for comparison only: the package itself never imports them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Conv
from mobilette.nn.network import Network, build_empty
from tests.batch_norm import give_statistics

# Operators that torchvision registers shapes for at import, and that its wheels lack beside a CPU
# build of torch.
_MISSING = ("nms", "qnms")
_definitions: list[Any] = []


@functools.cache
def library(name: str) -> Any:
    """Return the module called ``name``, or skip the test where it is not installed."""
    for package in {name, "torchvision"}:  # timm imports torchvision
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        definitions: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in _MISSING:
            definitions.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        _definitions.append(definitions)  # they last as long as this object
    return importlib.import_module(name)


@torch.no_grad()
def check_parity(arch: Arch, theirs: nn.Module) -> None:
    """Assert that our network with ``theirs`` weights gives ``theirs`` logits."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, *arch.shape)
    give_statistics(theirs, torch.randn(shape, generator=generator))
    images = torch.randn(shape, generator=generator)
    expected = theirs.eval()(images)
    answer = with_weights(arch, theirs).eval()(images)
    assert expected.std() > 1e-3  # not all the same logits
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # nor the same for every image
    scale = max(1.0, float(expected.std()))  # rounding grows with random weights' logits
    torch.testing.assert_close(answer, expected, atol=1e-4 * scale, rtol=0)


def with_weights(arch: Arch, theirs: nn.Module) -> Network:
    """Return our network with the tensors of ``theirs``, taken in order.

    Both list them in the order of execution, paths of a block included; a wrong pair that has
    equal shapes would give other logits.
    """
    ours = build_empty(arch)
    empty = ours.state_dict()
    names = [name for name in empty if not name.endswith("num_batches_tracked")]
    tensors = [
        tensor
        for name, tensor in theirs.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    weights = {}
    for name, tensor in zip(names, tensors, strict=True):
        expected = empty[name]
        assert _squeezed(tensor) == _squeezed(expected), (name, tensor.shape, expected.shape)
        weights[name] = tensor.reshape(expected.shape)
    counters = {name: torch.tensor(0) for name in empty.keys() - weights.keys()}
    ours.load_state_dict(weights | counters, assign=True)
    return ours


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of ``tensor``; a 1x1 convolution of one pixel is a linear layer."""
    shape = tuple(tensor.shape)
    return shape[:2] if shape[2:] == (1, 1) else shape


def with_same_padding(value: Any) -> Any:
    """Return a part of an `Arch` with TensorFlow's padding in every convolution."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {
            field.name: with_same_padding(getattr(value, field.name)) for field in fields(value)
        }
        changed = replace(value, **parts)
        return replace(changed, padding="tf_same") if isinstance(changed, Conv) else changed
    if isinstance(value, tuple):
        return tuple(with_same_padding(item) for item in value)
    return value
