"""``mobilette predict`` on folders, patterns, lists and stdin."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.data.asked import asked_images
from mobilette.engines.answers import Prediction
from mobilette.engines.load import load
from tests.cli.test_cli import Capture, assert_refused, in_this_process
from tests.conftest import COLOURS

Lines = list[dict[str, object]]
Arguments = list[str | Path]


def answers(capsys: Capture, *arguments: str | Path) -> Lines:
    result = in_this_process(capsys, "predict", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def names(lines: Lines) -> list[str]:
    return [str(line["path"]) for line in lines]


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_folders_and_folders_in_them(exported: Artifact, photos: Path, capsys: Capture) -> None:
    whole = ["photos/[c].png", "photos/a.png", "photos/b.png", "photos/more/d.png"]
    assert names(answers(capsys, exported.path, "photos")) == whole
    assert names(answers(capsys, exported.path, "photos", "--recursive")) == whole
    assert names(answers(capsys, exported.path, "photos", "--no-recursive")) == whole[:3]


def test_patterns(exported: Artifact, photos: Path, capsys: Capture) -> None:
    found = names(answers(capsys, exported.path, "photos/?.png", "photos/**/d.png"))
    assert found == ["photos/a.png", "photos/b.png", "photos/more/d.png"]
    # A file of this name is no pattern, and one that matches nothing is a file that is missing.
    assert names(answers(capsys, exported.path, "photos/[c].png")) == ["photos/[c].png"]
    lines = answers(capsys, exported.path, "photos/*.gif", "photos/a.png")
    assert [line.get("error") for line in lines] == [
        "cannot be read: No such file or directory",
        None,
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_patterns_follow_no_links_round(photos: Path) -> None:
    """Folders that link to one another: each image once; a folder that is named is entered."""
    (photos / "more" / "up").symlink_to(photos)
    (photos / "here").symlink_to(".")
    (photos.parent / "link").symlink_to("photos")
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "a.png").touch()

    def found(pattern: str) -> list[str]:
        return [str(path) for path in asked_images([pattern], stdin=io.BytesIO())]

    whole = [f"photos/{name}" for name in ("[c].png", "a.png", "b.png", "more/d.png")]
    assert found("photos/**/*.png") == found("./**/*.png") == whole
    assert found("**/more/**/*.png") == ["photos/more/d.png"]
    assert found("link/**/?.png") == ["link/a.png", "link/b.png", "link/more/d.png"]
    assert found("photos/*/up/a.png") == ["photos/more/up/a.png"]
    assert found("photos/**/h*") == ["photos/**/h*"]


@pytest.mark.parametrize(
    "content",
    [
        "photos/b.png\nphotos/[c].png\nphotos/more\n",
        "\ufeffphotos/b.png\r\n\r\nphotos/[c].png\r\nphotos/more",
        "photos/b.png\0photos/[c].png\0photos/more\0",
    ],
)
def test_lists(
    content: str, exported: Artifact, photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("list.txt").write_bytes(content.encode())
    expected = ["photos/b.png", "photos/[c].png", "photos/more/d.png"]
    assert names(answers(capsys, exported.path, "@list.txt")) == expected
    give_stdin(monkeypatch, content.encode())
    assert names(answers(capsys, exported.path, "photos/a.png", "@-")) == [
        "photos/a.png",
        *expected,
    ]


def test_an_image_on_stdin(
    exported: Artifact, photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, (photos / "b.png").read_bytes())
    first, second, third = answers(capsys, exported.path, "photos/a.png", "-", "photos/b.png")
    assert (first["label"], second["path"], second["label"]) == ("red", "-", "blue")
    assert second["top"] == third["top"]
    give_stdin(monkeypatch, b"")
    result = in_this_process(capsys, "predict", exported.path, "-")
    assert (result.returncode, result.stderr) == (2, "-: empty file (0 bytes)\n")


def test_what_cannot_be_asked_for(
    exported: Artifact, photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty.txt").write_bytes(b"\n\n")
    give_stdin(monkeypatch, b"")
    for arguments, message in (
        (["-", "@-"], "stdin can be read once: give one of - and @-"),
        (["@none.txt"], "'@none.txt': the list cannot be read (no such file or directory)"),
        (["@photos"], "'@photos': the list cannot be read (is a directory)"),
        (["@empty.txt"], "'@empty.txt': no paths in the list; expected one a line"),
        (["@-"], "'@-': no paths in the list"),
        (["photos", "--resume"], "--resume goes on with a file; name it with --out"),
        (["photos", "--out=a.txt"], "the suffix '.txt' is not one of .jsonl, .csv, .parquet"),
        (["photos", "--out=a.parquet", "--resume"], "needs a file that grows: .jsonl or .csv"),
        (["photos", "--out=a.csv", "--resume", "--force"], "give one of them"),
        (["photos", "--out=no/a.csv"], "the folder no does not exist"),
    ):
        assert_refused(in_this_process(capsys, "predict", exported.path, *arguments), message)


def test_top_and_threshold(exported: Artifact, photos: Path, capsys: Capture) -> None:
    file = "photos/a.png"
    (whole,) = answers(capsys, exported.path, file)
    (one,) = answers(capsys, exported.path, file, "--top=1")
    assert isinstance(whole["top"], list)
    assert (len(whole["top"]), one["top"]) == (3, whole["top"][:1])
    best, second, _ = (guess["probability"] for guess in whole["top"])
    (some,) = answers(capsys, exported.path, file, f"--threshold={(best + second) / 2}")
    assert (some["label"], some["top"]) == ("red", whole["top"][:1])
    (none,) = answers(capsys, exported.path, file, f"--threshold={best + 1e-9}")
    assert (none["label"], none["answered"], none["reason"], none["top"]) == (
        "unknown",
        False,
        "below the threshold",
        whole["top"][:1],
    )
    said = in_this_process(capsys, "predict", exported.path, file, f"--threshold={best + 1e-9}")
    assert "unknown (below the threshold); perhaps red" in said.stdout
    said = in_this_process(capsys, "predict", exported.path, file, "--top=2")
    assert said.stdout.count("%") == 2


def test_images_that_are_odd(
    exported: Artifact, photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [Image.new("RGB", (20, 20), COLOURS[name]) for name in ("blue", "red")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save("moving.webp", save_all=True, append_images=frames[1:])
    frames[0].save("still.gif")
    png = io.BytesIO()
    frames[0].save(png, "PNG")
    head = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    head += struct.pack(">I", zlib.crc32(head))
    Path("vast.png").write_bytes(png.getvalue()[:12] + head + png.getvalue()[33:])
    files = ["moving.gif", "moving.webp", "still.gif", "vast.png", "photos/a.png"]
    result = in_this_process(capsys, "predict", exported.path, *files)
    assert result.returncode == 0
    assert [line.partition(" ")[0] for line in result.stdout.splitlines()] == [
        "moving.gif:",
        "moving.webp:",
        "still.gif:",
        "photos/a.png:",
    ]
    assert result.stdout.startswith("moving.gif: blue ")
    failed, animated = result.stderr.splitlines()
    assert failed == "vast.png: too many pixels (the limit is 178,956,970)"
    assert animated == (
        "2 images are animated; the first frame is looked at: moving.gif, moving.webp"
    )
    give_stdin(monkeypatch, Path("moving.gif").read_bytes())
    result = in_this_process(capsys, "predict", exported.path, "-")
    assert result.stderr == "1 image is animated; the first frame is looked at: -\n"


def test_from_python(exported: Artifact, photos: Path) -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    predictor = load(exported.path)
    (answer,) = predictor.predict_each([image], top=2, threshold=0.0)
    assert isinstance(answer, Prediction)
    assert len(answer.top) == 2
