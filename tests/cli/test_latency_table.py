"""`mobilette bench --table`, and budgets that need its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobilette.counting.latency import read_latency_table
from mobilette.verification import latency_table
from tests.cli.test_cli import Capture, assert_refused, in_this_process


@pytest.fixture(autouse=True)
def _few_networks_and_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One small network, because a whole table takes a minute."""
    monkeypatch.setattr(latency_table, "REFERENCES", (("resnet8", 0.25, 32),))
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))


def test_a_table_is_made_kept_and_used(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "here.json"
    made = in_this_process(capsys, "bench", "--table", "onnx", "--precision=int8", "--out", out)
    assert made.returncode == 0, made.stderr
    assert "layers of onnx" in made.stdout
    assert "in int8, 1 thread, on" in made.stdout
    table = read_latency_table(out)
    assert table.precision == "int8"

    budget = f"madds<=10M, latency<=1s@{out}, latency<=1s@onnx"
    options = ("--resolution=32", "--json")
    listed = in_this_process(capsys, "models", "resnet8", "--budget", budget, *options)
    assert listed.returncode == 0, listed.stderr
    for row in json.loads(listed.stdout):
        assert row["latency_ms"][str(out)] == row["latency_ms"]["onnx"] > 0
    shown = in_this_process(capsys, "models", "resnet8", "--budget", budget, "--resolution=32")
    assert " ms" in shown.stdout
    none = in_this_process(capsys, "models", "resnet8", "--budget", f"latency<=1us@{out}")
    assert none.returncode == 1
    assert "predicted" in none.stderr

    again = in_this_process(capsys, "bench", "--table", "onnx", "--out", out)
    assert_refused(again, f"{out}: exists")
    other = in_this_process(
        capsys, "models", "--budget", f"latency<=1s@{out}", "--precision", "fp32"
    )
    assert_refused(other, "the latency table is of int8, not fp32")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ("give artifacts, runs or folders of them, or --table ENGINE",)),
        (["--table", "onx"], ("'onx' is not one of onnx, litert", "did you mean 'onnx'?")),
        (["--table", "onnx", "--precision", "fp16"], ("'fp16' is not one of fp32, int8",)),
        (["--table", "onnx", "--threads", "500"], ("--threads 500: only",)),
        (["--table", "onnx", "--data", "digits"], ("not --data; leave it out",)),
        (["--table", "onnx", "a_run"], ("not ARTIFACT; leave it out",)),
        (["--table", "onnx", "--out", "folder"], ("a latency table is a .json file",)),
    ],
)
def test_bench_refuses(arguments: list[str], parts: tuple[str, ...], capsys: Capture) -> None:
    assert_refused(in_this_process(capsys, "bench", *arguments), *parts)


@pytest.mark.parametrize(
    ("budget", "part"),
    [
        ("latency<=1ms@onnx", "'mobilette bench --table onnx --precision int8' makes it"),
        ("latency<=1ms@missing.json", "missing.json: no such file"),
        ("latency<=1ms@openvino", "'openvino' is not one of onnx, litert"),
        ("latency<=1ms@onxn", "did you mean 'onnx'?"),
        ("top1>=90%", "accuracy depends on the images: mobilette fit"),
    ],
)
def test_models_refuses(budget: str, part: str, capsys: Capture) -> None:
    assert_refused(in_this_process(capsys, "models", "--budget", budget), part)
