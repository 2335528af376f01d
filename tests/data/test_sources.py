from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.data.images import ImageSet, LabelledImage
from mobilette.data.sources import find_images
from mobilette.errors import InputError


def fill(root: Path, *names: str) -> Path:
    """Make files below a folder: images where the suffix says so, else text."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue() if path.suffix else b"text")
    return root


def names(images: ImageSet, split: str) -> list[str]:
    return [image.name for image in images.splits[split]]


def test_digits() -> None:
    digits = find_images("digits")
    assert digits.name == "digits"
    assert digits.classes == tuple("0123456789")
    assert not digits.flippable
    images = digits.splits["all"]
    assert set(digits.splits) == {"all"}
    assert len(images) == 1797
    assert [image.label for image in images[:10]] == list(range(10))
    assert images[17].name == "digits/17"
    image = images[0].open()
    assert (image.mode, image.size) == ("L", (8, 8))
    # The first row of the first digit in UCI's file: 0 0 5 13 9 1 0 0.
    assert np.asarray(image)[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert max(np.asarray(image.open()).max() for image in images) == 255


def test_flat_folder_is_sorted_by_class_then_name(tmp_path: Path) -> None:
    fill(tmp_path, "cat/b.PNG", "cat/a/z.jpeg", "Ant/2.webp", "Ant/10.tif", "dog/x.gif")
    found = find_images(tmp_path)
    assert found.classes == ("Ant", "cat", "dog")
    assert names(found, "all") == [
        "Ant/10.tif",
        "Ant/2.webp",
        "cat/a/z.jpeg",
        "cat/b.PNG",
        "dog/x.gif",
    ]
    assert [image.label for image in found.splits["all"]] == [0, 0, 1, 1, 2]
    assert found.name == str(tmp_path)
    assert found.flippable
    assert found.splits["all"][0].open().size == (4, 4)


def test_names_do_not_depend_on_where_the_root_lies(tmp_path: Path) -> None:
    files = ("cat/one.png", "dog/two.png")
    here = find_images(fill(tmp_path / "here", *files))
    there = find_images(str(fill(tmp_path / "far" / "there", *files)))
    assert here.splits == there.splits


def test_ignored_and_hidden_files(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "a/notes", "a/.hidden.png", "b/1.png", "b/.cache/2.png", "loose.png")
    (tmp_path / "b" / "list.txt").write_text("x")
    fill(tmp_path / ".thumbnails", "3.png")
    found = find_images(tmp_path)
    assert names(found, "all") == ["a/1.png", "b/1.png"]
    assert found.ignored == ("a/notes", "b/list.txt", "loose.png")


def test_split_folders(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "val/b/2.png", "test/a/3.png")
    found = find_images(tmp_path)
    assert set(found.splits) == {"train", "val", "test"}
    assert found.classes == ("a", "b", "c")
    assert names(found, "train") == ["train/a/1.png", "train/b/1.png", "train/c/1.png"]
    assert [(image.name, image.label) for image in found.splits["val"]] == [("val/b/2.png", 1)]
    assert names(found, "test") == ["test/a/3.png"]


def test_a_class_that_val_or_test_lacks_is_remarked(tmp_path: Path) -> None:
    fill(tmp_path, *(f"train/{name}/1.png" for name in "abcdefgh"), "val/b/2.png")
    assert find_images(tmp_path).remarks == (
        "val has no image of 7 of the 8 classes (a, c, d, e, f, ...)",
    )
    fill(tmp_path, *(f"val/{name}/3.png" for name in "abcdefgh"))
    assert find_images(tmp_path).remarks == ()


def test_train_alone_is_flat_and_test_stays_apart(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png")
    assert names(find_images(tmp_path), "all") == ["train/a/1.png", "train/b/1.png"]
    fill(tmp_path, "test/a/9.png")
    found = find_images(tmp_path)
    assert set(found.splits) == {"all", "test"}
    assert names(found, "test") == ["test/a/9.png"]


def test_train_may_be_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "bus/1.png", "plane/1.png", "train/1.png")
    assert find_images(tmp_path).classes == ("bus", "plane", "train")


def test_spaces_and_chinese_names(tmp_path: Path) -> None:
    fill(tmp_path / "我的 图片", "猫 cat/一 1.png", "狗/二.png")
    found = find_images(tmp_path / "我的 图片")
    assert found.classes == ("狗", "猫 cat")
    assert found.splits["all"][1].name == "猫 cat/一 1.png"
    assert found.splits["all"][1].open().size == (4, 4)


def test_links_to_files_are_followed_and_circles_end(tmp_path: Path) -> None:
    fill(tmp_path / "set", "a/1.png", "b/1.png")
    fill(tmp_path / "elsewhere", "far.png")
    try:
        (tmp_path / "set/a/2.png").symlink_to(tmp_path / "elsewhere/far.png")
    except OSError:
        pytest.skip("links may not be made here")
    (tmp_path / "set/a/again").symlink_to(tmp_path / "set/a")
    (tmp_path / "set/a/up").symlink_to(tmp_path / "set")  # would make every image an "a"
    (tmp_path / "set/a/self").symlink_to(tmp_path / "set/a/self")
    (tmp_path / "set/c").symlink_to(tmp_path / "elsewhere")
    found = find_images(tmp_path / "set")
    assert found.classes == ("a", "b", "c")
    labelled = [(image.name, image.label) for image in found.splits["all"]]
    assert labelled == [("a/1.png", 0), ("a/2.png", 0), ("b/1.png", 1), ("c/far.png", 2)]


def test_a_name_means_the_set_and_a_separator_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "digits", "a/1.png", "b/1.png")
    monkeypatch.chdir(tmp_path)
    assert len(find_images("digits").classes) == 10
    assert find_images(f".{os.sep}digits").classes == ("a", "b")
    assert find_images(Path("digits")).classes == ("a", "b")
    monkeypatch.chdir(tmp_path / "digits")
    assert len(find_images(Path("digits")).classes) == 10


def test_images_in_memory() -> None:
    grey = LabelledImage(name="x", label=0, content=np.full((3, 5), 7, np.uint8))
    assert (grey.open().mode, grey.open().size) == ("L", (5, 3))
    colours = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    opened = LabelledImage(name="y", label=0, content=colours).open()
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), colours)


def test_cifar10_4k(shared_data: Path) -> None:
    found = find_images(shared_data / "cifar10-4k")
    assert len(found.classes) == 10
    assert sum(len(split) for split in found.splits.values()) == 4000
    assert set(found.splits) == {"train", "val"}
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["1.png", "2.jpg"], "has no class folders, 2 images are directly in it; expected one"),
        ([], "has no class folders, 0 images"),
        (["a/1.png"], "has one class, 'a'"),
        (["a/1.png", "b/notes"], "b has no images"),
        (["val/a/1.png", "val/b/1.png"], "has val/, but no train/"),
        (["train/a/1.png", "val/a/1.png"], "has one class, 'a'"),
        (
            ["train/cat/1.png", "train/dog/1.png", "val/cats/1.png"],
            "val.cats: no class of that name in train/; did you mean 'cat'",
        ),
        (["train/a/1.png", "train/b/1.png", "test/zebra/1.png"], "test.zebra: no class"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "val/c/1.png"], "val.c:"),
        (["train/a/1.png", "train/b/1.png", "val/a/notes"], "val has no images"),
        (["train/a/1.png", "train/b/notes", "val/a/1.png"], "train.b has no images"),
        (["train/1.png", "val/1.png"], "could mean either"),
        (["train/a/1.png", "train/b/1.png", "val/notes"], "val has no images"),
    ],
)
def test_wrong_layouts(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_images(fill(tmp_path, *files))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_paths_offer_the_nearest(tmp_path: Path) -> None:
    fill(tmp_path, "flowers/a/1.png")
    with pytest.raises(InputError, match=r"no such folder, list or set .*did you mean 'flowers'"):
        find_images(tmp_path / "flower")
    with pytest.raises(InputError, match="did you mean 'digits'"):
        find_images("digit")
    with pytest.raises(InputError, match="no such folder, list or set"):
        find_images(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        find_images(tmp_path / ("long" * 100))
    with pytest.raises(
        InputError, match=r"is a file; expected a list \(\.csv, \.tsv, \.txt\), or a folder"
    ):
        find_images(fill(tmp_path, "one.png") / "one.png")
    (tmp_path / "images.csv").touch()
    with pytest.raises(InputError, match=r"did you mean 'images\.csv'"):
        find_images(tmp_path / "image.csv")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(InputError, match="b cannot be read: Permission denied"):
            find_images(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)
