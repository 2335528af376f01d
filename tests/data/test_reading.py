from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.data.images import LabelledImage, pixel_sha256
from mobilette.data.machine import available_memory
from mobilette.data.preprocess import preset
from mobilette.data.reading import Decoded, Reading, read_images
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.progress import Reporter


def in_memory(count: int) -> list[LabelledImage]:
    return [
        LabelledImage(name=f"set/{n}", label=0, content=np.full((4, 4), n, np.uint8))
        for n in range(count)
    ]


def test_pixel_hash_is_over_mode_size_and_pixels() -> None:
    image = Image.new("L", (2, 3), 7)
    assert pixel_sha256(image) == hashlib.sha256(b"L 2 3 " + bytes([7] * 6)).hexdigest()
    assert pixel_sha256(image) != pixel_sha256(Image.new("L", (3, 2), 7))
    assert pixel_sha256(image) != pixel_sha256(image.convert("RGB"))


def test_unusable_images_leave_no_gap(tmp_path: Path) -> None:
    images = in_memory(9)
    (tmp_path / "bad.png").write_bytes(b"")
    for position in (0, 4, 8):
        images[position] = LabelledImage(
            name=f"bad{position}", label=0, content=tmp_path / "bad.png"
        )
    reading = read_images(
        images,
        resolution=4,
        preprocess=preset("torch", in_channels=1),
        reading=Reading(workers=0, max_unusable=0.5),
    )
    assert reading.positions.tolist() == [1, 2, 3, 5, 6, 7]
    assert reading.pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 5, 6, 7]
    assert reading.pixels.shape == (6, 1, 4, 4)
    assert reading.pixels.flags.c_contiguous
    assert len(reading.digests) == 6
    assert reading.unusable == tuple((f"bad{n}", "empty file (0 bytes)") for n in (0, 4, 8))


def test_too_many_unusable(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    images = in_memory(10)
    images[6] = LabelledImage(name="set/bad.png", label=0, content=tmp_path / "bad.png")

    def read(max_unusable: float) -> Decoded:
        return read_images(
            images,
            resolution=4,
            preprocess=preset("torch"),
            reading=Reading(workers=0, max_unusable=max_unusable),
        )

    assert len(read(0.1).positions) == 9
    message = r"1 of 10 images .* 0.09 that --max-unusable .* set/bad.png: not an image"
    with pytest.raises(InputError, match=message):
        read(0.09)
    with pytest.raises(InputError, match=r"--max-unusable 1\.5"):
        read(1.5)


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    read_images(
        in_memory(130),
        resolution=4,
        preprocess=preset("torch"),
        reporter=Reporter(reading=lambda done, total: seen.append((done, total))),
    )
    assert seen == [(64, 130), (128, 130), (130, 130)]


def test_what_does_not_fit_the_memory_is_refused_before_it_is_tried() -> None:
    available = available_memory()
    if available is None:
        pytest.skip("this system does not tell how much memory it has")
    assert 1e8 < available < 1e14
    with pytest.raises(InputError, match=r"GB .*--resolution \d+ would fit") as caught:
        read_images(in_memory(100), resolution=1_000_000, preprocess=preset("torch"))
    assert "need 300000.0 GB" in str(caught.value)
    fits = int(str(caught.value).split("--resolution ")[1].split()[0])
    assert 0.4 * available < 100 * 3 * fits**2 < 0.8 * available


@pytest.mark.skipif(sys.platform != "linux", reason="control groups")
@pytest.mark.parametrize(
    ("names", "cached"),
    [
        (("memory.max", "memory.current"), "inactive_file 300\nactive_file 5"),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
            "inactive_file 7\ntotal_inactive_file 300",
        ),
    ],
)
def test_a_container_has_what_its_limit_leaves(
    names: tuple[str, str], cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilette.data.machine.CONTROL_GROUPS", tmp_path)
    of_the_machine = available_memory()
    assert of_the_machine is not None
    limit, used = (tmp_path / name for name in names)
    limit.parent.mkdir(exist_ok=True)
    used.write_text("900\n")
    (limit.parent / "memory.stat").write_text(cached)
    limit.write_text("max\n")
    free = available_memory()
    assert free is not None
    assert free > of_the_machine / 2
    limit.write_text("1000\n")
    assert available_memory() == 400


def test_processes_give_the_same_as_none(tmp_path: Path, shared_data: Path) -> None:
    found = find_images(shared_data / "cifar10-4k")
    images = list(found.splits["val"][:600])
    (tmp_path / "bad.png").write_bytes(b"text")
    images[100] = LabelledImage(name="bad.png", label=0, content=tmp_path / "bad.png")
    seen: list[int] = []
    alone, together = (
        read_images(
            images,
            resolution=16,
            preprocess=preset("torch"),
            reading=Reading(workers=workers),
            reporter=Reporter(reading=lambda done, total: seen.append(done)),
        )
        for workers in (0, 2)
    )
    np.testing.assert_array_equal(alone.pixels, together.pixels)
    np.testing.assert_array_equal(alone.positions, together.positions)
    assert alone.digests == together.digests
    assert alone.unusable == together.unusable
    assert seen == [64, 128, 192, 256, 320, 384, 448, 512, 576, 600] * 2
