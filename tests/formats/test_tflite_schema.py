"""Damaged and hostile TensorFlow Lite files: an `InputError` or a `FileNetwork`, read once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.errors import InputError
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.tflite import flatbuffer
from mobilette.formats.tflite.file import read_tflite

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema

from tests.conftest import SHARED
from tests.formats.tflite_models import VALID, Model, packed

NAMES = (
    "resnet8_cifar10_mlperf_tiny_int8",
    "mobilenet_v3_small_1.0_224_imagenet_int8weights",
    "mobilenet_v2_0.35_128_flowers_int8",
)
MOST_READS = 10_000  # and one a byte


def small() -> Model:
    model = Model(1, 2, 2, 3)
    last = model.conv(0, model.noise(5, 2, 2, 3), model.noise(5), (1, 1, 1, 5), padding=VALID)
    model.op("RESHAPE", [last, model.constant([1, 5], "int32")], (1, 5))
    return model


def read(content: bytes, path: Path) -> FileNetwork:
    path.write_bytes(content)
    return read_tflite(path)


@contextmanager
def few_reads(content: bytes) -> Iterator[None]:
    """Fail as soon as more numbers of a flatbuffer are read than any file of its size has."""
    reads, number = count(), flatbuffer._number

    def counted(*where: Any) -> int | float:
        assert next(reads) < MOST_READS + len(content)
        return number(*where)

    with patch.object(flatbuffer, "_number", counted):
        yield


def survives(content: bytes, path: Path) -> None:
    try:
        with few_reads(content):
            read(content, path)
    except InputError as error:
        message = str(error)
    else:
        message = f"{path}: "
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


def test_too_many_reads_are_noticed(path: Path) -> None:
    with pytest.raises(AssertionError), few_reads(b""):
        all(read(CONTENTS[0], path) for _ in range(MOST_READS))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tflite") / "file.tflite"


REAL = [SHARED / "weights" / f"{name}.tflite" for name in NAMES]
# The small one is all metadata: most flips in it matter.
CONTENTS = [small().content(), *(path.read_bytes() for path in REAL if path.exists())]


def metadata(content: bytes) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the places of all 4-byte groups that could be offsets or lengths, not weights."""
    words = np.frombuffer(content[: len(content) // 4 * 4], "<i4")
    return np.flatnonzero(np.abs(words.astype(np.int64)) < len(content)) * 4


PLACES = [metadata(content) for content in CONTENTS]


@settings(max_examples=250)
@given(data=st.data())
def test_flipped_bytes(data: st.DataObject, path: Path) -> None:
    which = data.draw(st.integers(0, len(CONTENTS) - 1))
    content, places = bytearray(CONTENTS[which]), PLACES[which]
    for _ in range(data.draw(st.integers(1, 6))):
        area = data.draw(st.sampled_from(["anywhere", "beginning", "metadata"]))
        if area == "metadata":
            place = int(places[data.draw(st.integers(0, len(places) - 1))])
            place += data.draw(st.integers(0, 3))
        else:
            end = len(content) if area == "anywhere" else min(4_000, len(content))
            place = data.draw(st.integers(0, end - 1))
        content[place] = data.draw(
            st.sampled_from([0, 1, 2, 4, 127, 128, 254, 255]) | st.integers(0, 255)
        )
    survives(bytes(content), path)


@settings(max_examples=60)
@given(data=st.data())
def test_cut_files(data: st.DataObject, path: Path) -> None:
    content = data.draw(st.sampled_from(CONTENTS))
    survives(content[: data.draw(st.integers(0, len(content) - 1))], path)


@settings(max_examples=60)
@given(rest=st.binary(max_size=300))
def test_noise(rest: bytes, path: Path) -> None:
    survives(b"\x10\0\0\0TFL3" + rest, path)


def test_every_word_of_a_small_file(path: Path) -> None:
    content = small().content()
    for place in range(0, len(content) - 3, 4):
        for value in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            changed = bytearray(content)
            struct.pack_into("<I", changed, place, value)
            survives(bytes(changed), path)


def vector_with(content: bytes, count: int) -> int:
    """Return the place of the root's vector of ``count`` tables."""
    (root,) = struct.unpack_from("<I", content)
    (back,) = struct.unpack_from("<i", content, root)
    for slot in (6, 8, 12):
        (offset,) = struct.unpack_from("<H", content, root - back + slot)
        place = root + offset
        place += struct.unpack_from("<I", content, place)[0]
        if struct.unpack_from("<I", content, place)[0] == count:
            return int(place)
    raise AssertionError


def word(content: bytes, place: int, value: int, kind: str = "<I") -> bytes:
    changed = bytearray(content)
    struct.pack_into(kind, changed, place, value)
    return bytes(changed)


def test_vectors_that_claim_too_much(path: Path) -> None:
    content = small().content()
    buffers = vector_with(content, 4)
    for claimed in (2**31, 2**32 - 1, len(content)):
        with pytest.raises(InputError, match="damaged"):
            read(word(content, buffers, claimed), path)
    with pytest.raises(InputError, match="20,000 entries"):
        read(word(content + bytes(100_000), buffers, 20_000), path)


def test_tables_that_are_themselves(path: Path) -> None:
    content = small().content()
    place = vector_with(content, 4)
    with pytest.raises(InputError):  # each entry is the vector's own beginning
        read(word(content, place + 4, 2**32 - 4), path)
    with pytest.raises(InputError, match="damaged"):  # the root is the offset to itself
        read(word(content, 0, 0), path)


def test_vtables_outside(path: Path) -> None:
    content = small().content()
    (root,) = struct.unpack_from("<I", content)
    for distance in (-(2**31), 2**31 - 1, root + 1, root - len(content)):
        with pytest.raises(InputError, match="damaged"):
            read(word(content, root, distance, "<i"), path)
    (back,) = struct.unpack_from("<i", content, root)
    for size in (0, 2, 7, 0xFFFF):
        with pytest.raises(InputError, match="damaged"):
            read(word(content, root - back, size, "<H"), path)


def test_a_shared_table_is_no_way_to_much_memory(path: Path) -> None:
    model = Model(1, 4, 4, 3)
    weight = model.constant(np.zeros((20_000, 4, 4, 3)), "int8", scale=[1.0])
    for _ in range(100):
        copy = model.tensor((20_000, 4, 4, 3), kind="int8", scale=[1.0])
        model.graph.tensors[copy].buffer = model.graph.tensors[weight].buffer
        model.conv(0, copy, -1, (1, 1, 1, 20_000), padding=VALID)
    with pytest.raises(InputError, match="larger than the file"):
        read(model.content(), path)


def _codes(model: Model) -> None:
    model.graph.operators[0].opcodeIndex = 9


def _own_output(model: Model) -> None:
    model.graph.operators[0].inputs[0] = model.graph.operators[0].outputs[0]


def _cycle(model: Model) -> None:
    model.graph.operators[0].inputs[0] = model.graph.operators[1].outputs[0]


def _inputs(model: Model) -> None:
    model.graph.operators[0].inputs[0] = 100


def _outputs(model: Model) -> None:
    model.graph.operators[0].outputs[0] = -1


def _two_outputs(model: Model) -> None:
    model.graph.operators[0].outputs *= 2


def _writes_a_constant(model: Model) -> None:
    model.graph.operators[0].outputs[0] = 1


def _buffer(model: Model) -> None:
    model.graph.tensors[1].buffer = 50


def _bytes(model: Model) -> None:
    model.model.buffers[1].data = model.model.buffers[1].data[:-1]


def _outside(model: Model) -> None:
    model.model.buffers[1].offset = 4096
    model.model.buffers[1].size = 4


def _nan(model: Model) -> None:
    model.model.buffers[1].data = np.full(60, np.nan, np.float32).view(np.uint8)


def _sparse(model: Model) -> None:
    model.graph.tensors[1].sparsity = schema.SparsityParametersT()


def _graphs(model: Model) -> None:
    model.model.subgraphs *= 2


def _version(model: Model) -> None:
    model.model.version = 4


def _dynamic(model: Model) -> None:
    model.graph.tensors[0].shapeSignature = [-1, -1, 2, 3]


def _five_colours(model: Model) -> None:
    model.graph.tensors[0].shape = [1, 2, 3, 5]


def _no_options(model: Model) -> None:
    model.graph.operators[0].builtinOptionsType = 0


def _shape(model: Model) -> None:
    model.graph.tensors[3].shape = [1, 1, 1, 6]


def _type(model: Model) -> None:
    model.graph.tensors[3].type = schema.TensorType.INT16


def _blockwise(model: Model) -> None:
    quantisation = model.graph.tensors[1].quantization = schema.QuantizationParametersT()
    quantisation.scale, quantisation.detailsType = [1.0], 2
    quantisation.details = schema.BlockwiseQuantizationT()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_codes, r"operator 0 is of kind 9 of 2"),
        (
            _own_output,
            r"operator 0 \(CONV_2D\): it reads tensor 't3', which no earlier operator writes",
        ),
        (_cycle, r"it reads tensor 't5', which no earlier operator writes"),
        (_inputs, r"operator 0 \(CONV_2D\) names tensor 100 of 6"),
        (_outputs, r"names tensor -1 of 6"),
        (_two_outputs, r"2 outputs, not one"),
        (_writes_a_constant, r"writes tensor 't1', which already has a value"),
        (_buffer, r"tensor 1 is in buffer 50 of 4"),
        (_bytes, r"239 bytes, which is not float32 of shape \(5, 2, 2, 3\)"),
        (_outside, r"tensor 1 lies outside of the flatbuffer"),
        (_nan, r"tensor 't1' has values that are not finite"),
        (_sparse, r"tensor 't1' is sparse"),
        (_graphs, r"2 graphs; a classifier has one"),
        (_version, r"version 4 of the format; only 3 is supported"),
        (_dynamic, r"all fixed but the batch"),
        (_five_colours, r"not an image \(1, height, width, 1 or 3\)"),
        (_no_options, r"has no options, or another operator's"),
        (_shape, r"its output is \(1, 1, 1, 6\); its inputs give \(1, 1, 1, 5\)"),
        (_type, r"int16; activations must be"),
        (_blockwise, r"has a custom quantisation"),
    ],
)
def test_what_is_wrong_is_said(path: Path, change: Callable[[Model], None], message: str) -> None:
    model = small()
    assert len(read(model.content(), path).layers) == 1
    change(model)
    with pytest.raises(InputError, match=message) as caught:
        read(packed(model.model), path)
    assert str(caught.value).startswith(f"{path}: ")
