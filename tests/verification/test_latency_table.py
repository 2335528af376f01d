"""Latency tables measured on the real engine, with few layers; no time is asserted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from mobilette import create_model
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.compression.folding import fold
from mobilette.counting.fused_layers import fused_layers
from mobilette.counting.latency import (
    LatencyTable,
    Precision,
    predicted_latency,
    read_latency_table,
    unmeasured_layers,
    write_latency_table,
)
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.engines.layer_timing import PACKAGES, Engine
from mobilette.errors import InputError
from mobilette.exporters.onnx import convert
from mobilette.exporters.onnx_layers import write_onnx_layers
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model, Origin
from mobilette.verification.latency_table import (
    build_latency_table,
    cached_latency_table,
    corrected,
    extend_latency_table,
    keep_latency_table,
)
from mobilette.verification.layer_latency import LayerRequest, layer_ms


def small(name: str) -> Arch:
    return get_arch(name, Settings(width_mult=0.25, resolution=32, num_classes=10))


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    archs = [small("resnet8"), small("mobilenet_v3_small")]
    return build_latency_table("onnx", networks=archs, seconds=0.0)


def test_every_layer_of_the_networks_is_there(table: LatencyTable) -> None:
    for name in ("resnet8", "mobilenet_v3_small"):
        assert unmeasured_layers(small(name), table) == ()
        assert predicted_latency(small(name), table) > 0
    assert all(each.milliseconds > 0 for each in table.layers)
    assert set(table.corrections) == {each.layer.kind for each in table.layers}


def test_other_networks_are_interpolated_or_added(table: LatencyTable, tmp_path: Path) -> None:
    other = small("shufflenet_v2")
    assert unmeasured_layers(other, table)
    assert predicted_latency(other, table) > 0
    more = extend_latency_table(table, [other], seconds=0.0)
    assert unmeasured_layers(other, more) == ()
    assert more.layers[: len(table.layers)] == table.layers
    assert extend_latency_table(more, [other]) is more
    write_latency_table(more, tmp_path / "here.json")
    assert read_latency_table(tmp_path / "here.json") == more


def test_corrections_explain_the_networks(table: LatencyTable) -> None:
    """If whole networks take twice the sum of their layers, the corrections are about 2."""
    archs = [small(name) for name in ("resnet8", "mobilenet_v3_small", "mobilenet_v2")]
    bare = replace(table, corrections={}, overhead_ms=0.0)
    sums = [predicted_latency(arch, bare) for arch in archs]
    found = corrected(table, archs, [2 * each for each in sums])
    for arch, total in zip(archs, sums, strict=True):
        assert predicted_latency(arch, found) == pytest.approx(2 * total, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": "a phone"}, "is of a phone, not of this machine"),
        ({"engine_version": "0.1"}, "is of onnx 0.1; here it is"),
        ({"engine": "tensorrt"}, "engine of a latency table 'tensorrt' is not one of onnx, litert"),
        ({"threads": 512}, "--threads 512: only"),
    ],
)
def test_only_a_table_of_this_machine_is_extended(
    table: LatencyTable, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        extend_latency_table(replace(table, **change), [small("vgg11")])  # type: ignore[arg-type]


def test_the_cache(table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="mobilette bench --table onnx' makes it"):
        cached_latency_table("onnx", precision="fp32", threads=1)
    with pytest.raises(InputError, match="--table onnx --precision int8' makes it"):
        cached_latency_table("onnx", precision="int8", threads=1)
    keep_latency_table(table)
    assert cached_latency_table("onnx", precision="fp32", threads=1) == table


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("engine", list(PACKAGES))
def test_a_layer_of_any_kind_takes_time(engine: Engine, precision: Precision) -> None:
    """Every kind of layer, on the real engines, which refuse what does not fit together."""
    pytest.importorskip(PACKAGES[engine].replace("-", "_"))
    names = ("mobilenet_v3_small", "shufflenet_v1_g3", "ghostnet", "resnet20", "squeezenet1_0")
    layers = [step.layer for name in names for step in fused_layers(small(name))]
    one_of_each = {(x.kind, x.activation, x.after_add, x.stride): x for x in layers}
    assert {x.kind for x in layers} > {"scale", "shuffle", "grouped", "subsample", "max_pool"}
    request = LayerRequest(
        engine=engine, precision=precision, threads=1, layers=(), networks=(), seconds=0.0
    )
    for layer in one_of_each.values():
        assert layer_ms(layer, request) > 0


@pytest.mark.parametrize("name", ["shufflenet_v2"])
def test_files_have_the_operators_of_the_exporter(name: str) -> None:
    """Compared with torch's exporter, which knows nothing of fused layers."""
    arch = small(name)
    steps = fused_layers(arch)
    content = write_onnx_layers(
        steps, inputs={"input": arch.shape}, outputs=[steps[-1].name], precision="fp32"
    )
    written = onnx.load_model_from_string(content)
    network = create_model(name, num_classes=10, width_mult=0.25, resolution=32)
    model = Model(
        arch=network.arch,
        preprocess=preset("torch"),
        classes=tuple(ClassLabel(id=str(n), name=str(n)) for n in range(10)),
        weights=network.state_dict(),
        origin=Origin(name=name),
    )
    folded = fold(model)
    exported = convert(folded.network, Normalise(folded.preprocess))
    found, expected = (
        Counter(node.op_type for node in each.graph.node if node.op_type != "Reshape")
        for each in (written, exported)
    )
    assert found == expected
