from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from mobilette.data.names import folded, split_of
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from tests.accepted.page import Case, check, rows

BOTH = ("cat/1.png", "dog/1.png")


def within(*folders: str) -> tuple[str, ...]:
    """Return the images of both classes in each of ``folders``."""
    return tuple(f"{folder}/{name}" for folder in folders for name in BOTH)


def within_splits(*classes: str) -> tuple[str, ...]:
    return tuple(f"{name}/{split}/1.png" for name in classes for split in ("train", "val"))


def fill(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (4, 4), "red").save(path)
        else:
            path.write_text("filename,cat\n")
    return root


def gives(
    *names: str,
    said: str = "",
    classes: tuple[str, ...] = ("cat", "dog"),
    ignored: tuple[str, ...] = (),
    **splits: int,
) -> Case:
    """Return a case: what is found in a folder of ``names``, and a word of what is said of it."""

    def case(folder: Path) -> None:
        found = find_images(fill(folder / "set", names))
        assert found.classes == classes
        assert {split: len(some) for split, some in found.splits.items()} == splits
        assert set(found.ignored) == set(ignored)
        remarks = [text for text in found.remarks if "has no image of" not in text]
        assert len(remarks) == bool(said), remarks
        assert said in "".join(remarks)
        for images in found.splits.values():
            for image in images:
                parts = [folded(part) for part in image.name.split("/")]
                assert found.classes[int(str(image.label))] in parts

    return case


def each(*cases: Case) -> Case:
    def case(folder: Path) -> None:
        for number, one in enumerate(cases):
            one(folder / str(number))

    return case


def refused_each(*cases: Case, message: str = "could mean either") -> Case:
    """Return a case: the last of ``cases``, after the others were refused."""

    def case(folder: Path) -> None:
        for number, one in enumerate(cases[:-1]):
            with pytest.raises(InputError, match=message):
                one(folder / str(number))
        cases[-1](folder / "last")

    return case


def spelt(train: str, other: str, split: str) -> Case:
    said, names = f"{other}/ is {split}", within(train, other)
    if split == "val":
        return gives(*names, said=said, train=2, val=2)
    return gives(*names, said=said, all=2, test=2)


CASES: dict[str, Case] = {
    "`cat/1.jpg`, `dog/2.jpg`": gives(*BOTH, all=2),
    "`train/cat`, `train/dog`, `val/cat`, `val/dog`": gives(
        *within("train", "val"), train=2, val=2
    ),
    "the same and `test/`": gives(*within("train", "val", "test"), train=2, val=2, test=2),
    "`train/` alone": gives(*within("train"), all=2),
    "`Training/` and `Testing/`, `Train/` and `Test/`, `train_set/` and `test_set/`": each(
        spelt("Training", "Testing", "test"),
        spelt("Train", "Test", "test"),
        spelt("train_set", "test_set", "test"),
    ),
    "`TRAIN/`, `Val/`, `validation-data/`, `valid/`, `dev/`, `trainset/`, `test2017/`, "
    "`Train Images/`": each(
        spelt("TRAIN", "Val", "val"),
        spelt("train", "validation-data", "val"),
        spelt("train", "valid", "val"),
        spelt("train", "dev", "val"),
        spelt("trainset", "test2017", "test"),
        spelt("Train Images", "Test Images", "test"),
    ),
    "`trainval/` and `test/`, as VOC and Oxford write them": each(
        spelt("trainval", "Test", "test"), spelt("train_val", "Testing", "test")
    ),
    "`seg_train/` and `seg_test/`, which differ in the split alone": each(
        spelt("seg_train", "seg_test", "test"),
        gives(
            *within("seg_train/seg_train", "seg_val/seg_val"),
            said="the classes of train are in seg_train/seg_train/",
            train=2,
            val=2,
        ),
    ),
    "`dataset/cat`, `dataset/dog`; `a/b/train/cat` ...; `train/images/cat` ...": each(
        gives(*within("dataset"), said="the classes are in dataset/", all=2),
        gives(*within("a/b/train", "a/b/val"), said="the classes are in a/b/", train=2, val=2),
        gives(*within("train/images", "val/images"), said="train/images/", train=2, val=2),
    ),
    "`cat/train`, `cat/test`, `dog/train`, `dog/test`": gives(
        *(f"{name}/{split}/1.png" for name in ("cat", "dog") for split in ("train", "test")),
        said="each class folder contains splits",
        all=2,
        test=2,
    ),
    "`train/cat` and `test/Cat`; `café` with one sign for its é or two": each(
        gives(*within("train"), "test/Cat/1.png", all=2, test=1),
        gives(
            *within("train"),
            "train/caf\u00e9/1.png",
            "test/cafe\u0301/1.png",
            classes=("caf\u00e9", "cat", "dog"),
            all=3,
            test=1,
        ),
    ),
    "`bus/`, `car/`, `train/` with images in each": gives(
        "bus/1.png", "car/1.png", "train/1.png", classes=("bus", "car", "train"), all=3
    ),
    "`train/cat`, `train/dog`, and images without folders in `test/` or `test/test/`": each(
        *(
            gives(*within("train"), name, said="have no labels", ignored=(name,), all=2)
            for name in ("test/1.png", "test/test/1.png")
        )
    ),
    "`train/cat`, `train/dog`, `notes/`": gives(
        *within("train"), "notes/a.txt", said="they are not splits: notes/", all=2
    ),
    "`cat/small/1.jpg`, `dog/2.jpg`": gives("cat/small/1.png", "dog/2.png", all=2),
    "`train/1.jpg`, `test/1.jpg`": gives("train/1.png", "test/1.png"),
    "`cat/1.jpg`, `train/cat`, `train/dog`": gives("cat/1.png", *within("train")),
    "`cat/1.jpg`, `dog/1.jpg`, `test/cat`": gives(*BOTH, "test/cat/1.png"),
    "`fold1/cat`, `fold1/dog`, `fold2/cat`, `fold2/dog`": gives(*within("fold1", "fold2")),
    "the same with `fox` in one of them; `fold1/train/cat` ...": refused_each(
        gives(*within("fold1", "fold2"), "fold2/fox/1.png"),
        gives(*within("fold1/train", "fold1/test", "fold2/train", "fold2/test")),
    ),
    "`cat/train`, `cat/val`, `dog/train`, `dog/val`, `fox/1.jpg`": refused_each(
        gives("cat/train/1.png", "cat/val/1.png", "dog/1.png"),
        gives("cat/train/1.png", "dog/1.png"),
        gives("cat/train/1.png", "cat/val/1.png", "dog/val/1.png"),
        gives(*within_splits("cat", "dog"), "fox/all/1.png"),
        gives(*within_splits("cat", "dog"), "fox/1.png"),
    ),
    "`images/` and `labels/`, `masks/` or `annotations/`, beside one another or in each split": (
        refused_each(
            gives("images/1.png", "masks/1.png"),
            gives("images/1.png", "Annotations/1.xml", "notes/1.txt"),
            gives("JPEGImages/1.png", "Annotations/1.xml", "SegmentationClass/1.png"),
            gives("train_images/1.png", "train_masks/1.png"),
            gives("train/images/1.png", "train/labels/1.txt", "val/images/2.png"),
            gives(
                *(f"images/{split}/1.png" for split in ("train", "val")),
                *(f"labels/{split}/1.txt" for split in ("train", "val")),
            ),
            message="detection or segmentation",
        )
    ),
    "`Images/cat`, `Images/dog` and `Annotation/`": gives(*within("Images", "Annotation")),
    "`val/` and `valid/` beside `train/`": gives(*within("train", "val", "valid")),
    "`val/` without `train/`": gives(*within("val")),
    "`train/cat` ..., and images without folders in `val/`": gives(*within("train"), "val/1.png"),
    "images and `_classes.csv` in `train/`, as Roboflow writes several labels": gives(
        "train/1.png", "train/_classes.csv", "valid/1.png", "valid/_classes.csv"
    ),
    "`train/cat` and `val/lion`": gives(*within("train"), "val/lion/1.png"),
    "the same beside them: `cat`, `dog` and `flowers/cat`, `flowers/dog`": gives(
        *BOTH, *within("flowers")
    ),
    "classes beside `runs/` or `exports/` with results of Mobilette": each(
        gives(
            *BOTH,
            "runs/one/arch.json",
            said="runs/ contains results and is left out",
            all=2,
        ),
        gives(
            *BOTH,
            "exports/one/onnx/contract.json",
            said="exports/ contains results and is left out",
            all=2,
        ),
        gives(*BOTH, "runs/1.png", classes=("cat", "dog", "runs"), all=3),
    ),
    "classes in `images/` beside `meta/` without images": gives(
        *within("images"), "meta/train.txt"
    ),
    "`valid/1.jpg`, `invalid/1.jpg`": gives("valid/1.png", "invalid/1.png"),
    "a class folder without images": gives(*BOTH, "fox/notes.txt"),
    "one class": gives("cat/1.png"),
    "images without class folders": gives("1.png"),
}


def test_every_row_is_run() -> None:
    assert set(CASES) == set(rows("Folders"))


@pytest.mark.parametrize(("given", "answer"), rows("Folders").items())
def test_row(given: str, answer: str, tmp_path: Path) -> None:
    check(answer, CASES[given], tmp_path)


def test_the_cases_that_went_wrong(shared: Path) -> None:
    folders = shared / "cases" / "folders"
    if not folders.is_dir():
        pytest.skip("../shared has no cases")
    counts = {
        "lay_Training_Testing": {"all": 24, "test": 12},
        "lay_train_set_test_set": {"all": 24, "test": 12},
        "lay_roboflow": {"train": 18, "val": 18, "test": 18},
        "wrapped": {"all": 18},
    }
    assert set(counts) == {path.name for path in folders.iterdir()}
    for name, expected in counts.items():
        found = find_images(folders / name)
        assert found.classes == ("cat", "dog", "ship")
        assert {split: len(some) for split, some in found.splits.items()} == expected
        assert len(found.remarks) == 1


@pytest.mark.parametrize("name", ["trainer", "strain", "contest", "values", "data", "set", "", "1"])
def test_other_words_are_no_split(name: str) -> None:
    assert split_of(name) is None
