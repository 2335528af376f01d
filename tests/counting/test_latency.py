"""Fused layers, and latencies predicted by a table: without an engine."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.rows import Activation
from mobilette.arch.scale import Settings
from mobilette.cli.main import run as command
from mobilette.counting.budget import Device, parse_budget
from mobilette.counting.candidates import Candidate, Shortfall, candidates
from mobilette.counting.cost import cost
from mobilette.counting.fused_layers import FusedLayer, fused_layers
from mobilette.counting.latency import (
    LatencyTable,
    check_comparable,
    interpolated,
    predicted_latency,
    read_latency_table,
    unmeasured_layers,
    write_latency_table,
)
from mobilette.errors import InputError
from tests.latency import device_table

NAMES = [*list_models("mobilenet_v*"), "shufflenet_v1_g3", "resnet18", "resnet20", "repvgg_a0"]


def arch_of(name: str, resolution: int = 96) -> Arch:
    return get_arch(name, Settings(resolution=resolution))


def table_of(*names: str, milliseconds: float | None = None) -> LatencyTable:
    """A table of a made-up device: a layer takes 1 ns per mult-add and per element."""
    return device_table(
        (step.layer for name in names for step in fused_layers(arch_of(name))),
        milliseconds=lambda layer: milliseconds or made_up(layer),
        precision="int8",
        overhead_ms=0.5,
    )


def made_up(layer: FusedLayer) -> float:
    return (layer.madds + layer.elements) / 1e6


@pytest.mark.parametrize("name", list_models())
def test_no_mult_add_and_no_weight_is_lost(name: str) -> None:
    """Whatever is fused, the sums are those of `cost`; only deployed branches have fewer."""
    arch = arch_of(name)
    steps = fused_layers(arch)
    counted = cost(arch)
    assert 4 * sum(step.layer.weights for step in steps) == counted.size_bytes.fp32
    if not name.startswith(("repvgg", "mobileone")):
        assert sum(step.layer.madds for step in steps) == counted.madds
    known = {"input"}
    for step in steps:
        assert known.issuperset(step.inputs)
        assert len(step.inputs) == len(step.layer.inputs) + step.layer.added
        known.add(step.name)


def test_what_is_fused_by_hand() -> None:
    steps = {step.name: step for step in fused_layers(arch_of("mobilenet_v2"))}
    assert Counter(step.layer.kind for step in steps.values()) == {
        "normalise": 1,
        "conv": 35,
        "depthwise": 17,
        "mean": 1,
        "linear": 1,
    }
    stem = steps["stem.activation"]
    assert stem.layer == FusedLayer(
        kind="conv",
        inputs=((3, 96, 96),),
        output=(32, 48, 48),
        kernel=3,
        stride=2,
        pads=(1, 1, 1, 1),
        activation="relu6",
    )
    added = steps["rows.2.add"]
    assert added.inputs == ("rows.2.depthwise.activation", "rows.1.project.norm")
    assert added.layer.added
    assert added.layer.activation == added.layer.after_add == "none"
    (relu_after,) = {
        step.layer.after_add for step in fused_layers(arch_of("resnet18")) if step.layer.added
    }
    assert relu_after == "relu"


def test_the_sum_by_hand() -> None:
    table = replace(table_of("mobilenet_v2"), corrections={"depthwise": 2.0})
    arch = arch_of("mobilenet_v2")
    layers = [step.layer for step in fused_layers(arch)]
    depthwise = sum(made_up(layer) for layer in layers if layer.kind == "depthwise")
    expected = 0.5 + sum(map(made_up, layers)) + depthwise
    assert predicted_latency(arch, table) == pytest.approx(expected)
    assert unmeasured_layers(arch, table) == ()


def test_what_the_table_lacks_is_interpolated() -> None:
    """The made-up device is a smooth function, so near shapes tell what lies between them."""
    table = table_of("mobilenet_v2", "mobilenet_v3_large", "resnet18")
    for resolution in (80, 112):
        arch = arch_of("mobilenet_v2", resolution)
        layers = [step.layer for step in fused_layers(arch)]
        lacking = unmeasured_layers(arch, table)
        assert lacking
        assert set(lacking) <= set(layers)
        expected = 0.5 + sum(map(made_up, layers))
        assert predicted_latency(arch, table) == pytest.approx(expected, rel=0.25)


def test_how_many_layers_are_interpolated_is_said() -> None:
    table = table_of("mobilenet_v2")
    known, other = arch_of("mobilenet_v2"), arch_of("mobilenet_v2", 80)
    assert interpolated([known], table) == ""
    layers = {step.layer for arch in (known, other) for step in fused_layers(arch)}
    lacking = len(unmeasured_layers(other, table))
    text = f"{lacking} of {len(layers)} layers are not in the table and were interpolated"
    assert interpolated([known, other], table) == text


def test_models_says_how_many_layers_are_interpolated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "device.json"
    write_latency_table(table_of("resnet8"), path)
    budget = ["models", "resnet8", "--budget", f"latency<=1s@{path}", "--limit", "1", "--json"]
    for resolution in (96, 128):
        assert command([*budget, "--resolution", str(resolution)]) == 0
        printed = capsys.readouterr()
        (found,) = json.loads(printed.out)
        used = Settings(resolution=resolution, width_mult=found["width_mult"], num_classes=1000)
        text = interpolated([get_arch("resnet8", used)], read_latency_table(path))
        assert (f"latency on {path}: {text}" in " ".join(printed.err.split())) == bool(text)
    assert text


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_that_the_table_lacks_still_takes_time(name: str) -> None:
    table = table_of("vgg11")
    for step in fused_layers(arch_of(name)):
        assert 0 < table.milliseconds(step.layer) < 1e6


@given(milliseconds=st.floats(0, 1e9))
def test_one_layer_is_a_table(milliseconds: float) -> None:
    table = table_of("mobilenet_v2", milliseconds=1.0)
    one = replace(table, layers=(replace(table.layers[0], milliseconds=milliseconds),))
    assert predicted_latency(arch_of("resnet8"), one) >= 0.5


def test_json_there_and_back(tmp_path: Path) -> None:
    table = replace(table_of("mobilenet_v3_small", "resnet20"), corrections={"conv": 1.5})
    path = tmp_path / "device.json"
    write_latency_table(table, path)
    assert read_latency_table(path) == table
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(table.to_json()))
    with pytest.raises(InputError, match="no layers"):
        replace(table, layers=())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "litert"}, "is of engine onnx, not litert"),
        ({"version": "2.0"}, "is of version 1.0, not 2.0"),
        ({"precision": "fp32"}, "is of precision int8, not fp32"),
    ],
)
def test_only_alike_is_compared(change: dict[str, str], message: str) -> None:
    given = {"engine": "onnx", "version": "1.0", "precision": "int8"}
    table = table_of("resnet8")
    check_comparable(table, **given)
    with pytest.raises(InputError, match=message):
        check_comparable(table, **(given | change))


# Budgets


DEVICE = Device(table="made_up.json")
TABLES = {DEVICE: table_of("mobilenet_v2", "resnet8", "shufflenet_v2")}
SEVERAL = ["mobilenet_v2", "resnet8", "shufflenet_v2"]


def fitting(budget: str) -> list[Candidate] | Shortfall:
    return candidates(SEVERAL, parse_budget(budget), resolutions=[64, 96], tables=TABLES)


def test_a_budget_with_a_latency_is_the_same_as_trying_every_point() -> None:
    everything = fitting("madds<=1G")
    limited = fitting("madds<=1G, latency<=30ms@made_up.json")
    assert isinstance(everything, list)
    assert isinstance(limited, list)
    expected = set()
    for each in everything:
        arch = get_arch(each.name, Settings(width_mult=each.width_mult, resolution=each.resolution))
        if predicted_latency(arch, TABLES[DEVICE]) <= 30:
            expected.add((each.name, each.width_mult, each.resolution))
    assert {(each.name, each.width_mult, each.resolution) for each in limited} == expected
    assert 0 < len(expected) < len(everything)
    assert all(each.latency_ms["made_up.json"] <= 30 for each in limited)
    assert limited[0].to_json()["latency_ms"] == limited[0].latency_ms


def test_a_latency_that_nothing_reaches() -> None:
    short = fitting("latency<=1us@made_up.json")
    assert isinstance(short, Shortfall)
    assert short.tightest.quantity == "latency"
    assert short.smallest.latency_ms["made_up.json"] > 0.5


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("top1>=90%", "accuracy depends on the images: mobilette fit"),
        ("latency<=1ms@other.json", "no latency table of other.json"),
    ],
)
def test_what_cannot_be_answered(budget: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitting(budget)


def test_a_table_of_another_precision() -> None:
    limits = parse_budget("latency<=1ms@made_up.json")
    with pytest.raises(InputError, match="the latency table is of int8, not fp32"):
        candidates(SEVERAL, limits, resolutions=[64], precision="fp32", tables=TABLES)


# As LiteRT took them in int8, with two threads of an AMD EPYC: inputs, outputs, milliseconds.
LINEAR: list[tuple[tuple[int, ...], int, Activation, float]] = [
    ((512, 1, 1), 1000, "none", 0.003124),
    ((1280, 1, 1), 1000, "none", 0.009795),
    ((576, 1, 1), 1024, "hard_swish", 0.012518),
    ((1024,), 1000, "none", 0.015498),
    ((720, 1, 1), 1280, "hard_swish", 0.013019),
    ((1280,), 1000, "none", 0.011663),
    ((1024, 1, 1), 1000, "none", 0.006825),
    ((480, 1, 1), 1000, "none", 0.00281),
    ((256, 1, 1), 1000, "none", 0.001713),
    ((64, 1, 1), 1000, "none", 0.000736),
    ((480, 1, 1), 1280, "relu", 0.003516),
    ((128, 1, 1), 1024, "relu", 0.001146),
    ((1024,), 1024, "relu", 0.007917),
]


def linear(inputs: tuple[int, ...], outputs: int, activation: Activation = "none") -> FusedLayer:
    return FusedLayer(kind="linear", inputs=(inputs,), output=(outputs,), activation=activation)


def test_what_all_layers_have_alike_leads_nowhere() -> None:
    """Of the noise between 1,000 and 1,280 outputs a plane made milliseconds for ten of them."""
    times = {linear(size, many, function): taken for size, many, function, taken in LINEAR}
    table = device_table(times, milliseconds=lambda layer: times[layer])
    for inputs in (64, 640, 1792):
        assert table.milliseconds(linear((inputs, 1, 1), 10)) < 0.01
    assert table.milliseconds(linear((2048, 1, 1), 1000)) > 0.007
