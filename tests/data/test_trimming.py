"""What decoding is spared, and what bounds the rest: causes, not seconds."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mobilette.data import decoding
from mobilette.data.decoding import decode
from mobilette.data.formats import UnusableImage
from mobilette.data.plain import plain, turn_of
from mobilette.data.preprocess import Preprocess, Resize
from mobilette.data.trimming import MOST_PARTS, binary, trim
from mobilette.silence import NO_WARNINGS
from tests.data.test_decoding import GREY, RGB, chunk, encoded, heic, png

IMAGE = Image.fromarray(RGB)
JPEG, PNG, GIF = (encoded(IMAGE, kind) for kind in ("JPEG", "PNG", "GIF"))
GIF_HEAD = 13 + (2 << (GIF[10] & 7)) * 3
LONG = 300_000
LARGE = encoded(Image.new("L", (4200, 4200)), "PNG")
ROOT = Path(__file__).parents[2]


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def exif_block(entries: int, claimed: int) -> bytes:
    """An EXIF block each of whose entries claims ``claimed`` bytes from its beginning."""
    table = b"".join(struct.pack(">HHII", 1000 + n, 7, claimed, 8) for n in range(entries))
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", entries) + table


# Each is put where metadata stand, and none reaches Pillow.
JPEG_PARTS = {
    "fill bytes": b"\xff" * LONG,
    "escaped bytes": b"\xff\0" * 1000,
    "comments": segment(0xFE, bytes(60_000)) * 5,
    "profile": segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60_000)) * 5,
    "exif that claims much": segment(0xE1, exif_block(5000, 60_000)),
    "several exif": segment(0xE1, exif_block(5, 60)) * 50,
    "preview": segment(0xE2, b"MPF\0" + bytes(100)),
    "photoshop": segment(0xED, b"Photoshop 3.0\0" + bytes(60_000)),
}
PACKED = zlib.compress(bytes(10 * LONG))
PNG_PARTS = {
    "text": chunk(b"tEXt", b"a\0" + bytes(LONG)),
    "packed text": chunk(b"zTXt", b"a\0\0" + PACKED) * 200,
    "international text": chunk(b"iTXt", b"a\0\1\0\0\0" + PACKED) * 200,
    "profile": chunk(b"iCCP", b"a\0\0" + PACKED),
    "damaged text": chunk(b"zTXt", b"a\0\0no zip"),
    "frames": b"".join(chunk(b"fcTL", bytes(26)) for _ in range(1000)),
    "exif that claims much": chunk(b"eXIf", exif_block(5000, 60_000)[6:]),
}
GIF_PARTS = {
    "comments": b"!\xfe" + (b"\xff" + bytes(255)) * 1000 + b"\0",
    "small blocks": b"!\xfe" + b"\1c" * 60_000 + b"\0",
    "application": b"!\xff" + (b"\xff" + bytes(255)) * 1000 + b"\0",
    "noise": b"\1" * LONG,
}


@pytest.mark.parametrize(
    ("form", "data", "part"),
    [
        *(pytest.param("JPEG", JPEG[:2] + part + JPEG[2:], part, id=f"JPEG {name}")
          for name, part in JPEG_PARTS.items()),
        *(pytest.param("PNG", PNG[:33] + part + PNG[33:], part, id=f"PNG {name}")
          for name, part in PNG_PARTS.items()),
        *(pytest.param("PNG", PNG[:-12] + part + PNG[-12:], part, id=f"PNG at the end, {name}")
          for name, part in PNG_PARTS.items()),
        *(pytest.param("GIF", GIF[:GIF_HEAD] + part + GIF[GIF_HEAD:], part, id=f"GIF {name}")
          for name, part in GIF_PARTS.items()),
    ],
)  # fmt: skip
def test_metadata_do_not_reach_the_decoder(form: str, data: bytes, part: bytes) -> None:
    clean = {"JPEG": JPEG, "PNG": PNG, "GIF": GIF}[form]
    assert part in data
    assert trim(data, form)[0] == trim(clean, form)[0]
    assert decode(data).tobytes() == decode(clean).tobytes()


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("JPEG", JPEG[:2] + b"\xff\0" * (MOST_PARTS + 1) + JPEG[2:]),
        ("JPEG", JPEG[:2] + segment(0xFE, b"") * (MOST_PARTS + 1) + JPEG[2:]),
        ("PNG", PNG[:33] + chunk(b"IDAT", b"") * (MOST_PARTS + 1) + PNG[33:]),
        ("PNG", PNG[:33] + chunk(b"tEXt", b"") * (MOST_PARTS + 1) + PNG[33:]),
        ("GIF", GIF[:GIF_HEAD] + b"!\xfe" + b"\1c" * (MOST_PARTS + 1) + b"\0" + GIF[GIF_HEAD:]),
        ("GIF", GIF[:GIF_HEAD] + b"!\xfe\1c\0" * (MOST_PARTS + 1) + GIF[GIF_HEAD:]),
    ],
)
def test_parts_are_counted(form: str, data: bytes) -> None:
    with pytest.raises(UnusableImage, match="more than 65,536 parts"):
        trim(data, form)


@pytest.mark.parametrize("progressive", [True, False])
def test_scans_are_counted(progressive: bool) -> None:
    """Of a frame of 13,000 by 13,000 pixels; a scan of one component of a sequential one, too."""
    data = encoded(Image.new("RGB", (24, 20)), "JPEG", progressive=progressive)
    data = data.replace(b"\0\x14\0\x18", b"\x32\xc8\x32\xc8")
    start = data.rindex(b"\xff\xda")
    one = data[start:-2] if progressive else segment(0xDA, b"\1\1\0\0\x3f\0") + b"\0"
    trim(data, "JPEG")
    with pytest.raises(UnusableImage, match="scans of 169,000,000 pixels take too long"):
        trim(data[:start] + one * 20 + data[-2:], "JPEG")


def tiff(counts: int, length: int, *, tail: int) -> bytes:
    """A grey TIFF of ``counts`` strips, each of which claims ``length`` bytes from its start."""
    table = 8 + 2 + 9 * 12 + 4
    rows = [(256, 4, 1, 8), (257, 4, 1, counts), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    rows += [(273, 4, counts, table), (277, 3, 1, 1), (278, 4, 1, 1)]
    rows += [(279, 4, counts, table + 4 * counts)]
    head = b"II*\0" + struct.pack("<IH", 8, len(rows))
    head += b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4)
    offsets = struct.pack(f"<{counts}I", *[table + 8 * counts] * counts)
    return head + offsets + struct.pack(f"<{counts}I", *[length] * counts) + bytes(tail)


def test_strips_of_tiff_are_bounded() -> None:
    assert decode(tiff(50, 8, tail=8)).size == (8, 50)
    with pytest.raises(UnusableImage, match="70,000 strips or tiles"):
        decode(tiff(70_000, 8, tail=8))
    with pytest.raises(UnusableImage, match="its strips are longer than the file"):
        decode(tiff(1000, 100_000, tail=100_000))


def test_formats_that_are_decoded_in_python_are_short() -> None:
    with pytest.raises(UnusableImage, match="levels as text"):
        decode(b"P2 2000 1000 255\n" + b"12 " * 2_000_000)
    header = struct.pack("<IiiHHIIiiII", 40, 9, 9, 1, 8, 1, 0, 0, 0, 256, 256)
    coded = b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + header + bytes(1024)
    with pytest.raises(UnusableImage, match="run-length coded BMP"):
        decode(coded + b"\1\5" * 2_000_000)
    # Pillow decodes neither levels that it has to stretch nor long comments but in Python.
    assert (
        binary(b"P5 # c\n2 1 # " + b"c" * LONG + b"\n15\n\0\x0f", limit=0) == b"P5\n2 1 255\n\0\xff"
    )


@given(
    largest=st.integers(1, 65535).filter(lambda value: value not in (255, 65535)),
    colour=st.booleans(),
    plain=st.booleans(),
    seed=st.integers(0, 99),
)
def test_levels_are_stretched_as_pillow_stretches_them(
    largest: int, colour: bool, plain: bool, seed: int
) -> None:
    levels = np.random.default_rng(seed).integers(0, largest + 1, 30 * (3 if colour else 1))
    if plain:
        magic, body = b"P3" if colour else b"P2", b" ".join(b"%d" % level for level in levels)
    else:
        magic = b"P6" if colour else b"P5"
        body = levels.astype(">u2" if largest > 255 else "u1").tobytes()
    data = magic + b" 5 6 %d\n" % largest + body + b"\n" * plain
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = np.asarray(image)
    if largest > 255 and not colour:
        expected = (expected.astype(int) + 128) // 257
    np.testing.assert_array_equal(np.asarray(decode(data)), expected)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_how_it_is_turned_is_found_where_pillow_finds_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/>' % orientation
    text = b"\nexif\n%8d\n" % len(block) + block.hex().encode()
    turned = {
        "raw profile": PNG[:33]
        + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
        + PNG[33:],
        "xmp": PNG[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + PNG[33:],
        "packed xmp": PNG[:33]
        + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))
        + PNG[33:],
        "webp": encoded(IMAGE, "WEBP", lossless=True, exif=block),
        "webp xmp": encoded(IMAGE, "WEBP", lossless=True, xmp=xmp),
        "big-endian": PNG[:33]
        + chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0%c\0\0\0\0\0\0" % orientation)
        + PNG[33:],
    }
    for name, data in turned.items():
        with Image.open(io.BytesIO(data)) as image:
            assert image.getexif()[0x0112] == orientation, name
        turn = turn_of(block)
        expected = IMAGE if turn is None else IMAGE.transpose(turn)
        assert decode(data).tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_xmp_that_is_no_text_does_not_cost_the_image(kind: str) -> None:
    """As in github.com/huggingface/datasets/issues/7668."""
    xmp = b"\xa8\xff tiff:Orientation='9' \xfe" + bytes(range(256))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(encoded(IMAGE, kind, xmp=xmp, **options))
    assert found.tobytes() == decode(encoded(IMAGE, kind, **options)).tobytes()


@given(st.binary(max_size=80), st.sampled_from([b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0", b"MM"]))
def test_any_exif_block_is_read_without_an_error(rest: bytes, head: bytes) -> None:
    turn_of(head + rest, rest)


def test_exif_of_heic_and_avif_is_not_parsed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 5000
    data = encoded(IMAGE, "AVIF", exif=exif)
    for form, file in (("AVIF", data), ("HEIC", heic(IMAGE))):
        trimmed, _ = trim(file, form)
        assert len(trimmed) == len(file)
        assert b"Exif" not in trimmed[: trimmed.index(b"mdat")]
    # Turned by the container, as viewers do.
    assert decode(data).size == IMAGE.size[::-1]


RESIZES: tuple[Resize, ...] = ("crop", "squash", "pad")


@pytest.mark.parametrize("resize", RESIZES)
def test_grey_is_resized_before_it_becomes_three_channels(resize: Resize) -> None:
    """In a third of the memory, to the same pixels."""
    preprocess = Preprocess(mean=(9.0, 99.0, 199.0), std=(1.0,) * 3, resize=resize)
    for size in ((70, 50), (50, 70), (16, 16)):
        grey = Image.fromarray(GREY).resize(size)
        np.testing.assert_array_equal(
            preprocess.geometry(grey, 16), preprocess.geometry(grey.convert("RGB"), 16)
        )


MODES: dict[str, Callable[[], Image.Image]] = {
    "1": lambda: Image.fromarray(np.tile(GREY, (30, 30)) > 99),
    "P": lambda: Image.fromarray(np.tile(RGB, (30, 30, 1))).convert("P"),
    "I;16": lambda: Image.fromarray(np.tile(GREY, (30, 30)).astype(np.uint16) * 200),
    "I": lambda: Image.fromarray(np.tile(GREY, (30, 30)).astype(np.int32) * 200),
    "RGBA": lambda: Image.fromarray(np.tile(np.dstack([RGB, GREY]), (30, 30, 1))),
    "LA": lambda: Image.fromarray(np.tile(np.dstack([RGB, GREY]), (30, 30, 1))).convert("LA"),
    "CMYK": lambda: Image.fromarray(np.tile(RGB, (30, 30, 1))).convert("CMYK"),
}


@pytest.mark.parametrize("mode", list(MODES))
def test_bands_give_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = MODES[mode]()
    assert image.mode == mode
    whole = plain(image)
    monkeypatch.setattr("mobilette.data.plain._BAND", 270 * 7)
    assert plain(image).tobytes() == whole.tobytes()
    if mode == "P":
        image.info["transparency"] = image.getpixel((0, 0))
        banded = plain(image)
        monkeypatch.undo()
        assert banded.tobytes() == plain(image).tobytes()


def test_large_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_SMALL", 0)
    monkeypatch.setattr(decoding, "_AT_ONCE", 100)
    allowance, begun, together = decoding._Allowance(), threading.Event(), []
    with allowance.taking(90):

        def other() -> None:
            with allowance.taking(10):  # fits beside it
                together.append("small")
                begun.set()
            with allowance.taking(500):  # more than ever may be, so alone
                together.append("large")

        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(120)
        assert together == ["small"]
    thread.join(120)
    assert together == ["small", "large"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_decodes_though_a_thread_decoded_meanwhile() -> None:
    """The thread is not in the child, and what it held is held there for ever."""
    decoding_now = get_context("fork").Process(target=decode, args=(LARGE,), daemon=True)
    inside, started = threading.Event(), threading.Event()

    def other() -> None:
        with NO_WARNINGS:
            inside.set()
            started.wait(120)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(120)
    with decoding._ALLOWANCE._freed:
        decoding_now.start()
    started.set()
    thread.join()
    decoding_now.join(120)
    assert decoding_now.exitcode == 0


def test_a_image_that_does_not_fit_the_memory_is_unusable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = png(13_000, 13_000, 1, 0)
    monkeypatch.setattr(decoding, "available_memory", lambda: 300 * 10**6)
    with pytest.raises(UnusableImage, match="too large for the memory: 338 of 300 MB"):
        decode(data)
    assert decode(PNG).size == IMAGE.size


@pytest.mark.skipif(sys.platform != "linux", reason="a process' memory is limited here only")
def test_a_one_bit_image_of_169_million_pixels_takes_little_memory() -> None:
    """It took 1.1 GB; here it is decoded and resized in 450 MB beside what the process has."""
    code = """
import resource, sys, zlib
from tests.data.test_decoding import chunk, png
from mobilette.data.decoding import decode
from mobilette.data.plain import plain
from mobilette.data.preprocess import preset
packer = zlib.compressobj(1)
data = b"".join(packer.compress(bytes(1626)) for _ in range(13_000)) + packer.flush()
image = png(13_000, 13_000, 1, 0, chunk(b"IDAT", data))
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 450 * 10**6,) * 2)
print(preset("torch").geometry(decode(image), 32).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == "(3, 32, 32)", done.stderr[-500:]
