from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.data.dataset import Dataset, load_dataset, load_split
from mobilette.data.held_out import choose_split, members
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError

COLOUR = {"cat": 0, "dog": 100}


def make(root: Path, *folders: str, count: int = 10) -> Path:
    """Class folders of different images whose red channel tells the class."""
    rng = np.random.default_rng(1)
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (12, 10, 3), np.uint8)
            pixels[:, :, 0] = COLOUR[Path(folder).name]
            Image.fromarray(pixels).save(root / folder / f"{index}.png")
    return root


def load(root: Path, resolution: int = 8, max_unusable: float = 0.1) -> Dataset:
    return load_dataset(
        find_images(root),
        resolution=resolution,
        preprocess=preset("torch"),
        reading=Reading(workers=0, max_unusable=max_unusable),
    )


def test_a_flat_folder_is_divided(tmp_path: Path) -> None:
    dataset = load(make(tmp_path, "cat", "dog", count=11))
    assert list(dataset.splits) == ["train", "val"]
    assert len(dataset.splits["train"].names) == 16
    val = dataset.splits["val"]
    assert np.bincount(val.labels).tolist() == [3, 3]
    chosen = members(choose_split(find_images(tmp_path), "val"))
    assert set(val.names) == {image.name for image in chosen}
    for split in dataset.splits.values():
        assert split.pixels.shape == (len(split.names), 3, 8, 8)
        pixels = split.pixels[:]
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert split.labels.dtype == np.int64
        for name, label, row in zip(split.names, split.labels, pixels, strict=True):
            with Image.open(tmp_path / name) as image:
                expected = preset("torch").geometry(image, 8)
            np.testing.assert_array_equal(row, expected)
            assert dataset.classes[label] == Path(name).parent.name


def test_split_folders_stay_as_they_are(tmp_path: Path) -> None:
    folders = [f"{split}/{name}" for split in ("train", "val", "test") for name in COLOUR]
    dataset = load(make(tmp_path, *folders, count=3))
    assert list(dataset.splits) == ["train", "val", "test"]
    for split in dataset.splits:
        assert [name.split("/")[0] for name in dataset.splits[split].names] == [split] * 6
        labels = dataset.splits[split].labels
        assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]
        assert (dataset.splits[split].pixels[:][:, 0, 0, 0] == 100 * labels).all()


def test_train_is_divided_and_test_kept(tmp_path: Path) -> None:
    folders = [f"{split}/{name}" for split in ("train", "test") for name in COLOUR]
    dataset = load(make(tmp_path, *folders, count=5))
    assert {split: len(found.names) for split, found in dataset.splits.items()} == {
        "train": 8,
        "val": 2,
        "test": 10,
    }
    assert all(name.startswith("test/") for name in dataset.splits["test"].names)


def test_the_split_follows_the_pixels_not_the_names(tmp_path: Path) -> None:
    first = load(make(tmp_path / "first", "cat", "dog"))
    (tmp_path / "second").mkdir()
    for path in (tmp_path / "first").rglob("*.png"):
        folder = tmp_path / "second" / path.parent.name
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / f"{9 - int(path.stem)}.png")
    second = load(tmp_path / "second", resolution=16)
    renamed = {
        f"{Path(name).parent.name}/{9 - int(Path(name).stem)}.png"
        for name in first.splits["val"].names
    }
    assert set(second.splits["val"].names) == renamed
    assert first.fingerprint == second.fingerprint


def test_the_fingerprint_sees_every_pixel_class_and_split(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "train/cat", "train/dog", "val/cat", "val/dog", count=3)
    seen = {load(root).fingerprint}
    with Image.open(root / "train/cat/1.png") as image:
        changed = image.copy()
    changed.putpixel((9, 11), (1, 2, 3))
    changed.save(root / "train/cat/1.png")
    seen.add(load(root).fingerprint)
    (root / "train/cat/1.png").rename(root / "train/dog/9.png")
    seen.add(load(root).fingerprint)
    (root / "train/dog/9.png").rename(root / "val/dog/9.png")
    seen.add(load(root).fingerprint)
    assert len(seen) == 4
    assert load(root).fingerprint in seen


def spoil(folder: Path) -> None:
    """Add four kinds of files that are no images."""
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.gif").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"hello")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")


def test_bad_files_are_left_out_and_counted(tmp_path: Path) -> None:
    make(tmp_path, "cat", "dog", count=20)
    clean = load(tmp_path)
    spoil(tmp_path / "cat")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    dataset = load(tmp_path)
    assert dict(dataset.unusable) == {
        "cat/cut.png": "truncated",
        "cat/dangling.png": "cannot be read: No such file or directory",
        "cat/empty.gif": "empty file (0 bytes)",
        "cat/text.jpg": "not an image (JPEG, PNG, BMP, GIF, TIFF, WEBP, PPM, AVIF, JPEG2000, "
        "TGA and HEIC are read)",
    }
    assert dataset.ignored == 1
    assert dataset.fingerprint == clean.fingerprint
    for split, found in dataset.splits.items():
        assert found.names == clean.splits[split].names
        np.testing.assert_array_equal(found.pixels, clean.splits[split].pixels)
    with pytest.raises(InputError, match=r"4 of 44 .*--max-unusable .*cat/cut.png: truncated"):
        load(tmp_path, max_unusable=0.05)


def test_a_class_with_one_image_cannot_be_divided(tmp_path: Path) -> None:
    make(tmp_path, "cat", count=3)
    make(tmp_path, "dog", count=1)
    with pytest.raises(InputError, match="class 'dog' has one usable image; two are needed"):
        load(tmp_path)


def test_a_class_or_split_left_empty_is_named(tmp_path: Path) -> None:
    root = make(tmp_path, "train/cat", "train/dog", "val/cat", count=2)
    for path in (root / "val/cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="split 'val' has no usable image"):
        load(root, max_unusable=1)
    for path in (root / "train/dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="class 'dog' has no usable image to train on"):
        load(root, max_unusable=1)


def test_describe_is_json(tmp_path: Path) -> None:
    make(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "bad.png").write_bytes(b"")
    dataset = load(tmp_path)
    description = dataset.describe()
    assert json.loads(json.dumps(description)) == {
        "schema": 1,
        "source": str(tmp_path),
        "classes": ["cat", "dog"],
        "splits": {
            "train": {"pictures": 16, "per_class": {"cat": 8, "dog": 8}},
            "val": {"pictures": 4, "per_class": {"cat": 2, "dog": 2}},
        },
        "split_rule": "per class, first fifth by SHA-256 of decoded pixels",
        "fingerprint": dataset.fingerprint,
        "digest": "decoded pixels",
        "loader": "resident",
        "duplicates": 0,
        "copies": {"in_train": {}, "in_val": [], "in_classes": []},
        "remarks": [],
        "unusable": [{"path": "cat/bad.png", "reason": "empty file (0 bytes)"}],
        "ignored": 0,
        "val_names": list(dataset.splits["val"].names),
    }
    divided = load(make(tmp_path / "divided", "train/cat", "train/dog", "val/dog", count=2))
    assert divided.describe()["split_rule"] == "folders"
    assert divided.describe()["digest"] == "files"
    assert "val_names" not in divided.describe()


def test_load_split_reads_what_was_chosen(tmp_path: Path) -> None:
    root = make(tmp_path, "train/cat", "train/dog", "val/dog", count=3)
    images = members(choose_split(find_images(root), "val"))
    (root / "val/dog/1.png").write_bytes(b"")
    split, unusable = load_split(
        images,
        resolution=8,
        preprocess=preset("torch"),
        reading=Reading(workers=0, max_unusable=0.5),
    )
    assert split.names == ("val/dog/0.png", "val/dog/2.png")
    assert split.labels.tolist() == [1, 1]
    assert split.pixels.shape == (2, 3, 8, 8)
    assert unusable == (("val/dog/1.png", "empty file (0 bytes)"),)
    with pytest.raises(InputError, match="no usable image"):
        load_split(
            images[1:2],
            resolution=8,
            preprocess=preset("torch"),
            reading=Reading(workers=0, max_unusable=1),
        )


def test_digits() -> None:
    dataset = load_dataset(
        find_images("digits"), resolution=16, preprocess=preset("unit", in_channels=1)
    )
    assert not dataset.flippable
    assert dataset.source == "digits"
    assert dataset.splits["train"].pixels.shape == (1433, 1, 16, 16)
    assert dataset.splits["val"].pixels.shape == (364, 1, 16, 16)
    # Frozen: another value means that runs on other machines are no longer comparable.
    assert dataset.fingerprint == (
        "8330356ccf2f79178e803fdcddc08c2e50b7358e3d1e818f791bc602945c77ca"
    )


def test_cifar10_4k(shared_data: Path) -> None:
    dataset = load_dataset(
        find_images(shared_data / "cifar10-4k"), resolution=32, preprocess=preset("torch")
    )
    assert dataset.unusable == ()
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert len(train.names) + len(val.names) == 4000
    path = shared_data / "cifar10-4k" / val.names[-1]
    with Image.open(path) as image:
        np.testing.assert_array_equal(val.pixels[:][-1], np.asarray(image).transpose(2, 0, 1))
    # CIFAR-10's own channel means, in pixel units.
    np.testing.assert_allclose(train.pixels[:].mean((0, 2, 3)), [125.3, 123.0, 113.9], atol=3)
