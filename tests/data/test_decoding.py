from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mobilette.data.decoding import MARGIN, MAX_BYTES, decode, decode_reduced
from mobilette.data.formats import UnusableImage
from mobilette.data.preprocess import Preprocess, Resize, preset

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (7, 9, 3), np.uint8)
GREY = RNG.integers(0, 256, (7, 9), np.uint8)
GREY16 = RNG.integers(0, 65536, (7, 9), np.uint16)
GREY16[0, :3] = (0, 65535, 257)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode(data))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_pixels_that_were_written(
    kind: str, options: dict[str, object]
) -> None:
    image = decode(encoded(Image.fromarray(RGB), kind, **options))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), RGB)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_grey_stays_grey(kind: str) -> None:
    image = decode(encoded(Image.fromarray(GREY), kind))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), GREY)


def test_jpeg_is_close() -> None:
    smooth = np.zeros((32, 32, 3), np.uint8)
    smooth[:, :, 0] = np.arange(32) * 8
    image = decode(encoded(Image.fromarray(smooth), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert abs(np.asarray(image).astype(int) - smooth).max() < 12
    assert decode(encoded(Image.fromarray(GREY), "JPEG")).mode == "L"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_one_bit_becomes_black_and_white(kind: str) -> None:
    bits = GREY > 127
    image = decode(encoded(Image.fromarray(bits), kind))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), bits * 255)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palettes_become_colours(kind: str) -> None:
    indices = (np.arange(63) % 4).astype(np.uint8).reshape(7, 9)
    colours = np.array([[255, 0, 0], [0, 255, 1], [3, 4, 255], [9, 9, 9]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(pixels(encoded(image, kind)), colours[indices])
    if kind in {"PNG", "GIF"}:
        colours[1] = 255
        found = pixels(encoded(image, kind, transparency=1))
        np.testing.assert_array_equal(found, colours[indices])


def test_palette_with_partial_alpha() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(bytes([0, 0, 0] * 3))
    found = pixels(encoded(image, "PNG", transparency=bytes([255, 128, 0])))
    assert found[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(kind: str) -> None:
    rgba = np.dstack([RGB, np.full((7, 9), 255, np.uint8)])
    rgba[0, :, 3] = 0
    rgba[1, :, 3] = 51
    options: dict[str, object] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decode(encoded(Image.fromarray(rgba), kind, **options))
    assert found.mode == "RGB"
    alpha = rgba[:, :, 3:] / 255
    expected = RGB * alpha + 255 * (1 - alpha)
    assert abs(np.asarray(found) - expected).max() <= 1
    np.testing.assert_array_equal(np.asarray(found)[2:], RGB[2:])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha_stays_grey(kind: str) -> None:
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    found = decode(encoded(image, kind))
    assert found.mode == "L"
    np.testing.assert_array_equal(np.asarray(found), np.where(alpha == 255, GREY, 255))


def test_palette_with_an_alpha_channel() -> None:
    image = Image.new("PA", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), (1, 255))
    image.putpixel((1, 0), (1, 0))
    assert pixels(encoded(image, "TIFF")).tolist() == [[[40, 50, 60], [255, 255, 255]]]


def test_a_transparent_colour_of_rgb_and_grey() -> None:
    colours = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    found = pixels(encoded(Image.fromarray(colours), "PNG", transparency=(1, 2, 3)))
    assert found.tolist() == [[[255, 255, 255], [4, 5, 6]]]
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert pixels(encoded(grey, "PNG", transparency=8)).tolist() == [[7, 255]]
    deep = Image.fromarray(np.array([[257 * 7, 257 * 8]], np.uint16))
    assert pixels(encoded(deep, "PNG", transparency=257 * 8)).tolist() == [[7, 255]]


def test_cmyk() -> None:
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:, :8] = (0, 255, 255, 0)  # red
    cmyk[:, 8:] = (255, 0, 0, 51)  # dark cyan
    image = Image.frombytes("CMYK", (16, 16), cmyk.tobytes())
    exact = pixels(encoded(image, "TIFF"))
    assert exact[0, 0].tolist() == [255, 0, 0]
    assert exact[0, 15].tolist() == [0, 204, 204]
    adobe = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in adobe  # such files store the inks inverted
    assert abs(pixels(adobe).astype(int) - exact).max() <= 3


def test_16_bits_are_scaled() -> None:
    expected = np.rint(GREY16 / 257)
    image = Image.fromarray(GREY16)
    for data in (encoded(image, "PNG"), encoded(image, "TIFF")):
        assert decode(data).mode == "L"
        np.testing.assert_array_equal(pixels(data), expected)
    pgm = b"P5\n9 7\n65535\n" + GREY16.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels(pgm), expected)
    as_integers = Image.fromarray(GREY16.astype(np.int32))
    np.testing.assert_array_equal(pixels(encoded(as_integers, "TIFF")), expected)


UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", list(UPRIGHT))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Blocks of 8 survive a JPEG almost unchanged.
    stored = RGB.repeat(16, axis=0).repeat(16, axis=1)
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "JPEG":
        options = {"quality": 100, "subsampling": 0}
    found = pixels(encoded(Image.fromarray(stored), kind, exif=exif, **options)).astype(int)
    expected = UPRIGHT[orientation](stored)
    assert found.shape == expected.shape
    assert abs(found - expected).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0rubbish, and more of it", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_a_damaged_exif_block_does_not_cost_the_image(block: bytes) -> None:
    jpeg = encoded(Image.fromarray(GREY), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    np.testing.assert_array_equal(pixels(jpeg[:2] + segment + jpeg[2:]), pixels(jpeg))
    # For WebP, unlike JPEG, Pillow raises where the block is first looked at.
    webp = encoded(Image.fromarray(RGB), "WEBP", lossless=True, exif=block)
    np.testing.assert_array_equal(pixels(webp), RGB)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options: dict[str, object] = {"save_all": True, "append_images": frames[1:]}
    if kind == "WEBP":
        options["lossless"] = True
    assert pixels(encoded(frames[0], kind, **options))[4, 4].tolist() == [255, 0, 0]


def test_a_file_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "an image 图片.png"
    path.write_bytes(encoded(Image.fromarray(RGB), "PNG"))
    np.testing.assert_array_equal(np.asarray(decode(path)), RGB)


def test_real_photographs(shared_data: Path) -> None:
    for path in sorted((shared_data / "imagenet-sample").glob("*.jpg"))[::100]:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(np.asarray(decode(path).convert("RGB")), expected)


LAB = encoded(Image.new("LAB", (4, 4)), "TIFF")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"empty file \(0 bytes\)"),
        (b"not an image at all\n", "not an image"),
        (b"%PDF-1.4\n", "not an image"),
        (encoded(Image.fromarray(RGB), "PNG")[:150], "truncated"),
        (encoded(Image.fromarray(RGB), "JPEG")[:-40], "truncated"),
        (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point"),
        (b"Pf\n1 1\n-1.0\n" + bytes(4), "floating-point"),
        (encoded(Image.fromarray(np.full((2, 2), -5, np.int32)), "TIFF"), "outside 0 to 65535"),
        (encoded(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"), "outside 0 to 65535"),
        (LAB, "colour mode LAB"),
        (encoded(Image.fromarray(RGB), "ICO"), "ICO is not decoded here"),
        (png(40_000, 40_000, 1, 0, chunk(b"IDAT", b"")), "too many pixels .*178,956,970"),
    ],
)
def test_unusable_images_have_a_plain_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableImage, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


def test_a_bad_checksum_is_damage() -> None:
    data = bytearray(encoded(Image.fromarray(RGB), "PNG"))
    data[data.index(b"IDAT") + 10] ^= 255
    with pytest.raises(UnusableImage, match="damaged"):
        decode(bytes(data))


def test_a_broken_chunk_is_damage() -> None:
    half = zlib.compress(bytes(1000))[:5]
    with pytest.raises(UnusableImage, match="damaged: broken PNG file"):
        decode(png(30, 30, 8, 0, chunk(b"IDAT", half), chunk(b"\0\0\0\0", b"")))


def test_a_large_image_is_fine_and_silent() -> None:
    width, height = 10_000, 9_000  # between Pillow's warning and its error
    packer = zlib.compressobj(1)
    row = bytes(1 + width // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    image = decode(png(width, height, 1, 0, chunk(b"IDAT", data)))
    assert image.size == (width, height)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnusableImage, match="No such file"):
        decode(tmp_path / "missing.png")
    with pytest.raises(UnusableImage, match="not a regular file"):
        decode(tmp_path)
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(2**40 if os.name == "posix" else MAX_BYTES + 1)  # sparse: uses no disk
    with pytest.raises(UnusableImage, match="limit is 512 MiB"):
        decode(huge)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnusableImage, match="not a regular file"):
        decode(tmp_path / "pipe.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.fromarray(RGB), "PNG"))
    path.chmod(0)
    with pytest.raises(UnusableImage, match="Permission denied"):
        decode(path)


def test_process_wide_settings_stay_as_they_are() -> None:
    data = encoded(Image.fromarray(RGB), "PNG")
    before = (list(warnings.filters), Image.MAX_IMAGE_PIXELS)
    threads = [threading.Thread(target=lambda: [decode(data) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == before


def heic(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=-1, chroma=444)
    return buffer.getvalue()


def small_files() -> dict[str, bytes]:
    image, grey, deep = (Image.fromarray(pixels) for pixels in (RGB, GREY, GREY16))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    return {
        "jpeg": encoded(image, "JPEG", exif=exif),
        "jpeg progressive": encoded(image, "JPEG", progressive=True),
        "jpeg cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "png": encoded(image, "PNG", exif=exif),
        "png palette": encoded(image.convert("P"), "PNG", transparency=3),
        "png 16": encoded(deep, "PNG"),
        "apng": encoded(image, "PNG", **frames),
        "gif": encoded(image, "GIF", transparency=0, **frames),
        "bmp": encoded(image, "BMP"),
        "bmp 1": encoded(image.convert("1"), "BMP"),
        "tiff": encoded(image, "TIFF", exif=exif),
        "tiff palette": encoded(image.convert("P"), "TIFF"),
        "tiff lzw": encoded(image, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(image, "TIFF", compression="jpeg"),
        "tiff fax": encoded(image.convert("1"), "TIFF", compression="group4"),
        "webp": encoded(image, "WEBP", exif=exif),
        "webp lossless": encoded(image.convert("RGBA"), "WEBP", lossless=True),
        "ppm": encoded(image, "PPM"),
        "pgm": encoded(grey, "PPM"),
        "pgm 12": b"P5 9 7 4095\n" + (GREY16 // 16).astype(">u2").tobytes(),
        "tga": encoded(image, "TGA", compression="tga_rle"),
        "jp2": encoded(image, "JPEG2000"),
        "jp2 stream": encoded(image, "JPEG2000", no_jp2=True),
        "avif": encoded(image, "AVIF", exif=exif),
        "heic": heic(image),
    }


SMALL_FILES = small_files()


@pytest.mark.parametrize("name", list(SMALL_FILES))
def test_no_cut_changes_a_pixel_unseen(name: str) -> None:
    data = SMALL_FILES[name]
    whole = decode(data).tobytes()
    unusable = 0
    for end in range(len(data)):
        try:
            assert decode(data[:end]).tobytes() == whole, f"cut at {end}"
        except UnusableImage:
            unusable += 1
    assert unusable > 30


@settings(max_examples=600, deadline=None)
@given(
    name=st.sampled_from(list(SMALL_FILES)),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=6),
    near_start=st.booleans(),
    end=st.one_of(st.none(), st.integers(0, 2**16)),
)
def test_damage_gives_a_image_or_a_reason(
    name: str, changes: list[tuple[int, int]], near_start: bool, end: int | None
) -> None:
    data = bytearray(SMALL_FILES[name])
    for position, value in changes:
        data[position % (min(64, len(data)) if near_start else len(data))] = value
    cut = bytes(data if end is None else data[: end % len(data)])
    try:
        image = decode(cut)
    except UnusableImage:
        return
    assert image.mode in {"RGB", "L"}
    assert np.asarray(image).size > 0


# JPEGs at reduced scale


def reduced(
    data: bytes, preprocess: Preprocess, resolution: int
) -> tuple[Image.Image, NDArray[np.uint8]]:
    image, full = decode_reduced(data, lambda size: preprocess.shrinking(size, resolution))
    return image, preprocess.geometry(image, resolution, full_size=full)


@settings(max_examples=60)
@given(
    width=st.integers(5, 80).map(lambda eighths: 8 * eighths) | st.integers(40, 700),
    height=st.integers(5, 80).map(lambda eighths: 8 * eighths) | st.integers(40, 700),
    resize=st.sampled_from(["crop", "squash", "pad"]),
    fraction=st.sampled_from([1.0, 0.875]),
    orientation=st.sampled_from([1, 3, 6, 8]),
    resolution=st.sampled_from([16, 24, 40]),
)
def test_reduced_scale_is_nearly_the_same_image(
    width: int, height: int, resize: Resize, fraction: float, orientation: int, resolution: int
) -> None:
    """A ramp to the right and one down: a shift or a stretch shows in every pixel."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    ramps = np.stack([across * 255 / width, down * 255 / height, 0 * across + 128.0], 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.rint(ramps).astype(np.uint8))
    data = encoded(image, "JPEG", quality=95, subsampling=0, exif=exif)
    preprocess = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3, resize=resize, crop_fraction=fraction)
    exact = preprocess.geometry(decode(data), resolution)
    small, rows = reduced(data, preprocess, resolution)
    assert np.abs(rows.astype(int) - exact).mean() < 1.0
    # It is never decoded to fewer pixels than the margin asks for.
    shrinking = preprocess.shrinking(image.size, resolution)
    scale = max(image.size) / max(small.size)
    assert shrinking / scale >= MARGIN - 0.1 or max(small.size) == max(image.size)


def test_a_large_jpeg_is_decoded_small_and_nothing_else() -> None:
    image = Image.fromarray(RNG.integers(0, 256, (640, 800, 3), np.uint8))
    preprocess = preset("torch")
    sizes = [
        reduced(encoded(image, "JPEG"), preprocess, resolution)[0].size
        for resolution in (40, 80, 160, 161)
    ]
    assert sizes == [(100, 80), (200, 160), (400, 320), (800, 640)]
    small, rows = reduced(encoded(image, "PNG"), preprocess, 40)
    assert small.size == (800, 640)
    np.testing.assert_array_equal(rows, preprocess.geometry(image, 40))


def test_a_reduced_jpeg_that_is_cut_off_is_truncated() -> None:
    data = encoded(Image.fromarray(RNG.integers(0, 256, (640, 800, 3), np.uint8)), "JPEG")
    with pytest.raises(UnusableImage, match="truncated"):
        decode_reduced(data[: len(data) // 2], lambda _: 20.0)
