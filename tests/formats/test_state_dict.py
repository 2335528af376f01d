from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from mobilette.errors import InputError
from mobilette.formats.torch.state_dict import read_state_dict

TENSORS = {
    "conv.weight": torch.arange(54, dtype=torch.float32).reshape(2, 3, 3, 3),
    "norm.running_mean": torch.tensor([0.5, -2.0]),
    "norm.num_batches_tracked": torch.tensor(7),
}


def zipped(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def legacy(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


FORMATS = {"zip": zipped(TENSORS), "legacy": legacy(TENSORS), "safetensors": save(TENSORS)}


def write(folder: Path, content: bytes, name: str = "weights.bin") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def assert_same(read: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "th", "bin"])
def test_formats_are_told_apart_by_content(name: str, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path, FORMATS[name], f"weights.{suffix}")
    read = read_state_dict(path)
    assert_same(read.tensors, TENSORS)
    assert read.remarks == ()


@pytest.mark.parametrize("name", FORMATS)
def test_the_weights_outlive_the_file(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, FORMATS[name])
    read = read_state_dict(path)
    with path.open("r+b") as file:
        file.write(bytes(len(FORMATS[name])))
    assert_same(read.tensors, TENSORS)


@pytest.mark.parametrize(
    "wrapper", ["state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema"]
)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module.module."])
def test_wrappers_and_prefixes_are_taken_off(wrapper: str, prefix: str, tmp_path: Path) -> None:
    inner = OrderedDict((prefix + name, tensor) for name, tensor in TENSORS.items())
    checkpoint = {"epoch": 3, "best": 0.5, "n_averaged": torch.tensor(2), wrapper: inner}
    read = read_state_dict(write(tmp_path, zipped(checkpoint)))
    assert_same(read.tensors, TENSORS)
    assert read.remarks[:2] == (
        f"took the weights under '{wrapper}'",
        f"removed the prefix '{prefix[: prefix.index('.') + 1]}'",
    )


def test_averaged_weights_go_first(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in TENSORS.items()}
    path = write(tmp_path, zipped({"state_dict": other, "state_dict_ema": TENSORS}))
    assert_same(read_state_dict(path).tensors, TENSORS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pack", [zipped, legacy, save])
def test_every_floating_point_becomes_float32(
    dtype: torch.dtype, pack: Any, tmp_path: Path
) -> None:
    values = torch.tensor([[1.5, -0.25]])
    read = read_state_dict(write(tmp_path, pack({"a.weight": values.to(dtype)}))).tensors
    assert_same(read, {"a.weight": values})


def test_a_transposed_tensor_keeps_its_values(tmp_path: Path) -> None:
    turned = torch.arange(6.0).reshape(2, 3).T
    read = read_state_dict(write(tmp_path, zipped({"a": turned}))).tensors["a"]
    assert read.is_contiguous()
    assert torch.equal(read, turned)


# Refused, in one line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    content = TENSORS | {"bad.bias": torch.tensor([0.0, value], dtype=torch.float64)}
    refused(tmp_path, zipped(content), "tensor 'bad.bias' has values that are not finite")


def test_a_variance_below_zero(tmp_path: Path) -> None:
    content = TENSORS | {"bad.running_var": torch.tensor([1.0, -0.5])}
    refused(tmp_path, zipped(content), "tensor 'bad.running_var' has variances below zero")


class Runs:
    """What a hostile pickle does when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("pack", [zipped, legacy])
def test_code_in_a_file_is_not_run(pack: Any, tmp_path: Path) -> None:
    target = tmp_path / "was run"
    refused(tmp_path, pack({"a": torch.zeros(1), "b": Runs(target)}), "posix.mkdir", "could run")
    refused(
        tmp_path, pickle.dumps({"b": Runs(target)}), "neither a torch.save nor a safetensors file"
    )
    assert not target.exists()


@pytest.mark.parametrize(("kind", "side"), [("F4", 2), ("F8_E4M3", 1), ("F8_E8M0", 1)])
def test_floats_that_mean_nothing_alone(kind: str, side: int, tmp_path: Path) -> None:
    header = f'{{"{"a" * 1000}": {{"dtype": "{kind}", "shape": [{side}], "data_offsets": [0, 1]}}}}'
    content = struct.pack("<Q", len(header)) + header.encode() + b"\0"
    refused(tmp_path, content, "supported are torch.float16, torch.bfloat16, torch.float32")


def test_a_header_that_claims_terabytes(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    header = json.dumps({"a": entry}).encode()
    refused(tmp_path, struct.pack("<Q", len(header)) + header, "not a complete safetensors file")
    refused(tmp_path, struct.pack("<Q", 2**42) + header, "not a complete safetensors file")


# 54 elements and the first side of 2x3x3x3, pickled, and what claims two thousand million of each.
CLAIMS = {b"K6": b"J\xff\xff\xff\x7f", b"(K\x02K\x03": b"(J\xff\xff\xff\x7fK\x03"}


def claim_gigabytes(pickled: bytes) -> bytes:
    for small, huge in CLAIMS.items():
        assert pickled.count(small) == 1
        pickled = pickled.replace(small, huge)
    return pickled


def test_a_pickle_that_claims_gigabytes(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path, rewritten(FORMATS["zip"], claim_gigabytes), "damaged")
    refused(tmp_path, claim_gigabytes(FORMATS["legacy"]), "damaged")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_tensor_larger_than_its_values(tmp_path: Path) -> None:
    """One stored number, shown a million times."""
    refused(tmp_path, zipped({"a": torch.zeros(1).expand(10**6)}), "tensors of 4,000,000 bytes")


def rewritten(content: bytes, change: Any, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive with another pickle, its checksums right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", method) as new:
        for name in old.namelist():
            record = old.read(name)
            new.writestr(name, change(record) if name.endswith("data.pkl") else record)
    return file.getvalue()


def test_a_compressed_archive(tmp_path: Path) -> None:
    content = rewritten(FORMATS["zip"], bytes, zipfile.ZIP_DEFLATED)
    refused(tmp_path, content, "compressed parts")


def test_a_changed_byte_in_an_archive_is_noticed(tmp_path: Path) -> None:
    content = bytearray(FORMATS["zip"])
    content[content.index(TENSORS["conv.weight"].numpy().tobytes()) + 8] ^= 1
    refused(tmp_path, bytes(content), "Bad CRC-32 for file 'archive/data/0'")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "neither a torch.save nor a safetensors file"),
        (b"<html>not found</html>", "neither a torch.save nor a safetensors file"),
        (zipped([torch.zeros(1)]), "holds a list, not tensors by name"),
        (zipped({"epoch": 3}), "no tensors in it"),
        (zipped({"a": torch.zeros(1), "module.a": torch.zeros(1)}), "two tensors are called 'a'"),
        (legacy(TENSORS) + b"more", "bytes are left over"),
    ],
)
def test_files_of_another_kind(content: bytes, part: str, tmp_path: Path) -> None:
    refused(tmp_path, content, part)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_state_dict(tmp_path / "missing.pth")
    with pytest.raises(InputError, match="not a file"):
        read_state_dict(tmp_path)


def refused(folder: Path, content: bytes, *parts: str) -> None:
    path = write(folder, content)
    with pytest.raises(InputError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert all(part in message for part in parts), message


# Damage of any kind


@st.composite
def damages(draw: st.DrawFn) -> Any:
    """Return a function that cuts bytes short or changes a few."""
    cut = draw(st.one_of(st.none(), st.floats(0, 1, exclude_max=True)))
    # Most bytes are values of weights; what says how to read them stands at either end.
    places = st.one_of(
        st.floats(0, 1, exclude_max=True), st.floats(0, 0.02), st.floats(0.98, 0.999)
    )
    flips = draw(st.lists(st.tuples(places, st.integers(1, 255)), min_size=cut is None, max_size=3))

    def damage(content: bytes) -> bytes:
        changed = bytearray(content if cut is None else content[: int(cut * len(content))])
        for place, bits in flips:
            if changed:
                changed[int(place * len(changed))] ^= bits
        return bytes(changed)

    return damage


def read_or_refuse(path: Path) -> None:
    try:
        read = read_state_dict(path)
    except InputError:
        return
    size = path.stat().st_size
    for tensor in read.tensors.values():
        assert tensor.numel() <= size
        assert not tensor.is_floating_point() or bool(tensor.isfinite().all())


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=150)
@given(damage=damages())
def test_damaged_files(name: str, damage: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged {name}"
    path.write_bytes(damage(FORMATS[name]))
    read_or_refuse(path)


@settings(max_examples=60)
@given(damage=damages())
def test_a_damaged_published_file(
    damage: Any, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.th"
    content = (shared / "weights" / "resnet20_cifar10_akamaster.th").read_bytes()
    path.write_bytes(damage(content))
    read_or_refuse(path)


def test_a_keras_archive_that_lacks_its_topology(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(InputError, match=r"without config\.json or metadata\.json"):
        read_state_dict(path)
