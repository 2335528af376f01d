from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilette.data.digests import Trained
from mobilette.data.division import hold_out
from mobilette.data.held_out import choose_split, members
from mobilette.data.images import ImageSet, LabelledImage
from mobilette.data.sources import find_images
from mobilette.errors import InputError

Rows = list[tuple[int, str]]


def held_names(rows: Rows, prefix: str = "") -> Counter[tuple[int, str]]:
    held_out = hold_out(
        labels=[label for label, _ in rows],
        digests=[digest for _, digest in rows],
        names=[f"{prefix}{index}" for index in range(len(rows))],
    )
    return Counter(row for row, held in zip(rows, held_out, strict=True) if held)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.text("0123456789abcdef", max_size=3))),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_rule(rows: Rows, shuffle: object) -> None:
    chosen = held_names(rows)
    for label in range(5):
        own = sorted(digest for other, digest in rows if other == label)
        expected = Counter((label, digest) for digest in own[: math.ceil(len(own) / 5)])
        assert Counter({row: n for row, n in chosen.items() if row[0] == label}) == expected
    shuffled = list(rows)
    shuffle.shuffle(shuffled)  # type: ignore[attr-defined]
    assert held_names(shuffled, prefix="elsewhere/") == chosen


def test_copies_of_one_image_are_told_apart_by_name() -> None:
    held_out = hold_out(labels=[0] * 6, digests=["a"] * 6, names=list("fedcba"))
    assert held_out.tolist() == [False] * 4 + [True] * 2


def flat(root: Path, count: int = 11) -> ImageSet:
    rng = np.random.default_rng(3)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (5, 6, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return find_images(root)


def test_flat_folders(tmp_path: Path) -> None:
    images = flat(tmp_path)
    assert members(choose_split(images, None)) == images.splits["all"]
    val = members(choose_split(images, "val"))
    # The rule, written out: SHA-256 over mode, size and bytes.
    digests = {
        image.name: hashlib.sha256(b"RGB 6 5 " + image.open().tobytes()).hexdigest()
        for image in images.splits["all"]
    }
    expected = set()
    for label in ("cat", "dog"):
        own = [name for name in digests if name.startswith(label)]
        expected |= set(sorted(own, key=digests.__getitem__)[:3])
    assert {image.name for image in val} == expected
    train = members(choose_split(images, "train"))
    assert set(train) | set(val) == set(images.splits["all"])
    assert len(train) + len(val) == 22


def test_undecodable_images_stay_to_be_counted(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "cat" / "bad.jpg").write_bytes(b"text")
    images = find_images(tmp_path)
    train, val = (members(choose_split(images, split)) for split in ("train", "val"))
    assert (len(train), len(val)) == (17, 6)
    assert "cat/bad.jpg" in {image.name for image in train}


def test_digits_without_a_record_of_training_are_measured_on_their_hold_out() -> None:
    digits = find_images("digits")
    assert choose_split(digits, None).images == digits.splits["all"]
    chosen = members(choose_split(digits, None, trained=Trained(unknown="an earlier version")))
    assert len(chosen) == sum(
        math.ceil(n / 5) for n in Counter(p.label for p in digits.splits["all"]).values()
    )
    assert members(choose_split(digits, "val")) == chosen
    assert len(members(choose_split(digits, "all"))) == 1797


def test_divided_folders() -> None:
    pixels = np.zeros((2, 2), np.uint8)
    splits = {
        split: (LabelledImage(name=split, label=0, content=pixels),)
        for split in ("train", "val", "test")
    }
    images = ImageSet(name="mine", classes=("a", "b"), splits=splits)
    assert choose_split(images, None).images == splits["val"]
    assert choose_split(images, "test").images == splits["test"]
    with pytest.raises(InputError, match=r"mine: split 'tset' is not one of .*did you mean 'test'"):
        choose_split(images, "tset")
    with pytest.raises(InputError, match="split 'all' is not one of train, val, test"):
        choose_split(images, "all")
