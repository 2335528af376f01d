"""The page "Features": its command and its example, on real images and weights."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mobilette.cli.main import run
from tests.docs.commands import ROOT

PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")


def test_the_example_gives_the_pages_accuracies(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "mobilenet_v1_0.25_224_imagenet_keras.h5"
    if not (shared / "weights" / name).is_file() or not (shared / "data/flowers200").is_dir():
        pytest.skip("real weights and images are not there")
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(shared / "weights" / name)
    Path("flowers200").symlink_to(shared / "data" / "flowers200")
    commands = [line.strip() for line in PAGE.splitlines() if line.startswith("    mobilette ")]
    for command in commands[:2]:
        assert run(shlex.split(command)[1:]) == 0
    capsys.readouterr()
    code = PAGE.partition("```python\n")[2].partition("```")[0]
    exec(code, {})
    found = [float(line.rstrip("%")) for line in capsys.readouterr().out.split()]
    printed = [76.5, 68.5]
    assert all(f"{number}%" in PAGE for number in printed)
    assert found == pytest.approx(printed, abs=1.5)
