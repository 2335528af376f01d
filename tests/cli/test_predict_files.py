"""Files of answers by ``mobilette predict --out``: their content, and jobs that go on."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.engines.answer_files import as_cell
from mobilette.run.directory import Run
from tests.cli.test_cli import Capture, assert_refused, in_this_process
from tests.cli.test_escapes import is_plain
from tests.cli.test_predict import Arguments, Lines, answers, names


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
    result = in_this_process(capsys, *asked, "--out", half, "--resume", "--threshold=0.9")
    assert f"{half}: the 5 answers before are as they were, whatever --top and" in result.stderr
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
        ("vast.jsonl", f'{{"path": "x", "top": [{{"label": "a", "probability": {"9" * 400}}}]}}\n'),
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


def test_a_path_that_no_file_can_have(exported: Artifact, photos: Path, capsys: Capture) -> None:
    """It is not compared; what is there goes on."""
    asked: Arguments = ["predict", exported.path, "photos", "--out=a.jsonl"]
    in_this_process(capsys, *asked)
    first, *others = read(Path("a.jsonl"))
    lines = [json.dumps(line) + "\n" for line in (first | {"path": "x" * 5_000}, *others)]
    Path("a.jsonl").write_text("".join(lines))
    resumed = in_this_process(capsys, *asked, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert names(read(Path("a.jsonl")))[4:] == [first["path"]]


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
