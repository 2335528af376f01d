"""The table "Caffe files" of docs/accepted.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import convs
from mobilette.arch.scale import Settings
from mobilette.formats.importing import import_weights
from mobilette.nn.network import Network
from tests.accepted.page import Case, check, rows
from tests.formats.caffe_models import (
    TWO_GB,
    caffe_of,
    delimited,
    read,
    small,
    whole_caffemodel,
    with_expansion,
)

SECTION = "Caffe files"


def reads(model: str = "mobilenet_v1", **options: Any) -> Case:
    def case(folder: Path) -> None:
        found = read(small(model, **options).write(folder), model=model).arch
        assert (found.num_classes, found.resolution) == (10, 32)
        norms = {conv.norm for name, conv in convs(found).items() if name != "head.classifier"}
        assert norms == {"none" if model == "squeezenet1_1" else "batch"}

    return case


def changed(old: str, new: str) -> Case:
    def case(folder: Path) -> None:
        path = small().write(folder)
        definition = path.with_name("deploy.prototxt")
        text = definition.read_text()
        assert old in text
        definition.write_text(text.replace(old, new, 1))
        read(path)

    return case


def expanded(folder: Path) -> None:
    settings = Settings(num_classes=10, width_mult=0.5, resolution=32, form="full")
    plain = get_arch("mobilenet_v2", settings)
    arch = with_expansion(plain)
    assert len(convs(arch)) == len(convs(plain)) + 1
    path = caffe_of(arch, Network(arch).state_dict()).write(folder)
    found = import_weights(path, model="mobilenet_v2", width_mult=0.5, preprocess="caffe")
    assert convs(found.arch) == convs(arch)


def stated(folder: Path) -> None:
    path = small(transform="transform_param { mean_value: 104 scale: 0.5 }").write(folder)
    found = read(path, preprocess=None).preprocess
    assert (found.colour, found.mean, found.std) == ("bgr", (104,) * 3, (2,) * 3)


def mean_file(folder: Path) -> None:
    path = small(transform='transform_param { mean_file: "a.binaryproto" }').write(folder)
    read(path, preprocess=None)


def unused(folder: Path) -> None:
    files = small()
    loss = files.net.layer.add(name="loss3", type="InnerProduct")
    files.add_blob(loss, np.zeros((2, 2), np.float32))
    assert read(files.write(folder)).origin.unused == ("loss3.0",)


def first(folder: Path) -> None:
    path = small().write(folder, definition="net")
    (folder / "deploy.prototxt").write_text("not this one")
    assert "layers as defined in net.prototxt" in read(path).origin.remarks


def two(folder: Path) -> None:
    small().write(folder, definition="a")
    read(small().write(folder, definition="b"))


def alone(folder: Path, *, whole: bool) -> None:
    path = (whole_caffemodel(small()) if whole else small()).write(folder)
    path.with_name("deploy.prototxt").unlink()
    assert read(path).arch.resolution == 32


def swapped(folder: Path) -> None:
    read(small().write(folder).with_name("deploy.prototxt"))


def stored(content: bytes | None) -> Case:
    def case(folder: Path) -> None:
        path = small().write(folder)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        read(path)

    return case


def deep(folder: Path) -> None:
    path = small().write(folder)
    path.with_name("deploy.prototxt").write_text("layer { a { " * 20_000)
    read(path)


CASES: dict[str, Case] = {
    "`layer`, as since 2015": reads(),
    "`layers`, as before 2015": reads("squeezenet1_1", old=True, input_layer=False),
    "`BatchNorm` and the `Scale` behind it": reads(in_place=False),
    "`ConvolutionDepthwise`, `DepthwiseConvolution`": reads(depthwise="DepthwiseConvolution"),
    "MobileNet V2 with a first block that expands by 1, or with strides elsewhere": expanded,
    "`transform_param` with `mean_value` or `scale`, in either file": stated,
    "`transform_param` with `mean_file`": mean_file,
    "weights of layers that are not in the `.prototxt`": unused,
    "`net.prototxt` and `deploy.prototxt` beside `net.caffemodel`": first,
    "`a.prototxt` and `b.prototxt`": two,
    "no `.prototxt`": lambda folder: alone(folder, whole=False),
    "no `.prototxt`, and an `Input` in the `.caffemodel`": lambda folder: alone(folder, whole=True),
    "the `.prototxt` in place of the weights": swapped,
    "a definition for training": changed('type: "Input"', 'type: "Data"'),
    "`PReLU`, `LRN` and other layers": changed('type: "ReLU6"', 'type: "PReLU"'),
    "a layer without weights of its name": changed('name: "stem/conv"', 'name: "conv1"'),
    "a length of 2 GB in a file of a few bytes": stored(delimited(100, b"", TWO_GB)),
    "a file that is cut short": stored(None),
    "text nested 20,000 deep": deep,
}


def test_every_row_is_run() -> None:
    assert rows(SECTION).keys() == CASES.keys()


@pytest.mark.parametrize("given", CASES)
def test_row(given: str, tmp_path: Path) -> None:
    check(rows(SECTION)[given], CASES[given], tmp_path)
