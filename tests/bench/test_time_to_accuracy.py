"""The comparison with the plain loop runs, on a set and a time of nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.data.sets import divided

BENCH = Path(__file__).parents[2] / "bench" / "time_to_accuracy.py"


def test_ours_and_the_plain_loop_are_trained_and_compared(tmp_path: Path) -> None:
    data = divided(tmp_path / "set", train=70, val=10)
    curves = tmp_path / "curves.json"
    options = {"data": data, "time": "25s", "model": "mobilenet_v1", "width-mult": 0.25}
    options |= {"only": "ours,plain", "json": curves}
    done = subprocess.run(
        [sys.executable, str(BENCH), *(f"--{key}={value}" for key, value in options.items())],
        capture_output=True,
        text=True,
        # Its cache is empty, and compiling kernels may take longer than the time.
        env=os.environ | {"OMP_NUM_THREADS": "1", "CXX": "no-compiler"},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ratio: [\d.]+ \(plain\)$", done.stdout, re.MULTILINE), done.stdout
    for curve in json.loads(curves.read_text())["curves"]:
        assert curve["images"] > 0
        seconds, top1 = curve["points"][-1]
        assert seconds > 0
        assert 0 <= top1 <= 1
