"""The pages on int8, pruning, distillation and verification are run, with short trainings."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from mobilette.cli.main import run
from mobilette.run.directory import Run, open_run
from mobilette.verification.gate import LIMITS
from tests.conftest import write_images
from tests.docs.commands import ROOT
from tests.docs.test_architecture import keys_of

PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("smaller", "verification")
}
COMMANDS = [
    command
    for page in PAGES.values()
    for command in re.findall(r"^    mobilette (.+)$", page, re.MULTILINE)
]


def test_the_limits_of_the_table_are_those_of_the_gate() -> None:
    table = re.findall(
        r"^\| (fp32|fp16|bf16|int8) \| ([\d.]+)%", PAGES["verification"], re.MULTILINE
    )
    assert {precision: float(percent) for precision, percent in table} == {
        precision: round(100 * limits.agreement, 1) for precision, limits in LIMITS.items()
    }


def test_the_commands_run_as_printed(
    trained: Run,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, tmp_path / "path" / "to" / "images")
    write_images(tmp_path / "path" / "to" / "images", 40, seed=1)  # enough that it has not seen
    shutil.copytree(trained.path, tmp_path / "runs" / "mine")
    verbs = []
    for command in COMMANDS:
        verb, *arguments = shlex.split(command.replace("--time 5m", "--epochs 1"))
        if verb == "verify":
            assert run(["export", "runs/mine", "--to", "onnx"]) == 0
        capsys.readouterr()
        status = run([verb, *arguments, "--json"])
        # Whether int8 keeps an accuracy is no question of the page.
        assert status == 0 or (verb == "quantize" and status == 1), capsys.readouterr().err
        keys = keys_of(verb)
        if verb == "quantize":
            keys = keys - {"verify"} | keys_of("verify")
        assert set(json.loads(capsys.readouterr().out)) == keys
        verbs.append(verb)
    assert verbs == ["quantize", "prune", "train", "verify"]
    assert (tmp_path / "runs" / "half" / "pruning.png").exists()
    assert open_run(tmp_path / "runs" / "taught").classes == trained.classes
