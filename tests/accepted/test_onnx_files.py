"""The table "ONNX files" of docs/accepted.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mobilette.arch.editing import convs
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.exporters.onnx import convert
from mobilette.formats.importing import import_weights
from mobilette.model.model import Model
from tests.accepted.page import Case, check, rows
from tests.formats.test_onnx import SIDE, conv, elsewhere, export, node, ours, small

SECTION = "ONNX files"


def read(path: Path, **options: Any) -> Model:
    given: dict[str, Any] = {"preprocess": "torch", "model": "mobilenet_v1", "width_mult": 0.25}
    return import_weights(path, **given | options)


def exported(folder: Path, how: Any) -> Path:
    path = folder / "model.onnx"
    export(ours("mobilenet_v1", 0.25), path, how)
    return path


def both_exporters(folder: Path) -> None:
    for how in ("dynamo", "script"):
        model = read(exported(folder, how))
        assert model.arch.resolution == SIDE
        assert [label.id for label in model.classes] == list("01234")


def norms(how: str, expected: str) -> Case:
    def case(folder: Path) -> None:
        named = convs(read(exported(folder, how)).arch)
        assert {each.norm for name, each in named.items() if "classifier" not in name} == {expected}

    return case


def artifact(folder: Path) -> None:
    preprocess = preset("tf", in_channels=3)
    for features in ("", "features"):
        network = ours("mobilenet_v1", 0.25)
        made = convert(network.eval(), Normalise(preprocess), features=features)  # type: ignore[arg-type]
        path = folder / "artifact.onnx"
        path.write_bytes(made.SerializeToString())
        found = read(path, preprocess=None).preprocess
        np.testing.assert_allclose([found.mean, found.std], 127.5, rtol=1e-6)


def half(folder: Path) -> None:
    path = exported(folder, "script")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    path.write_bytes(model.SerializeToString())
    assert read(path).weights["stem.conv.weight"].dtype == torch.float32


def open_size(resolution: int | None) -> Case:
    def case(folder: Path) -> None:
        path = exported(folder, "script")
        model = onnx.load(path)
        for place in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = "side"
        path.write_bytes(model.SerializeToString())
        assert read(path, resolution=resolution).arch.resolution == resolution

    return case


def beside(folder: Path) -> None:
    path = exported(folder, "script")
    names = {"location": "weights.bin", "size_threshold": 0}
    onnx.save(onnx.load(path), path, save_as_external_data=True, **names)  # type: ignore[arg-type]
    assert path.stat().st_size < 50_000
    read(path)


def outside(folder: Path) -> None:
    for location in ("../w.data", "/etc/passwd"):
        path = folder / "model.onnx"
        path.write_bytes(elsewhere(location).SerializeToString())
        read(path)


def written(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ()) -> Case:
    def case(folder: Path) -> None:
        model = small(*nodes)
        for name in outputs:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        read(path)

    return case


def another(folder: Path) -> None:
    read(exported(folder, "script"), model="mobilenet_v2")


def cut_short(folder: Path) -> None:
    path = exported(folder, "script")
    path.write_bytes(path.read_bytes()[:-7])
    read(path)


CASES: dict[str, Case] = {
    "of `torch.onnx.export`, with `dynamo=True` or `False`": both_exporters,
    "batch norms folded into the convolutions": norms("script", "none"),
    "batch norms as nodes (`training=PRESERVE`)": norms("unfolded", "batch"),
    "an artifact of Mobilette, with features or without": artifact,
    "half precision": half,
    "open height and width, with `--resolution 64`": open_size(64),
    "open height and width": open_size(None),
    "weights in a file beside it": beside,
    "weights in `../w.data` or `/etc/passwd`": outside,
    "quantised": written(node("QuantizeLinear", "x w", "y")),
    "an operator of no network here": written(node("Celu", "x")),
    "two outputs, none of them called `logits`": written(conv(), outputs=("z",)),
    "another network than `--as` says": another,
    "a file that is cut short, or another file": cut_short,
}


def test_every_row_is_run() -> None:
    assert rows(SECTION).keys() == CASES.keys()


@pytest.mark.parametrize("given", CASES)
def test_row(given: str, tmp_path: Path) -> None:
    check(rows(SECTION)[given], CASES[given], tmp_path)
