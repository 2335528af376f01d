"""Files of torch.save whose pickle was forged: nothing outside them is read, nothing large made."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from mobilette.errors import InputError
from mobilette.formats.torch.state_dict import read_state_dict
from tests.formats.test_state_dict import legacy, rewritten, write, zipped

VALUES = np.arange(24, dtype=np.float32)


class Stored:
    """A storage that a forged pickle speaks of."""

    def __init__(
        self, key: object = "0", count: object = 24, kind: type = torch.FloatStorage
    ) -> None:
        self.id = ("storage", kind, key, "cpu", count)


class Tensor:
    """A call that rebuilds a tensor."""

    def __init__(self, storage: object, offset: object, shape: object, strides: object) -> None:
        self.args: tuple[object, ...] = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.args


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value.id if isinstance(value, Stored) else None


def forged(content: object) -> bytes:
    """Return an archive that says ``content``, with 24 numbers under "0"."""
    pickled, file = io.BytesIO(), io.BytesIO()
    Pickler(pickled, protocol=2).dump(content)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", pickled.getvalue())
        archive.writestr("weights/byteorder", "little")
        archive.writestr("weights/data/0", VALUES.tobytes())
    return file.getvalue()


def refused(folder: Path, content: bytes, part: str = "") -> None:
    path = write(folder, content)
    with pytest.raises(InputError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert part in message, message


def test_a_tensor_that_is_not_forged(tmp_path: Path) -> None:
    made = {"a": Tensor(Stored(), 1, (2, 3), (1, 4))}
    read = read_state_dict(write(tmp_path, forged(made))).tensors["a"]
    assert np.array_equal(read.numpy(), as_strided(VALUES[1:], (2, 3), (4, 16)))


@pytest.mark.parametrize(
    "key", ["1", "../0", "/etc/passwd", "../data.pkl", "", "0/../0", 0, None, ("0",)]
)
def test_storages_are_parts_of_the_file(key: object, tmp_path: Path) -> None:
    refused(tmp_path, forged({"a": Tensor(Stored(key), 0, (1,), (1,))}))


@pytest.mark.parametrize("count", [25, 2**31, 2**40, 2**62, -1, True, "24", 24.0, None])
def test_storages_are_as_long_as_their_part(count: object, tmp_path: Path) -> None:
    refused(tmp_path, forged({"a": Tensor(Stored("0", count), 0, (1,), (1,))}))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (24, (1,), (1,)),
        (-1, (1,), (1,)),
        (0, (25,), (1,)),
        (0, (2, 13), (13, 1)),
        (0, (2,), (24,)),
        (0, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2, 2), (1,)),
        (0, (2**40,), (0,)),
        (0, (2**33, 2**33), (0, 0)),
        (0, (2**20, 2**15), (0, 0)),
        (0, (10**4000,), (0,)),
        (0, (1,) * 9, (1,) * 9),
        (0, [1], [1]),
        (0, (True,), (1,)),
        (None, (1,), (1,)),
    ],
)
def test_tensors_lie_within_their_storage(
    offset: object, shape: object, strides: object, tmp_path: Path
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path, forged({"a": Tensor(Stored(), offset, shape, strides)}), "damaged")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@settings(max_examples=200)
@given(
    offset=st.integers(0, 30),
    sides=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), max_size=4),
)
def test_every_shape_is_refused_or_read_as_numpy_does(
    offset: int, sides: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    shape, strides = tuple(side for side, _ in sides), tuple(step for _, step in sides)
    path = tmp_path_factory.getbasetemp() / "forged.pth"
    path.write_bytes(forged({"a": Tensor(Stored(), offset, shape, strides), "b": torch.Size()}))
    indices = [
        offset + sum(i * s for i, s in zip(index, strides, strict=True))
        for index in itertools.product(*map(range, shape))
    ]
    try:
        read = read_state_dict(path).tensors["a"]
    except InputError:
        assert max(indices, default=0) >= 24 or len(indices) * 4 > 2 * path.stat().st_size
        return
    assert read.shape == shape
    assert read.flatten().tolist() == [VALUES[index] for index in indices]


def test_half_of_a_file_is_not_read_for_the_other(tmp_path: Path) -> None:
    """What stands beside the weights is named by the pickle alone: its values may be damaged."""
    content = {"state_dict": {"a": torch.ones(3)}, "optimizer": {"b": torch.full((9,), 7.0)}}
    changed = bytearray(zipped(content))
    changed[changed.index(struct.pack("<9f", *[7.0] * 9))] ^= 1
    assert torch.equal(read_state_dict(write(tmp_path, bytes(changed))).tensors["a"], torch.ones(3))


def test_a_list_of_parts_without_end(tmp_path: Path) -> None:
    """Python would read all of it before anybody could ask how long it is."""
    entry = b"PK\x01\x02" + bytes(42)
    entries = entry * (9 * 2**20 // len(entry))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(entries), 4, 0)
    refused(tmp_path, b"PK\x03\x04" + entries + end, "a zip archive whose directory claims")


def test_one_table_in_many_places(tmp_path: Path) -> None:
    """Looked into once, whatever leads to it."""
    inner: dict[str, object] = {f"{number}": {} for number in range(2000)}
    middle = {f"{number}": inner for number in range(2000)}
    content = {f"{number}": middle for number in range(2000)} | {"a": torch.ones(1)}
    assert read_state_dict(write(tmp_path, zipped(content))).tensors.keys() == {"a"}
    refused(tmp_path, zipped({"k" * 10**6: {"k": {}}}), "no tensors in it")


def test_old_files_of_a_gpu(tmp_path: Path) -> None:
    content = legacy({"a": torch.ones(3)})
    on_gpu = content.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    assert on_gpu != content
    assert torch.equal(read_state_dict(write(tmp_path, on_gpu)).tensors["a"], torch.ones(3))


def test_a_module_beside_a_single_number(tmp_path: Path) -> None:
    content = {"model": torch.nn.Linear(2, 2), "best": torch.tensor(0.5)}
    refused(tmp_path, zipped(content), "under 'model' a pickled module")


def test_names_of_classes_are_shown_on_one_line(tmp_path: Path) -> None:
    named = b"\x80\x04}(X\x01\x00\x00\x00aX\x04\x00\x00\x00os\x1b\nX\x01\x00\x00\x00x\x93u."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", named)
    refused(tmp_path, file.getvalue(), "no tensors in it")
    remark = read_state_dict(
        write(
            tmp_path,
            rewritten(zipped({"b": torch.ones(1)}), lambda p: p[:2] + named[2:-2] + b"0" + p[2:]),
        )
    ).remarks[-1]
    assert remark == r"also in the file, not executed: 'os\x1b\n.x'"


CHECKPOINT = {
    "state_dict": {"conv.weight": torch.ones(2, 3), "conv.bias": torch.arange(2)},
    "epoch": 3,
    "when": torch.device("cpu"),
}


@pytest.mark.parametrize("pack", [zipped, legacy])
@settings(max_examples=200)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_changed_pickles_whose_checksums_fit(
    pack: Any, changes: list[tuple[float, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def change(pickled: bytes) -> bytes:
        changed = bytearray(pickled)
        for place, new in changes:
            start = int(place * len(changed))
            changed[start : start + len(new)] = new
        return bytes(changed)

    content = pack(CHECKPOINT)
    path = tmp_path_factory.getbasetemp() / f"changed by {os.getpid()}"
    path.write_bytes(rewritten(content, change) if pack is zipped else change(content))
    with suppress(InputError):
        for tensor in read_state_dict(path).tensors.values():
            assert tensor.numel() <= 2 * len(content)
