"""The README is run: its Python, its commands, its numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mobilette.arch.catalogue import FAMILIES, family_of, get_arch
from mobilette.counting.cost import cost

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_counts_is_what_cost_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|$", README, re.MULTILINE)
    printed = {name: (int(p.replace(",", "")), int(m.replace(",", ""))) for name, p, m in rows}
    counted = {name: cost(get_arch(name)) for name in printed}
    assert printed == {name: (c.params, c.madds) for name, c in counted.items()}
    without_row = {"ResNet for CIFAR"}  # at 224 pixels and 1,000 classes they say nothing
    assert {family_of(name) for name in printed} == FAMILIES.keys() - without_row


def test_the_totals_of_the_cost_example_are_what_it_prints() -> None:
    section = README.partition("## What a network costs")[2]
    arguments = re.findall(r"^    mobilette (cost .+)$", section, re.MULTILINE)[0].split()
    printed = subprocess.run(
        [sys.executable, "-m", "mobilette", *arguments], capture_output=True, text=True, check=True
    ).stdout
    totals = "\n".join(printed.splitlines()[-4:])
    indented = "\n".join(f"    {line}" for line in totals.splitlines())
    assert indented in README


def test_the_python_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = README.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    madds, passed, top1 = capsys.readouterr().out.split()
    assert int(madds) > 0
    assert passed == "True"
    assert 0 <= float(top1) <= 1


def test_the_commands_for_your_own_images_run_as_printed(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "path" / "to" / "images")
    (tmp_path / "some").mkdir()
    shutil.copy(images / "red" / "0.png", tmp_path / "some" / "image.jpg")
    section = README.partition("## Your own images")[2].partition("##")[0]
    commands = re.findall(r"^    (mobilette .+)$", section, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["train", "export", "verify", "predict"]
    for command in commands:
        line = command.replace("--time 10m", "--time 40s")
        line = line.replace("mobilette", f"{sys.executable} -m mobilette", 1)
        result = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
    assert "red" in result.stdout
