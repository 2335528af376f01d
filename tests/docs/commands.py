"""The commands that a page shows with what they print."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def examples(page: str) -> list[tuple[str, str]]:
    """Return each command of a page with the lines shown below it."""
    return re.findall(r"```console\n\$ (.+?)\n(.*?)```", page, re.DOTALL)


def printed_by(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run ``python -m ...`` in this process: starting one takes longer than the commands."""
    program, dash_m, module, *arguments = command.split()
    assert (program, dash_m) == ("python", "-m")
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    runpy.run_path(str(ROOT / f"{module.replace('.', '/')}.py"), run_name="__main__")
    return capsys.readouterr().out
