from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.data.cifar import LAYOUTS, CifarLayout, read_cifar
from mobilette.data.sources import find_images
from mobilette.errors import InputError

# The published layouts with fewer records, so that a whole set is a few kilobytes.
SMALL = {name: replace(layout, train_records=3, test_records=2) for name, layout in LAYOUTS.items()}


def records(layout: CifarLayout, count: int, first_label: int) -> bytes:
    """Records whose red plane is the label, green the row, blue the column."""
    rows, columns = np.mgrid[0:32, 0:32].astype(np.uint8)
    data = b""
    for label in range(first_label, first_label + count):
        red = np.full((32, 32), label, np.uint8)
        coarse = [255] * (layout.label_bytes - 1)
        data += bytes([*coarse, label]) + red.tobytes() + rows.tobytes() + columns.tobytes()
    return data


def class_names(layout: CifarLayout) -> bytes:
    return b"".join(b"class%d\n" % number for number in range(layout.classes)) + b"\n"


def pieces(layout: CifarLayout) -> dict[str, bytes]:
    found = {
        name: records(layout, layout.train_records, 1 + index)
        for index, name in enumerate(layout.train)
    }
    found[layout.test] = records(layout, layout.test_records, 0)
    found[layout.class_names] = class_names(layout)
    return found


def unpacked(layout: CifarLayout, root: Path) -> Path:
    (root / layout.folder).mkdir()
    for name, data in pieces(layout).items():
        (root / layout.folder / name).write_bytes(data)
    return root


def archived(layout: CifarLayout, root: Path) -> CifarLayout:
    with tarfile.open(root / layout.archive, "w:gz") as archive:
        for name, data in pieces(layout).items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    md5 = hashlib.md5((root / layout.archive).read_bytes()).hexdigest()
    return replace(layout, md5=md5)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [False, True])
def test_records_are_read(tmp_path: Path, name: str, packed: bool) -> None:
    layout = SMALL[name]
    if packed:
        layout = archived(layout, tmp_path)
    else:
        unpacked(layout, tmp_path)
    found = read_cifar(layout, tmp_path)
    assert found is not None
    classes, splits = found
    assert classes == tuple(f"class{number}" for number in range(layout.classes))
    pixels, labels = splits["train"]
    assert pixels.shape == (3 * len(layout.train), 32, 32, 3)
    assert labels[:4].tolist() == [1, 2, 3, 2][: len(labels)]
    assert splits["val"][1].tolist() == [0, 1]
    for image, label in zip(pixels, labels, strict=True):
        assert (image[:, :, 0] == label).all()
        assert image[5, 7].tolist() == [label, 5, 7]
    assert [entry.name for entry in tmp_path.iterdir()] == [
        layout.archive if packed else layout.folder
    ]


def test_nothing_there(tmp_path: Path) -> None:
    assert read_cifar(SMALL["cifar10"], tmp_path) is None


def test_damaged_archives(tmp_path: Path) -> None:
    layout = archived(SMALL["cifar10"], tmp_path)
    path = tmp_path / layout.archive
    whole = path.read_bytes()
    with pytest.raises(InputError, match=f"has MD5 {layout.md5} instead of c32a1d4ab5d0"):
        read_cifar(SMALL["cifar10"], tmp_path)
    for data in (b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(data)
        other = replace(layout, md5=hashlib.md5(data).hexdigest())
        with pytest.raises(InputError, match=r"is not the archive of https://www\.cs\.toronto"):
            read_cifar(other, tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("data_batch_2.bin", b"x" * 3073, "data_batch_2.bin has 3,073 bytes instead of 9,219"),
        (
            "test_batch.bin",
            b"\x0a" * 6146,
            "test_batch.bin has the label 10; the labels are 0 to 9",
        ),
        ("batches.meta.txt", b"a\nb\n", "names 2 classes instead of 10"),
        ("data_batch_5.bin", None, "data_batch_5.bin: no such file"),
    ],
)
def test_damaged_folders(tmp_path: Path, file: str, change: bytes | None, message: str) -> None:
    layout = SMALL["cifar10"]
    path = unpacked(layout, tmp_path) / layout.folder / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change)
    with pytest.raises(InputError, match=message):
        read_cifar(layout, tmp_path)


def test_the_full_size_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS["cifar10"]
    folder = tmp_path / layout.folder
    folder.mkdir()
    for name in (*layout.train, layout.test):
        with (folder / name).open("wb") as file:
            file.write(records(layout, 9, 1))
            file.truncate(30_730_000)  # sparse, and zero is a label
    (folder / layout.class_names).write_bytes(class_names(layout))
    monkeypatch.setenv("MOBILETTE_DATA", str(tmp_path))
    found = find_images("cifar10")
    assert {split: len(images) for split, images in found.splits.items()} == {
        "train": 50_000,
        "val": 10_000,
    }
    assert found.flippable
    first = found.splits["val"][0]
    assert (first.name, first.label) == ("cifar10/val/0", 1)
    assert first.open().getpixel((7, 5)) == (1, 5, 7)


def test_a_image_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "cifar10" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "cifar10" / name / "1.png")
    monkeypatch.setenv("MOBILETTE_DATA", str(tmp_path))
    found = find_images("cifar10")
    assert found.classes == ("cat", "dog")
    assert found.name == "cifar10"


def test_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOBILETTE_DATA", raising=False)
    with pytest.raises(InputError, match=r"MOBILETTE_DATA is not set.*binary.tar.gz"):
        find_images("cifar10")
    monkeypatch.setenv("MOBILETTE_DATA", str(tmp_path))
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    with pytest.raises(InputError, match=f"{url} there"):
        find_images("cifar100")
