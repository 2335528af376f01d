from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.data import cache as cache_module
from mobilette.data.cache import PIXELS, RECORDS, ImageCache, cache_key, clean_cache, open_cache
from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.images import Stamp
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.progress import SILENT, Reporter
from tests.conftest import write_images
from tests.data.sets import divided, load_after

SHAPE = (5, 1, 4, 4)
ROWS = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
DIGESTS = [bytes([row]) * 32 for row in range(5)]


def opened(root: Path, key: str = "a" * 64) -> ImageCache:
    cache = open_cache(root, key, shape=SHAPE, source="set")
    assert isinstance(cache, ImageCache), cache
    return cache


def written(root: Path) -> ImageCache:
    cache = opened(root)
    for row in (0, 1, 3):
        cache.write(row, ROWS[row], DIGESTS[row])
    cache.close()
    return opened(root)


def read(cache: ImageCache) -> dict[int, bytes]:
    """Return the digests of what can be read, all of which must be right."""
    out, found = np.zeros(SHAPE[1:], np.uint8), {}
    for row in range(len(ROWS)):
        digest = cache.read(row, out)
        if digest is not None:
            np.testing.assert_array_equal(out, ROWS[row])
            found[row] = digest
    return found


def load(root: Path, cache: Path | None, remarks: list[str] | None = None) -> Dataset:
    return load_dataset(
        find_images(root),
        resolution=16,
        preprocess=preset("torch"),
        reading=Reading(workers=0, cache=cache),
        reporter=SILENT if remarks is None else Reporter(remark=remarks.append),
    )


def same(one: Dataset, other: Dataset) -> None:
    assert one.describe() == other.describe()
    for split, part in one.splits.items():
        np.testing.assert_array_equal(part.pixels[:], other.splits[split].pixels[:])


def test_rows_come_back_and_holes_do_not(tmp_path: Path) -> None:
    cache = written(tmp_path)
    assert read(cache) == {row: DIGESTS[row] for row in (0, 1, 3)}
    assert [cache.digest(row) for row in range(5)] == [
        DIGESTS[row] if row in (0, 1, 3) else None for row in range(5)
    ]


@settings(max_examples=60)
@given(
    name=st.sampled_from([PIXELS, RECORDS]),
    start=st.integers(0, 199),
    junk=st.binary(min_size=1, max_size=60),
)
def test_no_damage_gives_a_wrong_image(
    name: str, start: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a power cut leaves behind: any part of either file may be old, zero or garbage."""
    root = tmp_path_factory.mktemp("cache")
    path = written(root).folder / name
    content = bytearray(path.read_bytes())
    start %= len(content)
    content[start : start + len(junk)] = junk[: len(content) - start]
    path.write_bytes(content)
    found = read(opened(root))  # compares every row that it gives
    assert all(DIGESTS[row] == digest for row, digest in found.items())


@pytest.mark.parametrize("damage", ["cut", "gone", "json", "version"])
def test_a_damaged_or_foreign_cache_is_replaced(damage: str, tmp_path: Path) -> None:
    folder = written(tmp_path).folder
    if damage == "cut":
        os.truncate(folder / PIXELS, 3)
    elif damage == "gone":
        (folder / RECORDS).unlink()
    elif damage == "json":
        (folder / "cache.json").write_text("{")
    else:
        text = (folder / "cache.json").read_text()
        (folder / "cache.json").write_text(text.replace('"schema": 1', '"schema": 2'))
    assert read(opened(tmp_path)) == {}
    assert read(written(tmp_path)) == {row: DIGESTS[row] for row in (0, 1, 3)}
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 64]


class Key(NamedTuple):
    path: str = "/set/1.jpg"
    offset: int = 0
    size: int = 10
    mtime_ns: int = 5
    resolution: int = 32
    channels: int = 3
    resize: str = "crop"
    reduced: bool = False
    digest: str = "files"

    def text(self) -> str:
        return cache_key(
            [Stamp(path=self.path, offset=self.offset, size=self.size, mtime_ns=self.mtime_ns)],
            resolution=self.resolution,
            preprocess=preset("torch", in_channels=self.channels, resize=self.resize),  # type: ignore[arg-type]
            reduced=[self.reduced],
            digest=self.digest,
        )


def test_the_key_has_everything_that_the_rows_depend_on() -> None:
    changed = {
        "path": "/set/2.jpg",
        "offset": 1,
        "size": 11,
        "mtime_ns": 6,
        "resolution": 33,
        "channels": 1,
        "resize": "pad",
        "reduced": True,
        "digest": "decoded pixels",
    }
    assert list(changed) == list(Key._fields)
    keys = {Key().text(), *(Key()._replace(**{name: changed[name]}).text() for name in changed)}  # type: ignore[arg-type]
    assert len(keys) == len(changed) + 1
    stamps = [Stamp(path="/x", offset=0, size=1, mtime_ns=1)]
    arithmetic = [
        cache_key(stamps, resolution=8, preprocess=preset(name), reduced=[False], digest="files")
        for name in ("torch", "tf", "caffe")
    ]
    assert len(set(arithmetic)) == 1  # mean and std are applied later


@pytest.mark.parametrize("flat", [True, False])
def test_a_second_load_decodes_nothing(flat: bool, tmp_path: Path) -> None:
    root = tmp_path / "set"
    if flat:
        write_images(root, 8)
    else:
        divided(root)
    cache = tmp_path / "cache"
    uncached, first = load(root, None), load(root, cache)
    same(uncached, first)
    for path in (path for path in root.rglob("*") if path.is_file()):
        # The same size and time, but nothing that could be decoded.
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    same(first, load(root, cache))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="cannot be used"):
        load(root, cache)


def test_a_broken_image_is_found_every_time(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 12)
    (root / "red" / "bad.png").write_bytes(b"text")
    first, second = (load(root, tmp_path / "cache") for _ in range(2))
    same(first, second)
    assert [name for name, _ in second.unusable] == ["red/bad.png"]


def test_no_cache_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_images(tmp_path / "set", 5)
    (tmp_path / "file").write_text("in the way")
    remarks: list[str] = []
    expected = load(root, None)
    same(expected, load(root, tmp_path / "file" / "cache", remarks))
    assert len(remarks) == 1
    assert "not cached" in remarks[0]
    assert "not a directory" in remarks[0]

    usage = shutil.disk_usage(tmp_path)._replace(free=2 * 15 * 3 * 16 * 16 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    same(expected, load(root, tmp_path / "cache", remarks))
    assert len(remarks) == 2
    assert "GB are free" in remarks[1]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_that_fills_up_is_one_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path / "set", 12)
    written, calls = cache_module._write_at, []

    def full_after_twenty(file: object, offset: int, content: memoryview) -> None:
        calls.append(offset)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(file, offset, content)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module, "_write_at", full_after_twenty)
    remarks: list[str] = []
    expected = load(root, None)
    same(expected, load(root, tmp_path / "cache", remarks))
    assert len(remarks) == 1
    assert "no space left" in remarks[0]
    assert len(calls) == 21  # nothing is tried again
    monkeypatch.undo()
    same(expected, load(root, tmp_path / "cache"))


def test_runs_at_the_same_time_share_it(tmp_path: Path) -> None:
    root, cache = divided(tmp_path / "set", train=20), tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    others = [
        context.Process(target=load_after, args=(barrier.wait, root, cache)) for _ in range(2)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert len(list(cache.iterdir())) == 1
    same(load(root, None), load(root, cache))


def test_clean_removes_sets_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / f".{'b' * 64}.x_1").mkdir()  # a run was killed while it made one
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "1.jpg").write_text("mine")
    (tmp_path / ("c" * 64)).mkdir()
    (tmp_path / ("c" * 64) / "mine.txt").write_text("mine")
    sets, freed = clean_cache(tmp_path)
    assert sets == 2
    assert freed > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c" * 64, "holiday"]
    assert clean_cache(tmp_path / "nowhere") == (0, 0)


def test_threads_may_fill_one_cache(tmp_path: Path) -> None:
    """As where decoding falls back to threads: each row lands in its own place."""
    shape = (4000, 1, 8, 8)
    rows = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    cache = open_cache(tmp_path, "b" * 64, shape=shape, source="set")
    assert isinstance(cache, ImageCache)

    def fill(first: int) -> None:
        for row in range(first, len(rows), 8):
            cache.write(row, rows[row], bytes(32))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fill, range(8)))
    finally:
        sys.setswitchinterval(interval)
        cache.close()
    out = np.zeros(shape[1:], np.uint8)
    for row in range(len(rows)):
        assert cache.read(row, out) == bytes(32)
        np.testing.assert_array_equal(out, rows[row])
