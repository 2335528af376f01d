"""Tar shards as DATA, written by the standard library's tarfile, whole, cut and damaged."""

from __future__ import annotations

import functools
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilette.data.dataset import load_dataset, load_split
from mobilette.data.formats import UnusableImage
from mobilette.data.held_out import choose_split
from mobilette.data.preprocess import preset
from mobilette.data.sources import find_images
from mobilette.data.tar import TarMember
from mobilette.errors import InputError
from tests.data.sets import attempt, labelled

Files = list[tuple[str, bytes]]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@functools.cache
def png(number: int) -> bytes:
    """Return an image of its own for each number."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 7, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def samples(*classes: str, first: int = 0) -> Files:
    files = []
    for number, text in enumerate(classes, start=first):
        files += [(f"{number:04}.png", png(number)), (f"{number:04}.cls", text.encode())]
    return files


def tar_bytes(files: Files, format: str = "ustar") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[format]) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write(path: Path, files: Files, format: str = "ustar") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files, format))
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_images_are_read_where_they_lie(tmp_path: Path, format: str) -> None:
    far = (
        "folder/"
        + "/".join("deep" * 10 for _ in range(5))
        + ("" if format == "ustar" else "图" * 200)
    )
    files = [
        ("./a.b/0.json", b"{}"),
        ("./a.b/0.PNG", png(0)),
        ("./a.b/0.cls", b" 1\n"),
        (f"{far}/1.cls", b"0"),
        (f"{far}/1.seg.png", png(9)),
        (f"{far}/1.png", png(1)),
        (f"{far}/1.jpg", png(8)),
        ("README", b"no sample"),
    ]
    write(tmp_path / "shard.tar", files, format)
    found = find_images(tmp_path)
    assert found.classes == ("0", "1")
    assert labelled(found, "all") == [("shard.tar/./a.b/0.PNG", 1), (f"shard.tar/{far}/1.png", 0)]
    for number, image in enumerate(found.splits["all"]):
        assert image.read() == png(number)
        there = pickle.loads(pickle.dumps(image))  # as it goes to a worker process
        with Image.open(io.BytesIO(png(number))) as written:
            np.testing.assert_array_equal(np.asarray(there.open()), np.asarray(written))
        assert not image.in_memory
    assert [name.rpartition("/")[2] for name in found.ignored] == [
        "0.json",
        "1.seg.png",
        "1.jpg",
        "README",
    ]
    assert found.unusable == ()
    assert found.remarks == ()


def test_links_folders_and_devices_are_no_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("9.png")
            info.type, info.linkname, info.size = kind, "/etc/passwd", 4096
            archive.addfile(info)
        for name, content in samples("a", "b"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert [name for name, _ in labelled(find_images(tmp_path), "all")] == [
        "a.tar/0000.png",
        "a.tar/0001.png",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("train-000.tar", "train-001.tar", "val-000.tar", "test-000.tar"),
        ("set-train-0.tar", "set-train-1.tar", "set-val-0.tar", "set_test.TAR"),
        ("train/0.tar", "train/1.tar", "val/a.tar", "test/a.tar"),
    ],
)
def test_layouts(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        write(tmp_path / name, samples("dog", "ant", first=2 * number))
    found = find_images(tmp_path)
    assert found.classes == ("ant", "dog")
    assert {split: len(there) for split, there in found.splits.items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    assert [image.shard for image in found.splits["train"]] == [0, 0, 1, 1]
    assert [image.shard for image in found.splits["val"]] == [2, 2]
    dataset = load_dataset(found, resolution=8, preprocess=preset("torch"))
    train = dataset.splits["train"]
    assert train.shards is not None
    assert [
        f"{names[shard]}/" in f"{name}/"
        for shard, name in zip(train.shards, train.names, strict=True)
    ] == [True] * 4
    assert dataset.describe()["split_rule"] == "shards"


def test_a_flat_set_is_divided_by_the_rule(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", samples(*"aabb"))
    write(tmp_path / "b.tar", samples(*"aabbab", first=4))
    found = find_images(tmp_path)
    dataset = load_dataset(found, resolution=8, preprocess=preset("torch"))
    assert {split: len(there.names) for split, there in dataset.splits.items()} == {
        "train": 8,
        "val": 2,
    }
    assert choose_split(found, None).images == found.splits["all"]
    read, unusable = load_split(found.splits["all"], resolution=8, preprocess=preset("torch"))
    assert (len(read.names), unusable) == (10, ())
    write(tmp_path / "c" / "train" / "x.tar", samples(*"aabb"))
    assert set(find_images(tmp_path / "c").splits) == {"all"}


def test_class_names(tmp_path: Path) -> None:
    write(tmp_path / "train-0.tar", samples("0", "11", "2"))
    assert find_images(tmp_path).classes == tuple(f"{number:02}" for number in range(12))
    assert [label for _, label in labelled(find_images(tmp_path), "all")] == [0, 11, 2]
    ids = [f"n{number}" for number in range(12)]
    (tmp_path / "classes.txt").write_text("".join(f"{name}\tname of {name}\r\n" for name in ids))
    assert find_images(tmp_path).classes == tuple(ids)
    write(tmp_path / "train-0.tar", samples("n3", "n0"))
    assert [label for _, label in labelled(find_images(tmp_path), "all")] == [3, 0]


@pytest.mark.parametrize(
    ("shards", "listed", "message"),
    [
        ({"a": ["1", "2"]}, "x\ny\n", "a.tar/0001.png: class '2' is not in the 2 lines of classes"),
        ({"a": ["xx", "yyy"]}, "xx\nyyyy", "class 'yyy' is not in .*did you mean 'yyyy'"),
        ({"a": ["1", "2"]}, "x\n\ny", "classes.txt: line 2: empty"),
        ({"a": ["1", "2"]}, "x\ny\nx", "classes.txt: line 3: class 'x' is already in line 1"),
        ({"a": ["1", "100000"]}, None, "class '100000' is not in 0 to 99,999"),
        ({"a": ["1", "9" * 900]}, None, "class '9999.* is not in 0 to 99,999"),
        ({"train": ["0", "1"], "val": ["2"]}, None, "val.tar/0000.png: class '2' is not in train"),
        ({"train": ["cat", "b"], "val": ["cats"]}, None, "not in train; did you mean 'cat'"),
        ({"a": ["0", "0"]}, None, "has one class, '0'"),
        ({"val": ["0", "1"]}, None, "no shards named train-"),
        ({"train": ["0"], "validation": ["1"]}, None, "class '1' is not in train"),
        (
            {"train": ["0"], "extra": ["1"]},
            None,
            "extra.tar: its name has no split; .* named train-",
        ),
        ({"a": []}, None, "a.tar: no complete sample"),
    ],
)
def test_bad_sets(
    tmp_path: Path, shards: dict[str, list[str]], listed: str | None, message: str
) -> None:
    for name, classes in shards.items():
        write(tmp_path / f"{name}.tar", samples(*classes))
    if listed is not None:
        (tmp_path / "classes.txt").write_text(listed)
    with pytest.raises(InputError, match=message) as caught:
        find_images(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_folders_of_shards(tmp_path: Path) -> None:
    write(tmp_path / "train/0.tar", samples("a", "b"))
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match="no tar files in the folder for val, as there are in"):
        find_images(tmp_path)
    write(tmp_path / "val/0.tar", samples("a"))
    write(tmp_path / "valid/0.tar", samples("a"))
    with pytest.raises(InputError, match="valid: a second folder for val; merge them"):
        find_images(tmp_path)


def test_splits_of_shards_in_any_spelling(tmp_path: Path) -> None:
    write(tmp_path / "named/cats-TRAINING-0001.tar", samples("a", "b"))
    write(tmp_path / "named/cats_valid.tar", samples("a"))
    write(tmp_path / "folders/Train Set/0.tar", samples("a", "b"))
    write(tmp_path / "folders/validation/0.tar", samples("a"))
    for name in ("named", "folders"):
        splits = find_images(tmp_path / name).splits
        assert {split: len(some) for split, some in splits.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_a_compressed_shard_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("1.png"))
    with pytest.raises(InputError, match="compressed; images are read in place, so unpack it"):
        find_images(tmp_path)


def test_samples_that_are_not_complete_are_counted(tmp_path: Path) -> None:
    files = [
        *samples("a", "b"),
        ("10.png", png(10)),
        ("11.cls", b"a"),
        ("12.png", png(12)),
        ("12.cls", b"\xff"),
        ("13.png", png(13)),
        ("13.cls", b"x" * 5000),
        ("14.json", b"{}"),
    ]
    write(tmp_path / "a.tar", files)
    found = find_images(tmp_path)
    assert found.unusable == (
        ("a.tar/10", "no .cls beside it"),
        ("a.tar/11", "no image beside its .cls"),
        ("a.tar/12", "its .cls is empty or not text"),
        ("a.tar/13", "its .cls has 5,000 bytes, too long for a class"),
    )
    write(tmp_path / "a.tar", [*samples(*"aabb"), *files[4:6]])
    dataset = load_dataset(find_images(tmp_path), resolution=8, preprocess=preset("torch"))
    assert dataset.unusable == (
        ("a.tar/10", "no .cls beside it"),
        ("a.tar/11", "no image beside its .cls"),
    )


@settings(max_examples=80)
@given(st.data(), st.sampled_from(list(FORMATS)), st.booleans())
def test_a_shard_that_ends_mid_file_costs_one_sample(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, format: str, class_first: bool
) -> None:
    names = [f"{'folder' * 20 if number % 2 else 'x'}/{number}" for number in range(4)]
    files: Files = []
    for number, name in enumerate(names):
        pair = [(f"{name}.png", png(number)), (f"{name}.cls", b"01"[number % 2 :][:1])]
        files += reversed(pair) if class_first else pair
    whole = tar_bytes(files, format if format != "ustar" else "gnu")
    # Where each file's last byte is, by tarfile itself.
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        ends = [member.offset_data + member.size for member in archive]
    complete = [max(ends[2 * number : 2 * number + 2]) for number in range(4)]
    length = data.draw(st.integers(0, len(whole) - 1))
    folder = tmp_path_factory.getbasetemp() / "cut"
    folder.mkdir(exist_ok=True)
    (folder / "a.tar").write_bytes(whole[:length])
    left = sum(end <= length for end in complete)
    if left == 0:
        with pytest.raises(InputError, match="a.tar: "):
            find_images(folder)
        return
    if left == 1:
        with pytest.raises(InputError, match="has one class"):
            find_images(folder)
        return
    found = find_images(folder)
    assert [image.read() for image in found.splits["all"]] == [png(n) for n in range(left)]
    assert len(found.unusable) <= 1
    assert {reason for _, reason in found.unusable} <= {"shard ends mid-file"}
    begun = ends[-1] > length > ends[2 * left - 1] + 3 * 2048 + 1024
    if begun:  # far enough behind the last complete sample for a header of the next one
        assert found.unusable == ((f"a.tar/{names[left]}", "shard ends mid-file"),)
    marked = length >= -(-ends[-1] // 512) * 512 + 512
    assert found.remarks == (() if marked else ("1 of 1 shards end mid-file; the first is a.tar",))


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
    st.sampled_from(list(FORMATS)),
)
def test_a_damaged_shard_is_a_set_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[float, int]], format: str
) -> None:
    long = "" if format == "ustar" else "图" * 60
    files = [(f"{long}{name}", content) for name, content in samples("0", "1", "0")]
    content = bytearray(tar_bytes(files, format)[:6000])
    for place, value in damages:
        content[int(place * len(content))] = value
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "a.tar").write_bytes(content)
    found = attempt(folder)
    if isinstance(found, str):
        assert "\n" not in found
        return
    for image in found.splits["all"]:
        assert image.read() is not None


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a header with a right checksum, whatever else it says."""
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    block[257:265] = b"ustar\00000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (header(b"1.png", b"\xff" * 12), "a.tar: "),
        (header(b"1.png", b"\x80" + b"\x7f" * 11), "no complete sample.*ends mid-file"),
        (header(b"1.png", b"77777777777"), "no complete sample.*ends mid-file"),
        (header(b"1.png", b"00000000000", b"S"), "sparse files"),
        (header(b"1.png", b"no number"), "no tar header at byte 0"),
        (header(b"", b"00000400000", b"x") + bytes(2**17), "131,072 bytes of names"),
        (header(b"", b"00000400000", b"L") + bytes(2**17), "131,072 bytes of names"),
        (header(b"", b"37777777777", b"L"), "4,294,967,296 bytes of names"),
        (b"\x89PNG" * 500, "no tar header at byte 0; damaged, or not a tar file"),
        (b"", "no tar header at byte 0"),
        (b"short", "no tar header at byte 0"),
    ],
)
def test_hostile_headers(tmp_path: Path, hostile: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(hostile)
    with pytest.raises(InputError, match=message):
        find_images(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        b"0 path=x\n",
        b"9999 path=x\n",
        b"-5 path=x\n",
        b"x\n",
        b"11 path=\xff\n",
        b"18 size=99999999999\n",
        b"12 size=-12\n",
        b"5\n",
    ],
)
def test_hostile_extended_headers_end(tmp_path: Path, record: bytes) -> None:
    extended = header(b"x", b"%011o" % len(record), b"x") + record.ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(
        tar_bytes(samples("a", "b"))[:4096] + extended + header(b"9.png", b"0" * 11)
    )
    found = attempt(tmp_path)
    if isinstance(found, str):
        assert "a.tar: " in found
        assert "\n" not in found
        return
    assert len(found.splits["all"]) == 2
    assert len(found.unusable) + len(found.ignored) == 1


def test_a_shard_that_shrinks_later_costs_its_images(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", samples("a", "b"))
    first, second = find_images(tmp_path).splits["all"]
    path.write_bytes(path.read_bytes()[:2100])
    assert first.read() == png(0)
    with pytest.raises(UnusableImage, match="shard ends mid-file"):
        second.open()
    path.unlink()
    with pytest.raises(UnusableImage, match="cannot be read: No such file"):
        first.open()
    with pytest.raises(UnusableImage, match="the limit is 512 MiB"):
        TarMember(path, 0, 2**40).read()


def test_class_folders_with_a_loose_archive_stay_class_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png(1))
    (tmp_path / "download.tar.gz").write_bytes(b"x")
    write(tmp_path / "train.tar", samples("a", "b"))
    found = find_images(tmp_path)
    assert found.classes == ("a", "b")
    assert found.ignored == ("download.tar.gz", "train.tar")
