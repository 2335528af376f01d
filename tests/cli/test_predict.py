"""``mobilette predict`` on folders, patterns, lists and stdin, and its files of answers."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.engines.answer_files import as_cell
from mobilette.engines.answers import Prediction
from mobilette.engines.load import load
from mobilette.run.directory import Run
from tests.cli.test_cli import Capture, assert_refused, in_this_process
from tests.cli.test_escapes import is_plain
from tests.conftest import COLOURS

Lines = list[dict[str, object]]
Arguments = list[str | Path]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of four images, one of them in a folder of its own; it is the current one."""
    for name, colour in (("a", "red"), ("b", "blue"), ("[c]", "green"), ("more/d", "red")):
        file = tmp_path / "photos" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), COLOURS[colour]).save(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


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


def read(file: Path) -> Lines:
    """Return the answers in a file: path, label and probability, or path and error."""
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    table = pytest.importorskip("pyarrow.parquet").read_table(file)
    rows: Lines = table.to_pylist()
    return rows


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_files_of_answers(suffix: str, exported: Artifact, photos: Path, capsys: Capture) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    (photos / "0 bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    expected = answers(capsys, exported.path, "photos")
    out = Path(f"answers{suffix}")
    result = in_this_process(capsys, "predict", exported.path, "photos", "--out", out)
    assert result.returncode == 0
    assert result.stdout.startswith(f"{out}: 5 answers, ")
    bad, *said = result.stderr.splitlines()
    assert bad == "1 of 5 images could not be read:"
    assert said == [f"  photos/0 bad.png: {expected[0]['error']}"]
    found = read(out)
    assert names(found) == names(expected)
    assert found[0]["error"] == expected[0]["error"]
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one["label"] == other["label"]
        assert float(str(one["probability"])) == pytest.approx(other["probability"], rel=1e-5)
    if suffix == ".jsonl":
        assert found == expected
    if suffix == ".parquet":
        assert [row["top"] for row in found[1:]] == [line["top"] for line in expected[1:]]
    assert not list(Path().glob(".answers*"))
    # It is not overwritten by accident, and is with --force.
    again = in_this_process(capsys, "predict", exported.path, "photos/a.png", "--out", out)
    assert_refused(again, f"{out}: exists; ", "--force")
    forced: Arguments = [
        "predict",
        exported.path,
        "photos/a.png",
        "--out",
        out,
        "--force",
        "--json",
    ]
    summary = json.loads(in_this_process(capsys, *forced).stdout)
    del summary["seconds"]
    assert summary == {"path": str(out), "images": 1, "unusable": 0, "before": 0}
    assert names(read(out)) == ["photos/a.png"]


def test_no_image_can_be_read(exported: Artifact, photos: Path, capsys: Capture) -> None:
    bad = [f"{number}.png" for number in range(7)]
    result = in_this_process(capsys, "predict", exported.path, *bad, "--out=a.jsonl")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "7 of 7 images could not be read:"
    assert result.stderr.splitlines()[-1] == "  and 2 more, all of them in the file"
    assert names(read(Path("a.jsonl"))) == bad


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_stopped_job_goes_on(
    suffix: str, exported: Artifact, photos: Path, capsys: Capture
) -> None:
    """After a half line, with what has come since, and an image that was asked for twice."""
    asked: Arguments = ["predict", exported.path, "photos", "photos/a.png"]
    out, half = Path(f"whole{suffix}"), Path(f"half{suffix}")
    in_this_process(capsys, *asked, "--out", out)
    whole = out.read_bytes()
    size = len(whole)
    for kept in (0, 3, size // 3, size // 2, size - 1, size):
        half.write_bytes(whole[:kept])
        result = in_this_process(capsys, *asked, "--out", half, "--resume", "--json")
        assert result.returncode == 0, result.stderr
        assert half.read_bytes() == whole
        counts = json.loads(result.stdout)
        assert counts["images"] + counts["before"] == 5
    Image.new("RGB", (9, 9)).save("photos/e.png")
    in_this_process(capsys, *asked, "--out", half, "--resume")
    assert half.read_bytes().startswith(whole)
    assert names(read(half))[5:] == ["photos/e.png"]


def test_what_is_not_gone_on_with(
    exported: Artifact, trained: Run, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    asked: Arguments = ["predict", exported.path, "photos", "--resume", "--out"]
    for name, content in (
        ("other.jsonl", "notes"),
        ("other.csv", "path,label\na.png,red\n"),
        ("number.jsonl", "5\n"),
        ("fields.jsonl", '{"path": "a", "top": 5}\n'),
        ("nested.jsonl", '{"path": "' + "[" * 10 + "\n"),
        ("list.jsonl", '{"path": "x", "seconds": []}\n'),
        ("top.csv", "path,seconds,label,probability,answered,reason,error,guess_1,probability_1\n"),
    ):
        Path(name).write_text(content)
        assert_refused(in_this_process(capsys, *asked, name), f"{name}: line 1 is not of")
        assert Path(name).read_text() == content
    # Another model's answers: the classes have changed places.
    in_this_process(capsys, "predict", exported.path, "photos", "--out=a.jsonl")
    other = shutil.copytree(trained.path, tmp_path / "other")
    lines = (other / "classes.txt").read_text().splitlines()
    (other / "classes.txt").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    before = Path("a.jsonl").read_bytes()
    refused = in_this_process(capsys, "predict", other, "photos", "--resume", "--out=a.jsonl")
    assert_refused(refused, "a.jsonl: written by another model: 'photos/[c].png' is 'green'")
    assert Path("a.jsonl").read_bytes() == before
    # The run that the artifact was made of is the same model.
    assert in_this_process(capsys, "predict", trained.path, *asked[2:], "a.jsonl").returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_job_goes_on(exported: Artifact, images: Path, tmp_path: Path) -> None:
    """Killed twice in the midst; in the end, each file has one whole line."""
    many, out = tmp_path / "many", tmp_path / "out.jsonl"
    many.mkdir()
    for number in range(3_000):
        (many / f"{number:04}.png").hardlink_to(images / "red" / "0.png")
    arguments = ["predict", str(exported.path), str(many), "--out", str(out), "--resume"]
    killed = 0
    for after in (64, 700):
        with subprocess.Popen([sys.executable, "-m", "mobilette", *arguments]) as process:
            while process.poll() is None:
                if out.exists() and out.read_bytes().count(b"\n") >= after:
                    process.kill()
                    process.wait()
            killed += process.returncode == -signal.SIGKILL
    assert killed == 2
    assert 64 <= len(out.read_bytes().splitlines()) < 3_000
    done = subprocess.run(
        [sys.executable, "-m", "mobilette", *arguments], capture_output=True, text=True, check=True
    )
    assert " were there before, " in done.stdout
    assert names(read(out)) == [str(many / f"{number:04}.png") for number in range(3_000)]
    assert out.read_bytes().endswith(b"\n")


def test_names_are_no_formulas_and_no_escapes(
    run_copy: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = ["=1+1.png", "+1.png", "-x.png", "@sum.png", "\t=1.png", "\x1b[2Jx.png", "'=1.png"]
    for name in hostile:
        Image.new("RGB", (9, 9)).save(tmp_path / name, "PNG")
    classes = run_copy / "classes.txt"
    ids = [line.partition("\t")[0] for line in classes.read_text().splitlines()]
    labels = ["=cmd|'/c calc'!A0", "\x1b]0;x\x07", "-label"]
    classes.write_text("".join(f"{a}\t{b}\n" for a, b in zip(ids, labels, strict=True)))
    given = [f"./{name}" if name[0] in "-@" else name for name in hostile]
    Path("list").write_text("\n".join(["@sum.png", *given]))
    arguments: Arguments = ["predict", run_copy, "@list", "--out"]
    result = in_this_process(capsys, *arguments, "a.csv")
    assert result.returncode == 0, result.stderr
    text = Path("a.csv").read_bytes().decode()
    assert is_plain(text.replace("\n", ""))
    rows = read(Path("a.csv"))
    assert len(rows) == 8
    assert [row["path"] for row in rows][:3] == ["'@sum.png", "'=1+1.png", "'+1.png"]
    cells = [str(cell) for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] and cell[0] in "=+-@\t\r"]
    assert {"'=cmd|'/c calc'!A0", r"\x1b]0;x\x07", "'-label"} >= {row["label"] for row in rows}
    # What is written so is known again.
    again = in_this_process(capsys, *arguments, "a.csv", "--resume", "--json")
    assert json.loads(again.stdout)["before"] == 8
    in_this_process(capsys, *arguments, "a.jsonl")
    assert names(read(Path("a.jsonl"))) == ["@sum.png", *given]  # JSON has escapes of its own


@pytest.mark.parametrize(
    ("text", "cell"),
    [("cat", "cat"), ("=1", "'=1"), ("\uff1d1", "'\uff1d1"), ("a=1", "a=1"), ("'x", "''x")],
)
def test_cells(text: str, cell: str) -> None:
    assert as_cell(text) == cell


def test_images_that_are_odd(exported: Artifact, photos: Path, capsys: Capture) -> None:
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


def test_from_python(exported: Artifact, photos: Path) -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    predictor = load(exported.path)
    (answer,) = predictor.predict_each([image], top=2, threshold=0.0)
    assert isinstance(answer, Prediction)
    assert len(answer.top) == 2
