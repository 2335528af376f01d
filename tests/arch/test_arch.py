from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import _Graph, layers
from mobilette.arch.rows import (
    Block,
    ChannelShuffle,
    Conv,
    Operation,
    Pool,
    PoolLinear,
    Row,
    SqueezeExcite,
    Step,
    Subsample,
)
from mobilette.arch.scale import Settings
from mobilette.errors import InputError


def test_the_hash_is_of_the_network_and_stable() -> None:
    arch = get_arch("mobilenet_v2")
    assert arch.hash == "0d2aae92e03d73f2232ea2b2036a68ed5838e15b16740da50257c5a67a491087"
    assert replace(arch, resolution=192).hash != arch.hash
    assert get_arch("mobilenet_v2").hash == arch.hash


def test_another_resolution_or_number_of_classes_changes_nothing_else() -> None:
    arch = get_arch("mobilenet_v2", Settings(resolution=32))
    other = arch.with_resolution(224)
    assert (other.rows, other.stem) == (arch.rows, arch.stem)
    assert arch.with_classes(7).num_classes == 7


def _conv(channels: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> Conv:
    return Conv(channels=channels, activation="relu", kernel=kernel, stride=stride, groups=groups)


def _arch(*rows: Row) -> Arch:
    return Arch(
        name="test",
        resolution=32,
        in_channels=3,
        stem=_conv(8),
        rows=rows,
        head=PoolLinear(classes=2),
    )


def _residual(operation: Operation) -> Block:
    return Block(paths=((Step(name="conv1", operation=operation),), ()), join="add")


def test_rows_that_do_not_fit_together_are_named() -> None:
    with pytest.raises(InputError, match=r"rows\.1: groups 3 do not divide 8 channels"):
        layers(_arch(_conv(8), _conv(9, groups=3)))
    with pytest.raises(InputError, match=r"rows\.0: paths of 16x32x32 and 8x32x32"):
        layers(_arch(_residual(_conv(16))))
    squeeze = SqueezeExcite(reduce=_conv(4), expand=_conv(6))
    with pytest.raises(InputError, match=r"rows\.0\.conv1: 6 factors for 8 channels"):
        layers(_arch(_residual(squeeze)))
    with pytest.raises(InputError, match=r"rows\.0\.conv1: 8 channels cannot grow to 11"):
        layers(_arch(_residual(Subsample(channels=11, stride=1))))
    shuffle = Step(name="channel_shuffle", operation=ChannelShuffle(groups=3))
    with pytest.raises(InputError, match=r"rows\.0\.channel_shuffle: groups 3 do not divide 8"):
        layers(_arch(Block(entry=(shuffle,))))
    odd = (_conv(7), Block(paths=((), ()), join="concat", split=True))
    with pytest.raises(InputError, match=r"rows\.1: 7 channels cannot be split"):
        layers(_arch(*odd))


def test_blocks_that_are_none() -> None:
    step = Step(name="conv1", operation=_conv(8))
    with pytest.raises(InputError, match="two steps of a block are called 'conv1'"):
        Block(entry=(step, step))
    with pytest.raises(InputError, match="join 'none' with 2 paths"):
        Block(paths=((step,), ()))
    with pytest.raises(InputError, match="join 'add' with 0 paths"):
        Block(entry=(step,), join="add")
    with pytest.raises(InputError, match="join 'add' with 1 paths"):
        Block(paths=((step,),), join="add")
    with pytest.raises(InputError, match="a split needs two paths, not 3"):
        Block(paths=((step,), (), ()), join="concat", split=True)


@pytest.mark.parametrize("ceil_mode", [False, True])
@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    function=st.sampled_from(["max", "average"]),
    padding=st.sampled_from(["symmetric", "valid"]),
)
def test_pools_have_the_size_that_torch_gives_them(
    ceil_mode: bool, size: int, kernel: int, stride: int, function: Any, padding: Any
) -> None:
    import torch

    pool = Pool(
        function=function, kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode
    )
    kind = torch.nn.MaxPool2d if function == "max" else torch.nn.AvgPool2d
    zeros = (kernel - 1) // 2 if padding == "symmetric" else 0
    module = kind(kernel, stride, zeros, ceil_mode=ceil_mode)
    graph = _Graph((1, size, size))
    try:
        expected = tuple(module(torch.zeros(1, 1, size, size)).shape[1:])
    except RuntimeError:
        with pytest.raises(InputError, match="does not fit into"):
            graph.row("rows.0", pool)
    else:
        graph.row("rows.0", pool)
        assert graph.shape == expected


@pytest.mark.parametrize("name", ["vgg16", "squeezenet1_0", "squeezenet1_1"])
def test_a_resolution_too_small_for_the_strides_is_said(name: str) -> None:
    arch = get_arch(name, Settings(resolution=224)).with_resolution(16)
    with pytest.raises(InputError, match="use a larger resolution"):
        layers(arch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4}, "kernel 4 is even"),
        ({"stride": 0}, "stride 0 is not between"),
        ({"groups": 3}, "groups 3 do not divide 8"),
        ({"groups": 9}, "groups 9 do not divide 8"),
    ],
)
def test_convolutions_that_are_none(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _conv(8, **options)
    with pytest.raises(InputError, match="channels 0 is not between"):
        _conv(0)


def test_heads_and_norms_that_are_none() -> None:
    with pytest.raises(InputError, match="classes 0 is not between"):
        PoolLinear(classes=0)
    with pytest.raises(InputError, match=r"dropout 1\.0"):
        PoolLinear(classes=2, dropout=1.0)
    with pytest.raises(InputError, match="epsilon"):
        replace(get_arch("mobilenet_v2"), norm_epsilon=0.0)
