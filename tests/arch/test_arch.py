from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.layers import layers
from mobilette.arch.rows import Bottleneck, Conv, PoolLinear, SqueezeExcite
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.records import parse


@pytest.mark.parametrize("name", list_models())
def test_json_round_trip_keeps_the_network_and_its_hash(name: str) -> None:
    arch = get_arch(name, Settings(width_mult=0.35, resolution=96))
    again = parse(Arch, json.loads(json.dumps(arch.to_json())), where="arch.json")
    assert again == arch
    assert again.hash == arch.hash


def test_the_hash_is_of_the_network_and_stable() -> None:
    arch = get_arch("mobilenet_v2")
    assert arch.hash == "8dd970cbb6124a01929c388de3238526762f5922ebe687d5f7db32ec6635a425"
    assert replace(arch, resolution=192).hash != arch.hash
    assert get_arch("mobilenet_v2").hash == arch.hash


def test_another_resolution_or_number_of_classes_changes_nothing_else() -> None:
    arch = get_arch("mobilenet_v2", Settings(resolution=32))
    other = arch.with_resolution(224)
    assert (other.rows, other.stem) == (arch.rows, arch.stem)
    assert arch.with_classes(7).num_classes == 7


def _conv(channels: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> Conv:
    return Conv(channels=channels, activation="relu", kernel=kernel, stride=stride, groups=groups)


def _arch(*rows: Conv | Bottleneck) -> Arch:
    return Arch(
        name="test",
        resolution=32,
        in_channels=3,
        stem=_conv(8),
        rows=rows,
        head=PoolLinear(classes=2),
    )


def _bottleneck(out: int, *, residual: bool, squeeze: SqueezeExcite | None = None) -> Bottleneck:
    return Bottleneck(
        expand=None,
        depthwise=_conv(8, groups=8),
        squeeze_excite=squeeze,
        project=_conv(out),
        residual=residual,
    )


def test_rows_that_do_not_fit_together_are_named() -> None:
    with pytest.raises(InputError, match=r"rows\.1: groups 3 do not divide 8 channels"):
        layers(_arch(_conv(8), _conv(9, groups=3)))
    with pytest.raises(InputError, match=r"rows\.0: a residual needs equal shapes"):
        layers(_arch(_bottleneck(16, residual=True)))
    squeeze = SqueezeExcite(reduce=_conv(4), expand=_conv(6))
    with pytest.raises(InputError, match=r"squeeze_excite: 6 factors for 8 channels"):
        layers(_arch(_bottleneck(8, residual=True, squeeze=squeeze)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4}, "kernel 4 is even"),
        ({"stride": 0}, "stride 0 is not between"),
        ({"groups": 3}, "groups 3 do not divide 8"),
        ({"groups": 9}, "groups 9 is not between"),
    ],
)
def test_convolutions_that_are_none(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _conv(8, **options)
    with pytest.raises(InputError, match="channels 0 is not between"):
        _conv(0)


def test_heads_and_norms_that_are_none() -> None:
    with pytest.raises(InputError, match="number of classes 0"):
        PoolLinear(classes=0)
    with pytest.raises(InputError, match=r"dropout 1\.0"):
        PoolLinear(classes=2, dropout=1.0)
    with pytest.raises(InputError, match="epsilon"):
        replace(get_arch("mobilenet_v2"), norm_epsilon=0.0)
