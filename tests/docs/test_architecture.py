"""The page "Architecture": its rooms, its JSON keys, its script."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mobilette
from docs.size import functions
from mobilette.artifact.directory import Artifact
from mobilette.cli.main import run
from mobilette.run.directory import Run
from tests.docs.commands import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
KEYS = {
    verb: keys
    for verb, keys in re.findall(
        r"^\| `([a-z ]+)` \| (.+) \|$", PAGE.partition("## JSON")[2], re.MULTILINE
    )
}


def test_the_table_of_rooms_has_every_folder() -> None:
    source = Path(mobilette.__file__).parent
    folders = {path.name for path in source.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert set(re.findall(r"^\| `(\w+)/` \|", PAGE, re.MULTILINE)) == folders


def test_every_named_file_is_there() -> None:
    source = Path(mobilette.__file__).parent
    for name in re.findall(r"`((?:[a-z_]+/)+[\w.]*)`", PAGE):
        homes = (source, source.parent, source / "formats", ROOT, ROOT / "tests")
        made_by_users = name.startswith(("runs/", "exports/"))
        assert made_by_users or any((home / name).exists() for home in homes), name


def keys_of(verb: str) -> set[str]:
    """Return the keys that the page's table gives for a verb."""
    named = " ".join(re.findall(r"`([^`]+)`", KEYS[verb].replace("`--budget`", "")))
    return set(re.findall(r"\w+", named))


def test_json_has_the_keys_of_the_table(
    exported: Artifact,
    trained: Run,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of verbs that train are compared by the test of the page "int8, pruning"."""
    artifact, data = str(exported.path), str(images)
    out = f"--out={tmp_path / 'features.csv'}"
    commands = {
        "models": ["models", "--budget", "madds<=10M", "--resolution", "32"],
        "cost": ["cost", "resnet8"],
        "cost conv": ["cost", "conv", "--kernel=3", "--in=8", "--out=8", "--size=8"],
        "audit": ["audit", data, f"--run={trained.path}", f"--out={tmp_path / 'audit'}"],
        "evaluate": ["evaluate", artifact, data],
        "explain": ["explain", str(trained.path), str(images / "red" / "0.png")],
        "embed": ["embed", str(trained.path), str(images / "red"), out],
        "predict": ["predict", artifact, str(images / "red" / "0.png")],
        "verify": ["verify", artifact, data],
        "weights list": ["weights", "list", "mobilenetv1_100"],
        "report": ["report", str(trained.path), f"--out={tmp_path / 'report.html'}"],
        "doctor": ["doctor"],
        "doctor run": ["doctor", str(trained.path)],
    }
    elsewhere = {"train", "quantize", "prune", "export", "bench"}
    elsewhere |= {"weights import", "fit", "serve", "push"}
    assert commands.keys() | elsewhere == KEYS.keys()
    for verb, arguments in commands.items():
        assert run([*arguments, "--json"]) == 0
        value = json.loads(capsys.readouterr().out.splitlines()[0])
        found = set(value[0] if isinstance(value, list) else value)
        assert found | ({"error"} if verb == "predict" else set()) == keys_of(verb), verb


def test_the_script_prints_the_size() -> None:
    printed = subprocess.run(
        [sys.executable, "docs/size.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(
        r"src: [\d,]+ lines in \d+ files\nPython: [\d,]+ lines in \d+ files\n"
        r"longest function: mobilette\.[\w.]+, \d+ lines\n",
        printed,
    )
    found = functions(ROOT / "docs" / "size.py", ROOT)
    assert {name.rpartition(".")[2] for _, name in found} == {"report", "lines", "functions"}
