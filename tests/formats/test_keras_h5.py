"""Files of the format's own library that no Keras would write."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from mobilette.formats.keras.file import read_keras_h5
from tests.formats.published_files import published


def weights_only(file: h5py.File) -> Any:
    """Write one layer's weights, without a topology."""
    group = file.create_group("conv")
    file.attrs["layer_names"] = ["conv"]
    group.attrs["weight_names"] = ["conv/kernel:0"]
    group.create_dataset("conv/kernel:0", data=np.ones((1, 1, 3, 4), np.float32))
    return group


def replaced(file: h5py.File, **dataset: Any) -> None:
    group = weights_only(file)
    del group["conv/kernel:0"]
    group.create_dataset("conv/kernel:0", **dataset)


def names(file: h5py.File, value: Any) -> None:
    weights_only(file)
    file.attrs["layer_names"] = value


def topology(file: h5py.File, value: Any) -> None:
    weights_only(file)
    file.create_group("model_weights").attrs["layer_names"] = ["conv"]
    file.copy("conv", "model_weights/conv")
    file.attrs["model_config"] = value


def repeated(file: h5py.File) -> None:
    """One megabyte, named a thousand times."""
    replaced(file, data=np.ones((1, 1, 512, 512), np.float32))
    file.attrs["layer_names"] = ["conv"] * 1000


def many_names(file: h5py.File) -> None:
    for part in range(3):
        file.attrs[f"layer_names{part}"] = np.full(4000, b"x")


BOMB = {"shape": (2**26,), "dtype": "f4", "compression": "gzip", "fillvalue": 0}
FILES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "whole numbers": (lambda f: replaced(f, data=np.ones((1, 1), "i4")), "not of floats"),
    "complex numbers": (
        lambda f: replaced(f, data=np.ones((1, 1), "c8")),
        "not an array of floats",
    ),
    "text": (lambda f: replaced(f, data="text"), "not an array of floats"),
    "no space": (lambda f: replaced(f, data=h5py.Empty("f4")), "larger than the file"),
    "never written": (lambda f: replaced(f, shape=(2**30,), dtype="f4"), "larger than the file"),
    "a bomb": (lambda f: replaced(f, **BOMB), "larger than the file"),
    "a large chunk": (
        lambda f: replaced(f, **BOMB | {"shape": (4,), "maxshape": (None,), "chunks": (2**26,)}),
        "larger than the file",
    ),
    "repeated": (repeated, "larger than the file"),
    "in another file": (
        lambda f: replaced(
            f, shape=(4,), dtype="f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
        ),
        "lies in another file",
    ),
    "names that are numbers": (lambda f: names(f, 5), "'5' is missing"),
    "names that are nothing": (lambda f: names(f, h5py.Empty("f4")), "missing|damaged"),
    "names upwards": (lambda f: names(f, ["../conv"]), "missing"),
    "too many names": (many_names, "no list of layer_names"),
    "topology that is a number": (lambda f: topology(f, 3), "topology is damaged"),
    "topology that is nothing": (lambda f: topology(f, h5py.Empty("f4")), "not valid JSON"),
    "topology of lists": (lambda f: topology(f, "[" * 50_000), "not valid JSON"),
    "topology that is a list": (lambda f: topology(f, json.dumps([1])), "topology is damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_refused(name: str, tmp_path: Path) -> None:
    make, message = FILES[name]
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        make(file)
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as refusal:
        read_keras_h5(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(refusal.value)
    assert peak < 20 * 2**20


@pytest.mark.parametrize("kind", ["f2", "f8", ">f4"])
def test_other_floats_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    values = np.arange(12, dtype=kind).reshape(1, 1, 3, 4)
    with h5py.File(path, "w") as file:
        replaced(file, data=values)
    read = read_keras_h5(path)
    assert isinstance(read, list)
    kernel = read[0].parameters["kernel"]
    assert kernel.dtype == np.dtype("float32")
    assert np.array_equal(kernel, values)


@pytest.mark.parametrize(
    "values",
    [np.ones((1, 1, 3, 0), "f4"), np.ones((), "f4"), np.full((3, 3, 3, 8), 1e300, "f8")],
    ids=["empty", "a number", "beyond float32"],
)
def test_odd_arrays_are_refused(values: np.ndarray[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        replaced(file, data=values)
    with pytest.raises(InputError):
        import_weights(path, model="mobilenet_v1", width_mult=0.25, preprocess="raw")


def test_a_file_on_which_the_hdf5_library_crashes_is_refused(tmp_path: Path) -> None:
    # Found by flipping bytes: h5py 3.16 ends in a segmentation fault.
    flips = {7006: 115, 338625: 86, 673892: 12, 819774: 116, 1375176: 208}
    content = bytearray(published("mobilenet_v2_0.35_128_flowers_keras.h5").read_bytes())
    for place, byte in flips.items():
        content[place] = byte
    path = tmp_path / "crash.h5"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"crash\.h5: (damaged|not a complete)"):
        import_weights(path, model="mobilenet_v2", width_mult=0.35, preprocess="raw")


def keras_3(file: h5py.File, *, separator: str = "/", layers: str = "layers") -> None:
    """Write the weights of one layer of each kind as Keras 3 does, seeds and counters with them."""
    arrays = {
        ("conv2d", "0"): np.ones((3, 3, 3, 8), "f4"),
        ("conv2d_1", "0"): np.full((1, 1, 8, 16), 2, "f4"),
        ("conv2d_10", "0"): np.full((1, 1, 8, 16), 3, "f4"),
        ("dense", "0"): np.ones((16, 5), "f4"),
        ("dense", "1"): np.ones(5, "f4"),
        ("dropout/seed_generator", "0"): np.ones(2, "u4"),
    }
    for (layer, number), array in arrays.items():
        group = file.require_group(f"{layers}{separator}{layer}{separator}vars")
        group.create_dataset(number, data=array)
    file.create_dataset("optimizer/vars/0", data=np.int64(3))
    file.create_dataset("optimizer/vars/1", data=np.ones((4, 4), "f4"))


@pytest.mark.parametrize(
    ("separator", "layers"),
    [("/", "layers"), ("\\", "layers"), ("/", "_layer_checkpoint_dependencies")],
)
def test_keras_3_s_layout(separator: str, layers: str, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        keras_3(file, separator=separator, layers=layers)
    read = read_keras_h5(path)
    assert isinstance(read, list)
    assert [layer.name for layer in read] == [
        "layers/conv2d",
        "layers/conv2d_1",
        "layers/conv2d_10",
        "layers/dense",
    ]
    assert list(read[-1].parameters) == ["kernel", "bias"]


def test_bfloat16_is_read(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0, 0.0078125], "f4")
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        stored = (values.view("u4") >> 16).astype("u2").reshape(1, 1, 3, 1)
        replaced(file, data=stored.view("V2"))
    read = read_keras_h5(path)
    assert isinstance(read, list)
    assert np.array_equal(read[0].parameters["kernel"].ravel(), values)


KERAS_3: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "int8": (
        lambda f: f.create_dataset("layers/dense_1/vars/0", data=np.ones((16, 5), "i1")),
        "of int8, not of floats: quantised layers are not supported",
    ),
    "attributes of a class": (
        lambda f: f.create_dataset("classifier/vars/0", data=np.ones((16, 5), "f4")),
        "a layer at 'classifier', whose class that does not tell",
    ),
    "two models": (
        lambda f: f.create_dataset("layers/functional/layers/conv2d/vars/0", data=np.ones(4)),
        "layers 'conv2d' in several models, whose order is unknown",
    ),
    "a batch norm without its scale": (
        lambda f: f.create_dataset("layers/batch_normalization/vars/0", data=np.ones(4, "f4")),
        "has 1 arrays; gamma, beta, moving_mean, moving_variance are expected",
    ),
    "links in a circle": (
        lambda f: f.__setitem__("layers/conv2d/again", f["layers"]),
        "groups nested too deeply",
    ),
    "a link out of the file": (
        lambda f: f.__setitem__("layers/dense_1", h5py.ExternalLink("/etc/passwd", "/x")),
        "is missing, or a link",
    ),
}


@pytest.mark.parametrize("name", KERAS_3)
def test_keras_3_s_layout_refused(name: str, tmp_path: Path) -> None:
    change, message = KERAS_3[name]
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        keras_3(file)
        change(file)
    with pytest.raises(InputError, match=message) as refusal:
        read_keras_h5(path)
    assert "\n" not in str(refusal.value)
