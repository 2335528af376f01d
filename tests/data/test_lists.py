"""Lists as DATA: what is read from good ones, and one clear line for each kind of bad one."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilette.data.dataset import load_dataset, load_split
from mobilette.data.held_out import choose_split, members
from mobilette.data.list_table import LARGEST_LIST
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from tests.data.sets import attempt, labelled


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode())
    return path


def paint(root: Path, *names: str) -> None:
    """Write an image of its own for each name."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)


def test_a_list_of_splits(tmp_path: Path) -> None:
    path = write(
        tmp_path / "set.csv",
        "weight,split,path,label",
        '1,train,"x, y/1.png",dog',
        "1,train,./2.png,ant",
        "",
        "1,val,猫/3.png, dog ",
        "1,test,4.png,ant",
    )
    found = find_images(path)
    assert found.classes == ("ant", "dog")
    assert found.name == str(path)
    assert labelled(found, "train") == [("x, y/1.png", 1), ("2.png", 0)]
    assert labelled(found, "val") == [("猫/3.png", 1)]
    assert labelled(found, "test") == [("4.png", 0)]
    assert not found.multi_label
    assert found.remarks == (
        "val has no image of 1 of the 2 classes (ant)",
        "test has no image of 1 of the 2 classes (dog)",
    )
    paint(tmp_path, "猫/3.png")
    with Image.open(tmp_path / "猫/3.png") as image:
        np.testing.assert_array_equal(np.asarray(found.splits["val"][0].open()), np.asarray(image))


def test_without_splits_and_with_tabs_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "set.TSV"
    path.write_bytes(b"\xef\xbb\xbfpath\tlabel\r\na,b.png\tdog\r\nc.png\tant")
    found = find_images(path)
    assert set(found.splits) == {"all"}
    assert labelled(found, "all") == [("a,b.png", 1), ("c.png", 0)]
    assert found.remarks == ()


def test_train_alone_is_to_be_divided(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "path,label,split", "1,a,train", "2,b,train", "3,b,test")
    assert set(find_images(path).splits) == {"all", "test"}


def test_several_labels_or_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "path,labels", "1.png,dog; cat", "2.png,", "3.png,ant|dog|dog")
    found = find_images(path)
    assert found.multi_label
    assert found.classes == ("ant", "cat", "dog")
    assert labelled(found, "all") == [("1.png", (1, 2)), ("2.png", ()), ("3.png", (0, 2))]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: column 'path' is missing; the columns are none"),
        (["path,label"], "no row has an image"),
        (["Pfad,label", "1,a"], "column 'path' is missing; the columns are 'Pfad', 'label'"),
        (["path,lable,x", "1,a,b"], r"column 'label' \(or 'labels'.*; did you mean 'lable'"),
        (["path,label,labels", "1,a,a"], "name one of them"),
        (["path,path,label", "1,1,a"], "column 'path' occurs twice"),
        (["path,label,Spilt", "1,a,train", "2,b,vall"], "line 3: split 'vall' is not one of"),
        (["path,label", "1,a", "2,"], "line 3: the label of '2' is missing"),
        (["path,label", "1,a", ",b"], "line 3: the path is empty"),
        (["path,labels", "1,a;;b"], "line 2: the label of '1' is missing"),
        (["path,label", "1,a", "2"], "line 3: 1 fields, but the first row has 2"),
        (["path,label", "1,a", "2,b,c"], "line 3: 3 fields, but the first row has 2"),
        (["path,label", '1,"a', "2,b"], "line 2: a quote is not closed"),
        (["path,label", '"1\n2",a', '3,"x\ny"'], "line 4: label .* line break"),
        (["path,label", "1," + "a" * 200_000], "line 2: field larger than field limit"),
        (["path,label", "1,a\0"], "line 2: contains a zero byte"),
        (["path,a,b", "1,1,0", "2,1"], "line 3: 2 fields, but the first row has 3"),
        (["path,a,a", "1,1,0", "2,0,1"], "line 1: column 'a' occurs twice"),
        (['path,"a', 'b",c', "1,1,0", "2,0,1"], "line 1: label .* line break"),
        (
            ["path,label,split", "1,a,train", "2,b,vall"],
            "line 3: split 'vall' is not one of train, val, test; did you mean 'val'",
        ),
        (["path,label,split", "1,a,"], "line 2: split '' is not one of"),
        (["path,label,split", "1,a,val"], "no row has the split train"),
        (["path,labels,split", "1,,val"], "no row has the split train"),
        (
            ["path,label,split", "1,cat,train", "2,dog,train", "3,cats,val"],
            "line 4: class 'cats' is in val but not in train; did you mean 'cat'",
        ),
        (["path,label", "1,a", "2,b", "./1,b"], r"line 4: './1' is already in line 2"),
        (["path,label", "1,a", "/etc/passwd,b"], "line 3: '/etc/passwd' is not inside"),
        (["path,label", "1,a", "x/../../y,b"], "line 3: 'x/../../y' is not inside"),
        (["path,label", "1,a", ".,b"], "line 3: '.' is not inside"),
        (["path,label", "1,a", "2,a"], "has one class, 'a'"),
        (["path,labels", "1,", "2,"], "has no class;"),
    ],
)
def test_bad_lists(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path / "bad.csv", *lines)
    with pytest.raises(InputError, match=message) as caught:
        find_images(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_no_utf8_or_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("path,label\n1,a\n2,é\n".encode("latin-1"))
    with pytest.raises(InputError, match="line 3: not UTF-8"):
        find_images(path)
    with path.open("wb") as file:
        file.truncate(LARGEST_LIST + 1)
    with pytest.raises(InputError, match="more than the 1,073,741,824 allowed"):
        find_images(path)


def test_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    paint(tmp_path, "set/in/a.png", "outside/b.png")
    root = tmp_path / "set"
    try:
        (root / "b.png").symlink_to(tmp_path / "outside/b.png")
    except OSError:
        pytest.skip("links may not be made here")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "a.png").symlink_to(root / "in/a.png")
    (root / "self.png").symlink_to(root / "self.png")
    (tmp_path / "link").symlink_to(root)
    good = ("path,label", "a.png,x", "in/a.png,y", "self.png,y")
    write(root / "set.csv", *good)
    assert len(find_images(tmp_path / "link" / "set.csv").splits["all"]) == 3
    for outside in ("b.png", "folder/b.png"):
        write(root / "set.csv", *good, f"{outside},y")
        with pytest.raises(InputError, match=f"line 5: '{outside}' is a link to outside the list"):
            find_images(root / "set.csv")


def test_a_missing_image_costs_that_image(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(12)]
    paint(tmp_path, *names, "folder/1.png")
    rows = [f"{name},{'ab'[number % 2]}" for number, name in enumerate(names)]
    bad = ("gone.png,a", f"{'long' * 100},b", "folder,b")
    path = write(tmp_path / "a.csv", "path,label", *rows, *bad)
    dataset = load_dataset(
        find_images(path),
        resolution=8,
        preprocess=preset("torch"),
        reading=Reading(workers=0, max_unusable=0.3),
    )
    assert dict(dataset.unusable) == {
        "gone.png": "cannot be read: No such file or directory",
        "long" * 100: "cannot be read: File name too long",
        "folder": "not a regular file",
    }
    assert sum(len(split.names) for split in dataset.splits.values()) == 12


def test_a_multi_label_set_in_memory(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(10)]
    paint(tmp_path, *names)
    labels = ["a", "a;b", "b", "", "a;b", "a", "b", "a", "", "rare;a"]
    rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
    path = write(tmp_path / "a.csv", "path,labels", *rows)
    found = find_images(path)
    dataset = load_dataset(found, resolution=8, preprocess=preset("torch"))
    assert len(dataset.splits["val"].names) == 2  # the images count as one class
    for split in dataset.splits.values():
        assert split.labels.dtype == np.uint8
        for name, row in zip(split.names, split.labels, strict=True):
            there = labels[names.index(name)].split(";")
            assert row.tolist() == [int(label in there) for label in ("a", "b", "rare")]
    description = dataset.describe()
    assert description["multi_label"] is True
    assert description["split_rule"] == "first fifth by SHA-256 of decoded pixels"
    assert description["val_names"] == list(dataset.splits["val"].names)
    counts = [
        sum(split["per_class"][name] for split in description["splits"].values())  # type: ignore[attr-defined]
        for name in ("a", "b", "rare")
    ]
    assert counts == [6, 4, 1]
    chosen = members(choose_split(found, "val"))
    assert {item.name for item in chosen} == set(dataset.splits["val"].names)
    read, _ = load_split(chosen, num_classes=3, resolution=8, preprocess=preset("torch"))
    assert read.labels.shape == (2, 3)
    write(path, "path,labels", rows[0].replace("a", "a;b"), *rows[1:])
    changed = load_dataset(find_images(path), resolution=8, preprocess=preset("torch"))
    assert changed.fingerprint != dataset.fingerprint


_FIELDS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/;|\\:.["))
# Without what pandas writes for a label that is missing
_LABELS = _FIELDS.filter(lambda text: text not in ("", "nan", "NaN", "<NA>"))


@settings(max_examples=60)
@given(
    st.dictionaries(
        _FIELDS.filter(bool),
        st.tuples(st.lists(_LABELS), st.sampled_from(["train", "val", "test"])),
        min_size=1,
    ),
    st.sampled_from([";", "|", " ; "]),
)
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[str, tuple[list[str], str]],
    separator: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "written" / "list.csv"
    path.parent.mkdir(exist_ok=True)
    rows = {"first": (["one", "two"], "train")} | rows
    known = sorted(
        {label for labels, split in rows.values() if split == "train" for label in labels}
    )
    rows = {
        name: ([label for label in labels if label in known], split)
        for name, (labels, split) in rows.items()
    }
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "labels", "split"])
    for name, (labels, split) in rows.items():
        writer.writerow([name, separator.join(labels), split])
    path.write_bytes(text.getvalue().encode())
    found = find_images(path)
    assert found.classes == tuple(known)
    read = {
        image.name: ([known[index] for index in image.label], split)  # type: ignore[union-attr]
        for split, images in found.splits.items()
        for image in images
    }
    has_val = any(split == "val" for _, split in rows.values())
    assert read == {
        name: (sorted(set(labels)), split if has_val or split == "test" else "all")
        for name, (labels, split) in rows.items()
    }


_NAMES = _FIELDS.filter(lambda text: text and "," not in text and text.lower() != "nan")


@settings(max_examples=60)
@given(
    rows=st.dictionaries(_NAMES, _NAMES, max_size=6),
    sign=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    header=st.sampled_from([("path", "label"), ("File Name", "CLASS"), ("ID", "breed")]),
)
def test_separators_encodings_and_line_ends_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[str, str],
    sign: str,
    encoding: str,
    end: str,
    header: tuple[str, str],
) -> None:
    path = tmp_path_factory.getbasetemp() / "signs" / "list.csv"
    path.parent.mkdir(exist_ok=True)
    rows = {"1.png": "cat", "2.png": "dog"} | rows
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=sign, lineterminator=end).writerows([header, *rows.items()])
    path.write_bytes(text.getvalue().encode(encoding))
    found = find_images(path)
    assert {name: found.classes[label] for name, label in labelled(found, "all")} == rows  # type: ignore[call-overload]


@settings(max_examples=150)
@given(
    st.binary(max_size=60)
    | st.text('path,labelsp\n"\t;|.\r/0', max_size=60).map(str.encode)
    | st.binary(max_size=30).map(lambda end: b"path,label\n1,a\n2,b\n" + end)
)
def test_any_content_is_a_set_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    found = attempt(path)
    if isinstance(found, str):
        assert "\n" not in found
        return
    assert len(found.classes) >= 2
    root = str(path.parent) + os.sep
    for image in found.splits["all"]:
        assert os.path.normpath(str(image.content)).startswith(root)
