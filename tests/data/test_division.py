"""How a set is divided: parts, folds, and groups that stay whole."""

from __future__ import annotations

import csv
import hashlib
import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.digests import Digests, Trained
from mobilette.data.division import WHOLE, Division, as_holdout, hold_out
from mobilette.data.groups import with_groups
from mobilette.data.images import ImageSet, LabelledImage
from mobilette.data.preprocess import preset
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.progress import Reporter
from tests.data.sets import smooth


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=60), folds=st.integers(2, 7))
def test_folds_hold_out_every_image_once(labels: list[int], folds: int) -> None:
    names = [str(index) for index in range(len(labels))]
    digests = [sha(name) for name in names]
    parts = [
        hold_out(labels=labels, digests=digests, names=names, part=Fraction(1, folds), index=index)
        for index in range(folds)
    ]
    assert np.stack(parts).sum(axis=0).tolist() == [1] * len(labels)
    for label, count in Counter(labels).items():
        first = sum(held for held, own in zip(parts[0], labels, strict=True) if own == label)
        assert first == math.ceil(count / folds)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), min_size=4, max_size=25),
    part=st.sampled_from([Fraction(1, 5), Fraction(1, 3), Fraction(3, 10), Fraction(1, 20)]),
    seed=st.integers(0, 2**20),
)
def test_a_group_is_never_on_both_sides(
    sizes: list[tuple[int, int]], part: Fraction, seed: int
) -> None:
    """Bursts of every size, in any order and under any name, mixed classes included."""
    rows = [
        (group, (label + member % 5 // 4) % 3)
        for group, (size, label) in enumerate(sizes)
        for member in range(size)
    ]
    named = [(*row, f"{seed}/{index}") for index, row in enumerate(rows)]

    def held(some: list[tuple[int, int, str]], rename: int) -> dict[str, bool]:
        chosen = hold_out(
            labels=[label for _, label, _ in some],
            digests=[sha(name) for *_, name in some],
            names=[name for *_, name in some],
            part=part,
            groups=[group * rename + 7 for group, *_ in some],
        )
        return dict(zip((name for *_, name in some), chosen.tolist(), strict=True))

    chosen = held(named, 1)
    for group in range(len(sizes)):
        assert len({chosen[name] for own, _, name in named if own == group}) == 1
    shuffled = list(named)
    Random(seed).shuffle(shuffled)
    assert held(shuffled, 13) == chosen
    if len(named) >= 4:
        assert 0 < sum(chosen.values()) < len(named)


@settings(max_examples=60, deadline=None)
@given(
    alike=st.lists(st.integers(0, 12), min_size=6, max_size=40),
    folds=st.integers(2, 5),
)
def test_what_is_alike_is_in_one_fold(alike: list[int], folds: int) -> None:
    names = [str(row) for row in range(len(alike))]
    labels = [group % 2 for group in alike]
    digests = [sha(name) for name in names]
    held = [
        hold_out(
            labels=labels,
            digests=digests,
            names=names,
            part=Fraction(1, folds),
            index=index,
            alike=alike,
        )
        for index in range(folds)
    ]
    assert np.stack(held).sum(axis=0).tolist() == [1] * len(alike)
    for part in held:
        for group in set(alike):
            assert len({bool(part[row]) for row, own in enumerate(alike) if own == group}) == 1
    alone = list(range(len(alike)))
    plain = hold_out(labels=labels, digests=digests, names=names)
    assert hold_out(labels=labels, digests=digests, names=names, alike=alone).tolist() == (
        plain.tolist()
    )


def test_near_duplicates_of_a_flat_set_stay_on_one_side(tmp_path: Path) -> None:
    """Each photograph-like picture three times: as it is, brighter, mirrored."""
    rng = np.random.default_rng(4)
    for label in ("cat", "dog"):
        for number in range(8):
            picture = smooth(rng, 64, 64)
            path = tmp_path / label / f"{number}-0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            Image.eval(picture, lambda value: min(255, int(value * 1.1))).save(
                path.with_name(f"{number}-1.png")
            )
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
                path.with_name(f"{number}-2.png")
            )
    told: list[str] = []
    dataset = load(find_images(tmp_path), told=told, resolution=32)
    assert told == ["48 images are copies or near duplicates of others and stay on their side"]
    assert not bursts_of(dataset, "train") & bursts_of(dataset, "val")
    assert bursts_of(dataset, "val")


def test_near_duplicates_across_given_splits_are_reported(tmp_path: Path) -> None:
    """A mirrored training picture in val, a brighter one in test; a copy is named as a copy."""
    rng = np.random.default_rng(5)
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            for number in range(4):
                path = tmp_path / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                smooth(rng, 64, 64).save(path)
    picture = Image.open(tmp_path / "train/cat/0.png")
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "val/cat/mirrored.png")
    Image.eval(picture, lambda value: min(255, int(value * 1.1))).save(
        tmp_path / "test/dog/brighter.png"
    )
    copy = tmp_path / "val/cat/copy.png"
    copy.write_bytes((tmp_path / "train/cat/1.png").read_bytes())
    told: list[str] = []
    load(find_images(tmp_path), told=told, resolution=32)
    assert told == [
        "1 images of val are also in train: val/cat/copy.png",
        *(
            f"1 images of {name} are near duplicates of images in train, which 'mobilette audit' "
            f"shows: {name}/{which}.png"
            for name, which in (("test", "dog/brighter"), ("val", "cat/mirrored"))
        ),
    ]


def test_groups_of_equal_size_are_a_fifth() -> None:
    groups = [index // 4 for index in range(400)]
    names = [str(index) for index in range(400)]
    labels = [index // 200 for index in range(400)]
    held = hold_out(labels=labels, digests=[sha(n) for n in names], names=names, groups=groups)
    assert np.bincount(np.array(labels)[held]).tolist() == [40, 40]


@pytest.mark.parametrize(
    ("given", "part"), [("20%", 0.2), ("0.2", 0.2), (0.2, 0.2), (" 12.5% ", 0.125), (None, None)]
)
def test_a_part_is_a_fraction_or_a_percentage(given: str | float, part: float | None) -> None:
    assert as_holdout(given) == part


@pytest.mark.parametrize("given", ["20", "60%", "0%", 0.0, 0.6, 20, -0.1, math.nan, "abc", "", "%"])
def test_no_such_part(given: str | float) -> None:
    with pytest.raises(InputError, match=r"^--holdout .* is not (between 0\.01 and 0\.5|a part)"):
        as_holdout(given)


def write(root: Path, classes: dict[str, list[str]]) -> Path:
    rng = np.random.default_rng(len(classes))
    for label, names in classes.items():
        for name in names:
            path = root / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).save(path)
    return root


BURSTS = [f"b{burst}-{frame}.png" for burst in range(6) for frame in range(3)]


def load(
    images: ImageSet,
    division: Division = WHOLE,
    known: Trained | None = None,
    *,
    told: list[str] | None = None,
    resolution: int = 8,
) -> Dataset:
    return load_dataset(
        images,
        resolution=resolution,
        preprocess=preset("torch"),
        reporter=Reporter(remark=(told if told is not None else []).append),
        division=division,
        known=known or Trained(),
    )


def bursts_of(dataset: Dataset, split: str) -> set[str]:
    return {name.rpartition("-")[0] for name in dataset.splits[split].names}


def test_a_regular_expression_a_folder_and_a_column_group_alike(tmp_path: Path) -> None:
    names = {"cat": BURSTS, "dog": [name.replace("b", "d") for name in BURSTS]}
    data = write(tmp_path / "flat", names)
    by_regex = find_images(data, groups=r"(\w\d)-")
    nested = {label: [name.replace("-", "/", 1) for name in some] for label, some in names.items()}
    by_folder = find_images(write(tmp_path / "nested", nested), groups="folder")
    with (tmp_path / "flat" / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "burst"])
        table.writerows(
            [f"{label}/{name}", label, name[:2]] for label, some in names.items() for name in some
        )
    by_column = find_images(tmp_path / "flat" / "list.csv", groups="burst")
    sides = []
    for images in (by_regex, by_folder, by_column):
        assert "12 groups of several images are kept together" in " ".join(images.remarks)
        dataset = load(images, Division(holdout=0.2, groups="any"))
        parts = {
            split: {name.partition("/")[2][:2] for name in some.names}
            for split, some in dataset.splits.items()
        }
        assert not parts["train"] & parts["val"]
        assert not parts["test"] & (parts["val"] | parts["train"])
        assert {"train", "val", "test"} == parts.keys()
        sides.append(parts)
    assert sides[0] == sides[1] == sides[2]
    assert dataset.describe()["division"] == {
        "holdout": 0.2,
        "groups": "any",
        "folds": None,
        "fold": 1,
    }


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("frog", "--groups 'frog': matches no image's name; a name is 'cat/b0-0.png'"),
        ("(", r"--groups '\(' is not a regular expression \("),
        (r"\d-\d", "every group has one image"),
        ("b", "all images are in one group, 'b'"),
        ("folder", "no image lies in a folder of its own below that of its class"),
    ],
)
def test_groups_that_cannot_be(tmp_path: Path, groups: str, message: str) -> None:
    names = [f"b{index}-{index}.png" for index in range(4)] if "one image" in message else BURSTS
    data = write(tmp_path / "set", {"cat": names, "dog": [f"c{n}" for n in names]})
    if "one image" in message:
        groups = r".*"
    with pytest.raises(InputError, match=message):
        find_images(data, groups=groups)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, {"cat": ["1.png"], "dog": ["2.png"]})
    (tmp_path / "list.csv").write_text("path,label,person\ncat/1.png,cat,a\ndog/2.png,dog,b\n")
    with pytest.raises(
        InputError,
        match=r"'persom' is not one of the columns 'path', 'label', 'person'.*'person'\?",
    ):
        find_images(tmp_path / "list.csv", groups="persom")


@pytest.mark.parametrize(
    ("count", "division", "message"),
    [
        (2, Division(holdout=0.2), "'dog' has 2 usable images; three are needed, one to train on"),
        (1, Division(), "'dog' has one usable image; two are needed"),
        (3, Division(holdout=0.5), "'dog' has 3 usable images, all of them held out"),
    ],
)
def test_classes_that_are_too_small(
    tmp_path: Path, count: int, division: Division, message: str
) -> None:
    names = {"cat": [f"{n}.png" for n in range(9)], "dog": [f"{n}.png" for n in range(count)]}
    with pytest.raises(InputError, match=message):
        load(find_images(write(tmp_path, names)), division)


def both_folds(images: ImageSet, first: Division) -> None:
    """In one of the two, a group of a class of its own is held out."""
    load(images, first)
    load(images, replace(first, fold=2))


def test_a_class_in_one_group_cannot_be_trained_on(tmp_path: Path) -> None:
    names = {"cat": BURSTS, "dog": [f"x9-{n}.png" for n in range(6)]}
    images = find_images(write(tmp_path, names), groups=r"/(\w\d)-")
    alone = Division(groups="x", folds=2, fold=1)
    with pytest.raises(InputError, match="'dog' has all of its 6 images in 2 groups or fewer"):
        both_folds(images, alone)


def test_test_is_cut_from_train_of_a_divided_set(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(10)]
    for split, count in (("train", 10), ("val", 4)):
        write(tmp_path / split, {"cat": names[:count], "dog": [f"d{n}" for n in names[:count]]})
    images = find_images(tmp_path)
    dataset = load(images, Division(holdout=0.2))
    counts = {split: len(part.names) for split, part in dataset.splits.items()}
    assert counts == {"train": 16, "val": 8, "test": 4}
    assert dataset.parts == ("test",)
    assert load(images).parts == ()
    folds = [load(images, Division(folds=4, fold=fold)) for fold in (1, 2, 3, 4)]
    names_of = [set(fold.splits["test"].names) for fold in folds]
    assert sum(map(len, names_of)) == len(set.union(*names_of)) == 28


@settings(max_examples=25, deadline=None)
@given(data=st.data(), copies=st.booleans())
def test_what_is_known_of_a_division_is_kept(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, copies: bool
) -> None:
    """Copies of one image on both sides included; new images are divided as a set of their own."""
    pixels = [np.full((4, 4), shade, np.uint8) for shade in range(40)]
    shades = data.draw(st.lists(st.integers(0, 5 if copies else 39), min_size=20, max_size=30))
    numbers = list(enumerate(shades if copies else sorted(set(shades)) * 1))
    images = ImageSet(
        name="mine",
        classes=("a", "b"),
        splits={
            "all": tuple(
                LabelledImage(name=f"{row:02}", label=row % 2, content=pixels[shade])
                for row, shade in numbers
            )
        },
    )
    if len(numbers) < 8:
        return
    first = load(images, Division(holdout=0.2))
    assert first.content is not None
    known = Trained(
        images=first.content["train"],
        parts={name: first.content[name] for name in first.parts},
        names={name: first.splits[name].names for name in first.parts},
    )
    again = load(images, WHOLE, known)
    for split, part in first.splits.items():
        assert again.splits[split].names == part.names
    new = tuple(
        LabelledImage(name=f"new{n}", label=n % 2, content=np.full((4, 5), n, np.uint8))
        for n in range(10)
    )
    grown = load(
        ImageSet(name="m", classes=("a", "b"), splits={"all": images.splits["all"] + new}),
        WHOLE,
        known,
    )
    assert set(grown.splits["test"].names) == set(first.splits["test"].names)
    assert len(set(grown.splits["val"].names) - set(first.splits["val"].names)) == 2


def test_an_image_follows_its_group(tmp_path: Path) -> None:
    images = find_images(write(tmp_path, {"cat": BURSTS, "dog": [f"d{n}" for n in BURSTS]}))
    grouped = with_groups(images, r"(.*b\d)-")
    first = load(grouped, Division(groups="x"))
    assert first.content is not None
    kept = [n for n in range(36) if n % 3]
    part = {
        split: Digests(pixels=first.content[split].pixels[::2], files=first.content[split].files)
        for split in ("train", "val")
    }
    known = Trained(images=part["train"], parts={"val": part["val"]})
    again = load(grouped, Division(groups="x"), known)
    assert not bursts_of(again, "train") & bursts_of(again, "val")
    assert kept
