"""The README is run: its Python, its commands, its numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mobilette
from mobilette.counting.budget import parse_budget
from mobilette.exporters.export import TARGETS
from tests.conftest import write_images

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^    (.+)$", README, re.MULTILINE)
COMMANDS = [line for line in BLOCKS if line.startswith("mobilette ")]
# What a test has no time for; every other word is run as printed. A time would be used up, whatever
# the machine, and be too short on one that is busy; that it is obeyed is tested in tests/training,
# what `fit` does in tests/workflows.
SHORTER = {
    "--time 5m": "--epochs 2",
    "--to all": "--to onnx --precision fp32 --rounds 1",
    "--time 3m": "--time 1s",
}


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 160


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


def test_the_commands_run_in_order_as_printed(tmp_path: Path) -> None:
    write_images(tmp_path / "path" / "to" / "images", 40)
    (tmp_path / "some").mkdir()
    shutil.copy(
        tmp_path / "path" / "to" / "images" / "red" / "0.png", tmp_path / "some" / "image.jpg"
    )
    verbs = [command.split()[1] for command in COMMANDS]
    assert verbs == ["fit", "train", "export", "verify", "predict", "bench", "cost", "models"]
    printed = {}
    for verb, command in zip(verbs, COMMANDS, strict=True):
        line = command.replace("mobilette", f'"{sys.executable}" -m mobilette', 1)
        for long, short in SHORTER.items():
            line = line.replace(long, short)
        result = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        if verb == "fit":
            assert result.returncode == 2
            assert "1s is too short to train and prove" in result.stderr
            continue
        assert result.returncode == 0, result.stderr
        printed[verb] = result.stdout
    assert "red" in printed["predict"]
    for total in ("1,968,680", "50.18M", "1.99 MB"):
        assert total in README
        assert total in printed["cost"]
    best, rest = printed["models"].splitlines()[1:3]
    accuracies = [float(re.findall(r"([\d.]+) %", line)[0]) for line in (best, rest)]
    assert accuracies == sorted(accuracies, reverse=True)
    written = {path.name for path in (tmp_path / "exports" / "mine").iterdir()}
    assert written >= {"bench.json", "bench.md", "bench.svg", "onnx"}
    for name in ("model.onnx", "labels.txt", "contract.json"):
        assert f"`{name}`" in README
        assert (tmp_path / "exports" / "mine" / "onnx" / name).exists()


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_the_make_targets_are_there_and_no_line_is_left_unrun() -> None:
    others = [line for line in BLOCKS if line not in COMMANDS]
    targets = [line.split()[1] for line in others if line.startswith("make ")]
    assert targets == ["demo", "test", "install"]
    subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, check=True)
    assert others[len(targets) :] == ["source .venv/bin/activate"]


def test_the_budget_of_the_fit_is_one() -> None:
    (budget,) = re.findall('mobilette fit .* --budget "(.+?)"', README)
    assert [term.quantity for term in parse_budget(budget)] == ["size", "latency"]


def test_the_counts_and_names_of_the_text_are_true() -> None:
    assert f"{len(mobilette.list_models())} light networks" in README
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \| .+ \|$", README, re.MULTILINE)
    assert sorted(rows) == sorted(TARGETS)


def test_every_verb_is_in_the_table() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "mobilette", "--help"], capture_output=True, text=True, check=True
    ).stdout
    verbs = set(re.findall(r"^  (\w+)  +\w", help_text.partition("Commands:")[2], re.MULTILINE))
    assert verbs == set(re.findall(r"^\| `(\w+) ?[^|]*` \| .+ \|$", README, re.MULTILINE)) - set(
        TARGETS
    )


def test_every_link_leads_to_a_file() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", README):
        assert (ROOT / link).exists(), link
