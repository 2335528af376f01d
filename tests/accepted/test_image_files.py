from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from mobilette.data.animated import is_animated
from mobilette.data.decoding import MAX_BYTES
from mobilette.data.sources import find_images, list_images
from mobilette.engines.answers import Prediction
from mobilette.engines.prediction_job import with_frames
from mobilette.errors import InputError
from tests.accepted.asking import COLOURS, ColourPredictor
from tests.accepted.page import Case, check, rows
from tests.data.test_decoding import chunk, png

ROOT = Path(__file__).parents[2]
RED = Image.new("RGB", (24, 20), COLOURS["red"])
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def heic(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer)
    return buffer.getvalue()


def ask(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return ColourPredictor().labels([folder / name])[0]


def are_red(*files: tuple[str, bytes]) -> Case:
    """Each is an image of a set, and of a folder given to `predict`, and red."""

    def case(folder: Path) -> None:
        for number, (name, data) in enumerate(files):
            assert ask(folder, name, data) == "red", name
            root = folder / f"set{number}"
            for label in ("a", "b"):
                (root / label).mkdir(parents=True)
                (root / label / name).write_bytes(data)
            found = find_images(root).splits["all"]
            assert [image.name for image in found] == [f"a/{name}", f"b/{name}"]
            assert list_images([root / "a"]) == [root / "a" / name]

    return case


def refused(*files: tuple[str, bytes]) -> Case:
    """Each is refused in the same words, is an image of a set, and unusable there."""

    def case(folder: Path) -> None:
        messages = []
        for name, data in files:
            with pytest.raises(InputError) as caught:
                ask(folder, name, data)
            messages.append(str(caught.value).partition(f"{name}: ")[2])
        assert len(set(messages)) == 1 or all("decoded here" in message for message in messages)
        raise InputError(messages[0])

    return case


def jpeg_with(part: bytes) -> bytes:
    data = encoded(RED, "JPEG")
    return data[:2] + part + data[2:]


def png_with(part: bytes) -> bytes:
    data = encoded(RED, "PNG")
    return data[:33] + part + data[33:]


def frames(kind: str, **options: object) -> bytes:
    others = [Image.new("RGB", RED.size, COLOURS[name]) for name in ("green", "blue")]
    return encoded(RED, kind, save_all=True, append_images=others, **options)


def turned(kind: str) -> bytes:
    """An image whose upper half is red once it is upright, else its left half."""
    image = Image.new("RGB", (40, 40), "white")
    image.paste(COLOURS["red"], (0, 0, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, kind, exif=exif)


def upright(folder: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        (folder / kind).write_bytes(turned(kind))
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    plain = turned("PNG")
    with Image.open(io.BytesIO(plain)) as image:
        data = encoded(image, "JPEG", exif=b"")
    (folder / "xmp").write_bytes(
        data[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + data[2:]
    )
    for path in folder.iterdir():
        predictor = ColourPredictor()
        predictor.labels([path])
        upper, lower = predictor.seen[0][1, :6].mean(), predictor.seen[0][1, -6:].mean()
        assert upper < 60 < 240 < lower, path.name


def with_heic(folder: Path) -> None:
    are_red(*((f"a.{ending}", heic(RED)) for ending in ("heic", "heif", "HIF", "jpg")))(folder)


def without_heic(folder: Path) -> None:
    """A process of its own, in which the package cannot be imported."""
    (folder / "a.heic").write_bytes(heic(RED))
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from tests.accepted.asking import ColourPredictor\n"
        "from mobilette.errors import InputError\n"
        f"try: ColourPredictor().predict([{str(folder / 'a.heic')!r}])\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    raise InputError(done.stdout.strip())


def levels(folder: Path) -> None:
    grey = np.full((20, 24), 100, np.uint16)
    deep = Image.fromarray(grey * 257)
    files = [encoded(deep, "PNG"), encoded(deep, "TIFF")]
    files += [b"P5 24 20 %d\n" % largest + grey.astype(">u2").tobytes() for largest in (300, 4095)]
    files += [b"P6 24 20 100\n" + bytes([40, 50, 60] * 480)]
    seen = []
    for number, data in enumerate(files):
        (folder / str(number)).write_bytes(data)
        predictor = ColourPredictor()
        predictor.labels([folder / str(number)])
        seen.append(predictor.seen[0][:, 0, 0].tolist())
    assert seen == [[100] * 3, [100] * 3, [85] * 3, [6] * 3, [102, 128, 153]]


def over_white(folder: Path) -> None:
    clear = RED.convert("RGBA")
    clear.putalpha(0)
    for kind in ("PNG", "WEBP", "TIFF"):
        (folder / kind).write_bytes(encoded(clear, kind))
        predictor = ColourPredictor()
        predictor.labels([folder / kind])
        assert predictor.seen[0].min() == 255


def sparse(folder: Path) -> None:
    with (folder / "a.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    ColourPredictor().labels([folder / "a.png"])


def no_memory(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilette.data.decoding.available_memory", lambda: 10**8)
        ask(folder, "a.png", png(13_000, 13_000, 1, 0))


def special(folder: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        os.mkfifo(folder / "pipe")
        assert list_images([folder]) == [folder / "pipe.jpg"]
    ColourPredictor().labels([folder / "pipe.jpg" if hasattr(os, "mkfifo") else folder])


def broken_link(folder: Path) -> None:
    (folder / "a.jpg").symlink_to(folder / "nothing.jpg")
    ColourPredictor().labels([folder / "a.jpg"])


def fill(root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(RED, "PNG"))


def folder_with_suffix(folder: Path) -> None:
    fill(folder, ("a/x.jpg/1.png", "b/1.png"))
    found = find_images(folder).splits["all"]
    assert [image.name for image in found] == ["a/x.jpg/1.png", "b/1.png"]


HIDDEN = (".x.jpg", "._x.jpg", "Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX/a/1.png")


def hidden(folder: Path) -> None:
    fill(folder / "set", ("a/1.png", "b/1.png"))
    fill(folder / "set" / "a", HIDDEN)
    fill(folder / "set", HIDDEN)
    found = find_images(folder / "set")
    assert found.classes == ("a", "b")
    assert len(found.splits["all"]) == 2
    assert found.ignored == ()
    skipped: list[Path] = []
    list_images([folder / "set"], on_skipped=lambda _, files: skipped.extend(files))
    assert skipped == []
    # As macOS writes tar: beside each file one that begins with "._".
    names = ("._1.png", "1.png", "._1.cls", "1.cls", "x/._2.png", "x/2.png", "x/._2.cls", "x/2.cls")
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for name in names:
            header = tarfile.TarInfo(name)
            data = encoded(RED, "PNG") if name.endswith("png") else b"%d" % ("x" in name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    shards = folder / "shards"
    shards.mkdir()
    (folder / "shard.tar").rename(shards / "shard.tar")
    found = find_images(shards)
    assert [image.name for image in found.splits["all"]] == [
        "shard.tar/1.png",
        "shard.tar/x/2.png",
    ]
    assert not found.unusable
    assert not found.ignored


def raw_beside(folder: Path) -> None:
    fill(folder, ("a/1.jpg", "b/1.png", "b/2.png"))
    for name in ("a/1.cr2", "a/1.psd", "b/2.exr"):
        (folder / name).write_bytes(b"8BPS" + bytes(99))
    found = find_images(folder)
    assert [image.name for image in found.splits["all"]] == ["a/1.jpg", "b/1.png", "b/2.png"]
    assert found.ignored == ("a/1.cr2", "a/1.psd", "b/2.exr")


def text_beside(folder: Path) -> None:
    fill(folder, ("a/1.png", "b/1.png"))
    (folder / "a" / "notes.txt").write_text("a cat")
    (folder / "a" / "1.xml").write_text("<annotation/>")
    assert find_images(folder).ignored == ("a/1.xml", "a/notes.txt")
    skipped: list[tuple[Path, list[Path]]] = []
    list_images([folder / "a"], on_skipped=lambda *told: skipped.append(told))
    assert skipped == [(folder / "a", [folder / "a" / "1.xml", folder / "a" / "notes.txt"])]


def test_a_folder_without_images_loses_no_others(tmp_path: Path) -> None:
    fill(tmp_path, ("a/1.png",))
    (tmp_path / "b").mkdir()
    skipped: list[tuple[Path, list[Path]]] = []
    found = list_images(
        [tmp_path / "b", tmp_path / "a"], on_skipped=lambda *told: skipped.append(told)
    )
    assert found == [tmp_path / "a" / "1.png"]
    assert skipped == [(tmp_path / "b", [])]
    with pytest.raises(InputError, match="no images in this folder"):
        list_images([tmp_path / "b"])


def animated(folder: Path) -> None:
    for suffix, kind in (("gif", "GIF"), ("webp", "WEBP"), ("apng", "PNG")):
        (folder / f"a.{suffix}").write_bytes(frames(kind))
        (folder / f"still.{suffix}").write_bytes(encoded(RED, kind))
    said = sorted(each.name for each in folder.iterdir() if is_animated(each))
    assert said == ["a.apng", "a.gif", "a.webp"]


def video(folder: Path) -> None:
    from tests.cli.test_video import FRAMES, write_video

    for name in ("a.mp4", "a.MOV", "a.webm"):
        path = write_video(folder / name, "libvpx-vp9" if name == "a.webm" else "mpeg4")
        answers = ColourPredictor().predict_each(with_frames([path], None))
        labels = [answer.label for answer in answers if isinstance(answer, Prediction)]
        assert labels == ["red"] * (FRAMES // 2) + ["blue"] * (FRAMES // 2)


def video_beside(folder: Path) -> None:
    fill(folder, ("a/1.png", "b/1.png"))
    (folder / "a" / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    assert find_images(folder).ignored == ("a/clip.mp4",)
    skipped: list[Path] = []
    list_images([folder / "a"], on_skipped=lambda _, files: skipped.extend(files))
    assert skipped == [folder / "a" / "clip.mp4"]


def address(folder: Path) -> None:
    ColourPredictor().labels(["https://example.org/cat.jpg"])


JPEG, PNG, WEBP = encoded(RED, "JPEG"), encoded(RED, "PNG"), encoded(RED, "WEBP")
KINDS = {kind: encoded(RED, kind) for kind in ("BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")}
DNG = encoded(RED, "TIFF", tiffinfo={50706: b"\1\4\0\0"})
PREVIEW = encoded(RED, "TIFF", tiffinfo={254: 1})
PADDING = jpeg_with(b"\xff" * 3_000_000)
COMMENTS = jpeg_with((b"\xff\xfe\xff\xff" + bytes(65533)) * 50)
TEXT = png_with(chunk(b"tEXt", b"parameters\0" + b"x" * 3_000_000))
ZIPPED = png_with(chunk(b"zTXt", b"a\0\0" + b"no zip"))
GIF = encoded(RED, "GIF")
GIF_HEAD = 13 + (2 << (GIF[10] & 7)) * 3
SCANS = encoded(RED, "JPEG", progressive=True)
SCANS = SCANS.replace(b"\0\x14\0\x18", b"\x32\xc8\x32\xc8")  # 13,000 by 13,000
SCANS = SCANS[:-2] + SCANS[SCANS.rindex(b"\xff\xda") : -2] * 20 + SCANS[-2:]
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"

CASES: dict[str, Case] = {
    "JPEG, PNG, BMP, GIF, TIFF, WebP, PBM, PGM, PPM, AVIF, JPEG 2000, TGA 2.0": are_red(
        ("a.jpg", JPEG),
        ("a.png", PNG),
        ("a.gif", encoded(RED, "GIF")),
        ("a.webp", WEBP),
        *((f"a.{name.lower()}", data) for name, data in KINDS.items()),
        ("a.jp2", encoded(RED, "JPEG2000", no_jp2=True)),
    ),
    "`.jfif`, `.jpe`, `.pnm`, `.mpo`, `.dib`, `.JPG`": are_red(
        ("a.jfif", JPEG),
        ("a.jpe", JPEG),
        ("a.pnm", KINDS["PPM"]),
        ("a.mpo", frames("MPO")),
        ("a.dib", KINDS["BMP"]),
        ("A.JPG", JPEG),
    ),
    "an image without a suffix, or with one that means nothing": are_red(
        ("cat", JPEG),
        ("cat.17", PNG),
        ("cat.jpg_large", JPEG),
        ("photo.jpg?w=640", WEBP),
        ("a.bin", KINDS["AVIF"]),
    ),
    "a JPEG called `.png`, a WebP called `.jpg`": are_red(("a.png", JPEG), ("a.jpg", WEBP)),
    "HEIC (`.heic`, `.heif`, `.hif`)": with_heic,
    "HEIC, and the extra is missing": without_heic,
    "animated GIF, WebP, PNG, AVIF; TIFF of several pages; MPO": are_red(
        *((f"a.{kind.lower()}", frames(kind)) for kind in ("GIF", "WEBP", "PNG", "AVIF")),
        ("a.tiff", frames("TIFF")),
        ("a.mpo", frames("MPO")),
    ),
    "an animated `.gif`, `.webp` or `.apng` for `predict`": animated,
    "a video (`.mp4`, `.mov`, `.webm` and so on) for `predict`": video,
    "a video in a set, or in a folder for `predict`": video_beside,
    "16 bits of grey (PNG, TIFF, PGM), and PGM and PPM of any largest value": levels,
    "CMYK, palettes, one bit": are_red(
        ("a.jpg", encoded(RED.convert("CMYK"), "JPEG")),
        ("a.tif", encoded(RED.convert("CMYK"), "TIFF")),
        ("a.png", encoded(RED.convert("P"), "PNG")),
        ("b.png", encoded(RED.convert("1"), "PNG")),  # grey: all equal, the first class
    ),
    "transparency": over_white,
    "EXIF or XMP that say how it is turned": upright,
    "a PNG with megabytes of text, a JPEG with megabytes of padding or comments": are_red(
        ("a.png", TEXT), ("b.png", ZIPPED), ("a.jpg", PADDING), ("b.jpg", COMMENTS)
    ),
    "JPEG XL, PSD, SVG, ICO, EPS, camera raw": refused(
        ("a.jxl", b"\xff\x0a" + bytes(99)),
        ("a.psd", b"8BPS" + bytes(99)),
        ("a.svg", SVG),
        ("a.ico", encoded(RED, "ICO")),
        ("a.jpg", EPS),
        ("a.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(99)),
    ),
    "one of these beside a JPEG of the same name": raw_beside,
    "DNG and other TIFF whose first image is a preview": refused(
        ("a.dng", DNG), ("a.tif", PREVIEW)
    ),
    "floating-point pixels": refused(
        ("a.tif", encoded(Image.new("F", (9, 9)), "TIFF")), ("a.ppm", b"Pf\n1 1\n-1.0\n" + bytes(4))
    ),
    "HTML, PDF, JSON or a video called `.jpg`": refused(
        ("a.jpg", b"<!DOCTYPE html><html>not found</html>"), ("b.jpg", b"\n<html>")
    ),
    "a file of Git LFS that was not fetched": refused(
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    ),
    "an empty file": refused(("a.jpg", b"")),
    "a file that ends early": refused(
        *((f"a.{kind}", encoded(NOISE, kind)[:-60]) for kind in ("PNG", "JPEG", "JPEG2000")),
    ),
    "more than 512 MiB": sparse,
    "more than 178,956,970 pixels": refused(
        ("a.png", png(14_000, 14_000, 1, 0, chunk(b"IDAT", b""))),
        ("a.gif", encoded(RED, "GIF").replace(b"\x18\0\x14\0", b"\0\x40\0\x40")),
        ("a.ppm", b"P4 14000 14000\n"),
    ),
    "more pixels than there is memory for": no_memory,
    "hundreds of thousands of parts before the pixels": refused(
        ("a.jpg", jpeg_with(b"\xff\xfe\0\2" * 70_000)),
        ("a.gif", GIF[:GIF_HEAD] + b"!\xfe" + b"\1c" * 70_000 + b"\0" + GIF[GIF_HEAD:]),
    ),
    "a progressive JPEG whose scans together have more than 2,147,483,648 pixels": refused(
        ("a.jpg", SCANS)
    ),
    "a broken link": broken_link,
    "a pipe, a socket or a device, whatever its name": special,
    "a folder called `x.jpg`": folder_with_suffix,
    "`.x.jpg`, `._x.jpg`, `Thumbs.db`, `desktop.ini`, `__MACOSX/`; such members of a tar shard": (
        hidden
    ),
    "a text beside the images": text_beside,
    "an address (`https://...`)": address,
}
ROWS = rows("Image files")


def test_every_row_is_run() -> None:
    assert list(ROWS) == list(CASES)


@pytest.mark.parametrize("given", list(CASES))
def test_row(given: str, tmp_path: Path) -> None:
    check(ROWS[given], CASES[given], tmp_path)
