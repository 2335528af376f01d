"""Names of files and classes that steer a terminal: shown escaped, in JSON as they are."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.artifact.directory import Artifact
from mobilette.cli.output import console, remarks
from mobilette.errors import InputError, visible
from mobilette.exporters.export import TARGETS
from mobilette.exporters.readme import readme
from mobilette.model.classes import read_classes
from mobilette.reporting.benchmark import draw, to_markdown
from mobilette.verification.benchmark import Benchmark, Latency, Row
from tests.accepted.asking import ColourPredictor
from tests.cli.test_cli import in_this_process

Capture = pytest.CaptureFixture[str]
CLEAR = "\x1b[2J\x1b]0;title\x07"
NAMES = [
    CLEAR,
    "[red]x[/nothing]",
    "a\u202etxt.exe",
    ":smile:",
    "crane\u2028crane",
    "\u0632\u0646\u200c\u0647\u0627",
]
posix = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="no file has such names here"
)


def is_plain(text: str) -> bool:
    """Whether ``text`` is lines that a terminal only shows."""
    return all(sign.isprintable() or sign in "\n\u200c\u200d" for sign in text)


@given(st.text())
def test_what_is_shown_is_one_line_without_signs_that_steer(text: str) -> None:
    shown = visible(text)
    assert not set(shown) & set("\x1b\x07\x00\r\n\t\u202e\u2028\udcff\x9b")
    shown.encode()
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CLEAR, r"\x1b[2J\x1b]0;title\x07"),
        ("a\nb\r\x85", r"a\nb\r\x85"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("a\u202e\u2066b", r"a\u202e\u2066b"),
        ("3\u202f45 p.m.", "3\u202f45 p.m."),  # a Mac's screenshots
        ("👩\u200d🔬 [red] ü", "👩\u200d🔬 [red] ü"),
    ],
)
def test_each_sign_has_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_consoles_take_nothing_for_markup(capsys: Capture) -> None:
    from rich.table import Table

    table = Table("name")
    for name in NAMES:
        table.add_row(name)
        console().print(name)
        remarks().print(name)
    console().print(table)
    said = capsys.readouterr()
    for name in NAMES:
        assert said.out.count(visible(name)) == 2
        assert visible(name) in said.err.splitlines()
    assert is_plain(said.out)
    assert is_plain(said.err)


@pytest.fixture
def hostile_run(run_copy: Path) -> Path:
    """Return a run whose classes have such names; line breaks and tabs no class can have."""
    path = run_copy / "classes.txt"
    ids = [label.id for label in read_classes(path)]
    names = [CLEAR, "[red]x[/nothing]", "a\u202e:smile:"]
    path.write_text("".join(f"{a}\t{b}\n" for a, b in zip(ids, names, strict=True)), "utf-8")
    return run_copy


@posix
def test_predict_shows_names_escaped_and_writes_them_whole(
    hostile_run: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    names = [os.fsdecode(b"\xff.png"), f"{CLEAR}.png", "a\nmobilette: error: b.png", "[red].png"]
    for name in names:
        shutil.copy(next(images.glob("red/*.png")), folder / name)
    (folder / f"{CLEAR}bad.png").write_bytes(b"no image")
    shown = in_this_process(capsys, "predict", hostile_run, folder)
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, len(names))
    assert len(shown.stderr.splitlines()) == 1
    assert is_plain(shown.stdout + shown.stderr)
    for name in names:
        assert f"{visible(name)}: " in shown.stdout
    assert r"\x1b[2J" in shown.stderr
    whole = in_this_process(capsys, "predict", hostile_run, folder, "--json")
    answers = [json.loads(line) for line in whole.stdout.splitlines()]
    assert {Path(answer["path"]).name for answer in answers if "error" not in answer} == set(names)
    labels = {guess["label"] for answer in answers for guess in answer.get("top", ())}
    assert labels == {CLEAR, "[red]x[/nothing]", "a\u202e:smile:"}
    assert whole.stdout.isascii()


def test_from_python_a_image_that_cannot_be_read_is_said_on_one_line() -> None:
    with pytest.raises(InputError) as caught:
        ColourPredictor().predict([f"a\n{CLEAR}.png"])
    assert str(caught.value).startswith(r"a\n\x1b[2J")
    assert is_plain(str(caught.value))


def test_evaluate_and_errors_show_names_escaped(
    hostile_run: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    odd = "[green]\x1b[2J\u202e"
    folder = Path(shutil.copytree(images, tmp_path / "set"))
    (folder / "green").rename(folder / odd)
    classes = hostile_run / "classes.txt"
    classes.write_text(classes.read_text("utf-8").replace("green", odd), "utf-8")
    shown = in_this_process(capsys, "evaluate", hostile_run, folder)
    assert shown.returncode == 0
    assert f"  {visible(odd)}: " in shown.stdout
    assert is_plain(shown.stdout + shown.stderr)
    refused = in_this_process(capsys, "cost", f"mobilenet{CLEAR}\udcff")
    assert refused.returncode == 2
    assert is_plain(refused.stderr)
    assert len(refused.stderr.splitlines()) == 1


def test_cost_of_a_run_whose_network_has_such_a_name(run_copy: Path, capsys: Capture) -> None:
    path = run_copy / "arch.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": f"a{CLEAR}\n=1+1"}))
    for options in ([], ["--csv"], ["--by-layer"]):
        shown = in_this_process(capsys, "cost", run_copy, *options)
        assert shown.returncode == 0
        assert is_plain(shown.stdout)
    rows = list(
        csv.DictReader(io.StringIO(in_this_process(capsys, "cost", run_copy, "--csv").stdout))
    )
    assert {row["network"] for row in rows} == {visible(f"a{CLEAR}\n=1+1")}
    counted = json.loads(in_this_process(capsys, "cost", run_copy, "--json").stdout)
    assert counted["name"] == f"a{CLEAR}\n=1+1"


def test_the_readme_of_an_artifact_has_no_line_that_a_name_made(exported: Artifact) -> None:
    contract = exported.contract
    arch = replace(contract.arch, name=f"a\n```python\nimport os\n```\n{CLEAR}")
    text = readme(replace(contract, arch=arch), TARGETS["onnx"])
    assert text.count("```python\n") == 1
    assert is_plain(text)


def test_the_image_of_a_benchmark_has_such_names(capsys: Capture) -> None:
    latency = Latency(median=1.0, p10=0.9, p90=1.1, n=10)
    rows = [
        Row(
            artifact=f"exports/{name}",
            target="onnx",
            precision="fp32",
            sha256="",
            size_bytes=1,
            verified=True,
            top1=0.5 + 0.1 * number,
            latency_ms=latency,
        )
        for number, name in enumerate(["$a_{$", f"<b>&{CLEAR}", "x|y\nz"])
    ]
    found = Benchmark(
        machine="m", threads=1, rounds=1, data="$\\frac{$\x1b", fastest=None, rows=tuple(rows)
    )
    ET.fromstring(draw(found, "svg"))
    table = to_markdown(found)
    assert is_plain(table)
    assert "x\\|y\\nz" in table
