"""The page "Networks and budgets" is run: its table of counts and its commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mobilette.arch.catalogue import FAMILIES, family_of, get_arch
from mobilette.cli.main import run
from mobilette.counting.cost import cost
from tests.docs.commands import ROOT

PAGE = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")


def test_the_table_of_counts_is_what_cost_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    printed = {name: (int(p.replace(",", "")), int(m.replace(",", ""))) for name, p, m in rows}
    counted = {name: cost(get_arch(name)) for name in printed}
    assert printed == {name: (c.params, c.madds) for name, c in counted.items()}
    without_row = {"ResNet for CIFAR"}  # at 224 pixels and 1,000 classes they say nothing
    assert {family_of(name) for name in printed} == FAMILIES.keys() - without_row


def test_the_commands_run_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    mobilette (.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        assert run(shlex.split(command)) == 0, command
    assert (tmp_path / "shufflenet_v2.svg").exists()
    assert "~" in capsys.readouterr().out


def test_an_architecture_of_your_own_costs_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = PAGE.partition("## An architecture of your own")[2].partition("\n## ")[0]
    first, *printed = re.findall(r"```console\n\$ mobilette (.+?)\n((?:.+\n)*)```", section)
    monkeypatch.chdir(tmp_path)
    command, _, file = first[0].partition(" > ")
    assert run(shlex.split(command)) == 0
    Path(file).write_text(capsys.readouterr().out, encoding="utf-8")
    exec(re.findall(r"```python\n(.+?)```", section, re.DOTALL)[0], {})
    ((command, lines),) = printed
    assert run(shlex.split(command)) == 0
    assert lines in capsys.readouterr().out
