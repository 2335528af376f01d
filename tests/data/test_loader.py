from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.images import Digest
from mobilette.data.loader import make_loader
from mobilette.data.opening import LoaderKind
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.data.splits import Split
from mobilette.data.workers import Decoder, Job, Outcome
from mobilette.errors import InputError
from mobilette.progress import SILENT, Reporter
from tests.conftest import write_images
from tests.data.sets import divided

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return divided(tmp_path_factory.mktemp("set"), train=40, val=10)


def load(
    root: Path,
    loader: LoaderKind = "streamed",
    *,
    digest: Digest | None = None,
    workers: int = 0,
    cache: Path | None = None,
    max_unusable: float = 0.1,
    remarks: list[str] | None = None,
) -> Dataset:
    return load_dataset(
        find_images(root),
        resolution=16,
        preprocess=preset("torch"),
        loader=loader,
        digest=digest,
        reading=Reading(workers=workers, cache=cache, max_unusable=max_unusable),
        reporter=SILENT if remarks is None else Reporter(remark=remarks.append),
    )


def order(count: int, size: int = 24) -> Sequence[Tensor]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(1)).split(size)  # type: ignore[no-any-return,no-untyped-call]


def epoch(split: Split, prefetch: int = 4) -> tuple[NDArray[np.uint8], list[int]]:
    """Return all pixels of an epoch's batches and the rows that they are said to be."""
    loader = make_loader(split, device=CPU, prefetch=prefetch)
    batches = list(loader.batches(order(len(split.names))))
    loader.close()
    for batch in batches:
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.is_contiguous()
        assert len(batch.pixels) == len(batch.rows)
    rows = torch.cat([batch.rows for batch in batches])
    return torch.cat([batch.pixels for batch in batches]).numpy(), rows.tolist()


@pytest.fixture
def before() -> set[threading.Thread]:
    """The threads of tests that ran earlier in this process."""
    return set(threading.enumerate())


def quiet(before: set[threading.Thread]) -> bool:
    """Whether no thread and no process of a loader is left, after they had time to go."""
    for _ in range(100):
        if not active_children() and set(threading.enumerate()) <= before:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 4), (1, 0), (2, 1), (2, 9)])
def test_both_loaders_give_the_same_bits(
    workers: int, prefetch: int, folder: Path, tmp_path: Path, before: set[threading.Thread]
) -> None:
    resident = load(folder, "resident", digest="names and sizes")
    expected, rows = epoch(resident.splits["train"])
    assert rows == torch.cat(list(order(80))).tolist()
    np.testing.assert_array_equal(expected, resident.splits["train"].pixels[:][rows])
    for _ in range(2):  # decoded, then from the cache
        streamed = load(folder, workers=workers, cache=tmp_path)
        assert streamed.fingerprint == resident.fingerprint
        assert [*streamed.splits] == ["train", "val"]
        for split in streamed.splits:
            assert streamed.splits[split].names == resident.splits[split].names
            np.testing.assert_array_equal(
                streamed.splits[split].labels, resident.splits[split].labels
            )
        found, streamed_rows = epoch(streamed.splits["train"], prefetch)
        assert streamed_rows == rows
        np.testing.assert_array_equal(found, expected)
    val = streamed.splits["val"].pixels
    np.testing.assert_array_equal(val[3:9], resident.splits["val"].pixels[3:9])
    assert val.shape == (20, 3, 16, 16)
    streamed.close()
    assert streamed.store is not None
    assert streamed.store.decoded == 20 - 14  # val was not read before; train was in the cache
    assert quiet(before)


def test_nothing_is_decoded_before_the_first_batch(
    folder: Path, tmp_path: Path, before: set[threading.Thread]
) -> None:
    dataset = load(folder, workers=2, cache=tmp_path)
    assert dataset.store is not None
    assert dataset.store.decoded == 0
    assert quiet(before)
    description = dataset.describe()
    assert description["digest"] == "names and sizes"
    assert description["loader"] == "streamed"
    assert description["duplicates"] is None


def test_a_flat_set_is_scanned_once_for_its_division(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 12)
    (root / "red" / "bad.png").write_bytes(b"text")
    resident = load(root, "resident")
    for expected in (37, 1):  # what cannot be used is tried again
        streamed = load(root, cache=tmp_path / "cache")
        assert streamed.store is not None
        assert streamed.store.decoded == expected
        assert streamed.describe() == resident.describe() | {"loader": "streamed"}
        for split, part in resident.splits.items():
            assert streamed.splits[split].names == part.names
            np.testing.assert_array_equal(streamed.splits[split].pixels[:], part.pixels[:])
        assert streamed.store.decoded == expected
        streamed.close()


def test_a_scan_that_fails_leaves_nothing_behind(
    tmp_path: Path, before: set[threading.Thread]
) -> None:
    root = write_images(tmp_path / "set", 12)
    for path in (root / "red").iterdir():
        path.write_bytes(b"text")
    with pytest.raises(InputError, match="12 of 36"):
        load(root, workers=2)
    assert quiet(before)


def test_without_a_cache_it_streams_all_the_same(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 6)
    streamed, resident = load(root), load(root, "resident")
    np.testing.assert_array_equal(epoch(streamed.splits["train"])[0].shape, (12, 3, 16, 16))
    np.testing.assert_array_equal(
        streamed.splits["val"].pixels[:], resident.splits["val"].pixels[:]
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_breaks_costs_that_image(workers: int, tmp_path: Path) -> None:
    root = divided(tmp_path / "set", train=12, val=6)
    remarks: list[str] = []
    dataset = load(root, workers=workers, remarks=remarks)
    names = dataset.splits["train"].names
    (root / names[5]).write_bytes(b"")
    (root / "val/cat/001.jpg").unlink()
    for _ in range(2):
        _, rows = epoch(dataset.splits["train"])
        assert sorted(rows) == [row for row in range(24) if row != 5]
    assert remarks == [f"{names[5]}: left out, empty file (0 bytes)"]
    assert dataset.unusable == ((names[5], "empty file (0 bytes)"),)
    assert dataset.splits["val"].usable().all()
    zeros = dataset.splits["val"].pixels[:]
    broken = [not pixels.any() for pixels in zeros]
    assert (dataset.splits["val"].usable() == ~np.array(broken)).all()
    assert sum(broken) == 1
    assert len(remarks) == 2
    assert "No such file" in remarks[1]
    recorded = dataset.describe()["unusable"]
    assert isinstance(recorded, list)
    assert len(recorded) == 2
    dataset.close()


def test_max_unusable_holds_as_the_run_goes_on(tmp_path: Path) -> None:
    root = divided(tmp_path / "set", train=12, val=6)
    dataset = load(root, max_unusable=0.05)  # 1.8 of 36
    for name in dataset.splits["train"].names[:2]:
        (root / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"2 of 36 .*--max-unusable allows"):
        epoch(dataset.splits["train"])


def test_auto_goes_by_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loader(device_memory: int | None = None, processes: int = 1) -> object:
        dataset = load_dataset(
            find_images(folder),
            resolution=16,
            preprocess=preset("torch"),
            device_memory=device_memory,
            processes=processes,
        )
        return dataset.describe()["loader"]

    train = 80 * 3 * 16 * 16
    assert loader() == "resident"
    assert loader(device_memory=2 * train) == "resident"
    assert loader(device_memory=2 * train - 1) == "streamed"
    both = 100 * 3 * 16 * 16
    monkeypatch.setattr("mobilette.data.machine.available_memory", lambda: 2 * both)
    assert loader() == "resident"
    assert loader(processes=2) == "streamed"  # each would hold its own
    monkeypatch.setattr("mobilette.data.machine.available_memory", lambda: 100_000)
    assert loader() == "streamed"
    with pytest.raises(InputError, match="would fit"):
        load(folder, "resident")
    with pytest.raises(InputError, match="would fit"):  # in memory already: nothing to stream
        load_dataset(find_images("digits"), resolution=32, preprocess=preset("torch"))


def test_digest_rules(folder: Path, tmp_path: Path) -> None:
    rules: tuple[Digest, ...] = ("decoded pixels", "files", "names and sizes")
    prints = {load(folder, "resident", digest=rule).fingerprint for rule in rules}
    assert len(prints) == 3
    for rule in rules:
        resident, streamed = (load(folder, kind, digest=rule) for kind in ("resident", "streamed"))
        assert streamed.fingerprint == resident.fingerprint
        assert streamed.splits["train"].names == resident.splits["train"].names
    flat = write_images(tmp_path / "set", 5)
    with pytest.raises(InputError, match="digest 'files' needs"):
        load(flat, digest="files")


def test_duplicates_across_splits_are_counted(tmp_path: Path) -> None:
    root = divided(tmp_path / "set", train=6, val=5)
    for name in ("a.jpg", "b.jpg"):
        (root / "val/cat" / name).write_bytes((root / "train/dog/000.jpg").read_bytes())
    remarks: list[str] = []
    dataset = load(root, "resident", remarks=remarks)
    assert dataset.describe()["duplicates"] == 2
    copies = {"in_train": {"val": ("val/cat/a.jpg", "val/cat/b.jpg")}}
    same = ("val/cat/a.jpg", "val/cat/b.jpg", "train/dog/000.jpg")
    described = dataset.describe()["copies"]
    assert isinstance(described, dict)
    assert described["in_train"] == copies["in_train"]
    assert [sorted(names) for names in described["in_classes"]] == [sorted(same)]
    assert remarks[0] == "2 images of val are also in train: val/cat/a.jpg, val/cat/b.jpg"
    assert remarks[1].startswith("1 images are in several classes: ")
    assert all(name in remarks[1] for name in same)
    assert load(root).copies is None
    assert load(root, digest="files").describe()["duplicates"] == 2
    assert load(root, "streamed").describe()["copies"] is None


def test_copies_of_val_in_test_are_named_and_many_are_cut_short(tmp_path: Path) -> None:
    root = divided(tmp_path / "set", train=6, val=5)
    for name in ("cat/a.jpg", "dog/b.jpg", "dog/c.jpg"):
        (root / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "test" / name).write_bytes((root / "val/cat/000.jpg").read_bytes())
    remarks: list[str] = []
    described = load(root, "resident", remarks=remarks).describe()["copies"]
    names = ("test/cat/a.jpg", "test/dog/b.jpg", "test/dog/c.jpg")
    assert described == {
        "in_train": {},
        "in_val": names,
        "in_classes": (("val/cat/000.jpg", *names),),
    }
    assert remarks == [
        f"3 images of test are also in val: {', '.join(names)}",
        f"1 images are in several classes: val/cat/000.jpg = {' = '.join(names[:2])} = ...",
    ]


def test_a_flat_image_in_two_classes_is_named(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 5)
    shutil.copy(root / "red/0.png", root / "blue/again.png")
    remarks: list[str] = []
    load(root, "resident", remarks=remarks)
    same = "(blue/again|red/0).png"
    assert re.search(f"several classes: {same} = {same}$", remarks[-1])


def test_a_killed_worker_costs_no_image(folder: Path, before: set[threading.Thread]) -> None:
    dataset = load(folder, workers=1)
    loader = make_loader(dataset.splits["train"], device=CPU, prefetch=1)
    batches = loader.batches(order(80, size=8))
    rows = next(batches).rows.tolist()
    for child in active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    rows += [row for batch in batches for row in batch.rows.tolist()]
    assert sorted(rows) == list(range(80))
    assert dataset.unusable == ()
    loader.close()
    assert quiet(before)


@dataclass(frozen=True, kw_only=True)
class DyingDecoder(Decoder):
    """Dies over one image, as a fault of a library in C would make it."""

    deadly: str

    def decode(self, job: Job, out: NDArray[np.uint8]) -> Outcome:
        if job.image.name == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(job, out)


def test_a_image_that_kills_its_decoder_costs_that_image(folder: Path) -> None:
    dataset = load(folder, workers=2)
    store = dataset.store
    assert store is not None
    store.decoder = DyingDecoder(
        preprocess=store.decoder.preprocess,
        resolution=store.decoder.resolution,
        of_pixels=store.decoder.of_pixels,
        deadly=store.images[3].name,
    )
    with closing(dataset):
        rows = epoch(dataset.splits["train"])[1]
        assert len(rows) == 79
        assert dataset.unusable == ((store.images[3].name, "the process that decoded it died"),)


def test_an_epoch_left_early_leaves_nothing_behind(
    folder: Path, before: set[threading.Thread]
) -> None:
    dataset = load(folder, workers=2)
    loader = make_loader(dataset.splits["train"], device=CPU, prefetch=5)
    batches = loader.batches(order(80, size=8))
    first = next(batches)
    del batches
    again = next(iter(loader.batches(order(80, size=8))))
    torch.testing.assert_close(first.pixels, again.pixels, rtol=0, atol=0)
    loader.close()
    loader.close()
    assert quiet(before)


SCRIPT = """
import signal
import sys
from pathlib import Path
from multiprocessing import active_children
from mobilette.data.dataset import load_dataset
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    dataset = load_dataset(find_images(Path(sys.argv[1])), resolution=16, loader="streamed",
                           reading=Reading(workers=2), preprocess=preset("torch"))
    while True:
        dataset.splits["train"].pixels[:]
        print(*(child.pid for child in active_children()), flush=True)
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.parametrize("by", ["SIGINT", "SIGKILL"])
def test_no_process_outlives_its_run(by: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, tmp_path / "script.py", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        children = [int(pid) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        if by == "SIGINT":  # as a terminal sends it: to all of them
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.kill()
        _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert stderr.count("Traceback") == (1 if by == "SIGINT" else 0), stderr
    for _ in range(2400):
        if not any(is_running(pid) for pid in children):
            return
        time.sleep(0.05)
    pytest.fail(f"still there: {children}")
