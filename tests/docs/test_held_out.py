"""The page "Held out means held out" is run, with short trainings."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from mobilette.cli.main import run
from mobilette.run.directory import Run
from tests.conftest import write_images
from tests.docs.commands import ROOT

PAGE = (ROOT / "docs" / "held_out.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    mobilette (.+)$", PAGE, re.MULTILINE)
SMALL = "--model mobilenet_v1 --width-mult 0.25 --resolution 16 --epochs 1 --workers 0"


def test_the_commands_run_as_printed(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in sorted(write_images(tmp_path / "flat", 10).rglob("*.png")):
        target = tmp_path / "path" / "to" / "images" / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        number = int(path.stem)
        path.rename(target / f"burst{number // 2}_{number % 2:02}.png")
    shutil.copytree(trained.path, tmp_path / "runs" / "mine")
    for command in COMMANDS:
        assert run(shlex.split(command.replace("--epochs 20", SMALL))) == 0, command
    assert [command.split()[0] for command in COMMANDS].count("train") == 3
    assert (tmp_path / "runs" / "folds" / "predictions.csv").exists()
