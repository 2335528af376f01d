"""The script for a GPU: its cheap parts, on the CPU; all of it is `REHEARSE=1 bench/gpu.sh`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu import Report
from mobilette.training.recipe import load_recipe

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize(("phase", "mode"), [("speed", "captured+cudnn"), ("profile", "eager")])
def test_a_phase_says_what_it_found_as_json(tmp_path: Path, phase: str, mode: str) -> None:
    report = Report(tmp_path / "gpu.jsonl", within=300.0)
    words = ["--model=resnet8", f"--mode={mode}", "--batch=4", "--device=cpu"]
    words += ["--seconds=0"] if phase == "speed" else ["--steps=2"]
    report.run(phase, *words, limit=200.0, mode=mode)
    (line,) = map(json.loads, (tmp_path / "gpu.jsonl").read_text().splitlines())
    assert "failed" not in line, line
    assert line["mode"] == mode
    if phase == "speed":
        assert line["lowest"] <= line["images_per_second"] <= line["highest"]
        assert {"start_s", "device_s", "first_step_s", "until_steady_s"} <= line.keys()
    else:
        assert set(line["parts_ms"]) == {"augmentation", "forward", "backward", "optimiser"}
        assert line["kernels"]


def test_what_fails_is_a_line_too(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu.jsonl", within=300.0)
    report.run("speed", "--model=resnet8", "--mode=fast", limit=200.0, model="resnet8")
    report.run("speed", limit=1.0)
    first, second = map(json.loads, (tmp_path / "gpu.jsonl").read_text().splitlines())
    assert "mode 'fast'" in first["failed"]
    assert second["failed"] == "no time is left"
    assert report.failed == 2


def test_nothing_begins_when_the_time_is_over(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    done = subprocess.run(
        [BENCH / "gpu.sh", "--within=1", f"--out={out}"],
        capture_output=True,
        text=True,
        env=os.environ | {"REHEARSE": "1", "PYTHON": sys.executable, "CIFAR_ZIP": ""},
    )
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1] == lines[-1] | {"phase": "end", "rehearsed_on_cpu": True}
    assert all("failed" in one or "left_out" in one for one in lines[:-2])


def test_the_recipe_for_gpus_trains_without_graphs_until_a_gpu_has_shown_them_right() -> None:
    recipe = load_recipe("cifar_gpu")
    assert not recipe.graphs
    assert recipe.schedule == "one_cycle"
