"""A run that is killed at any moment ends as one that never was."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mobilette.run.directory import METRICS, STATE
from tests.training.runs import same_weights

KILLS = Path(__file__).with_name("kills.py")
OPTIONS = (
    "--model=mobilenet_v1",
    "--width-mult=0.25",
    "--resolution=16",
    "--batch-size=18",  # 5 steps an epoch
    # Everything that draws random numbers, and a state while most steps are under way.
    "--set=save_every=2",
    "--set=crop=resized",
    "--set=randaugment=9",
    "--set=colour_jitter=0.3",
    "--set=erasing=0.25",
    "--set=mixup=0.2",
    "--set=cutmix=1.0",
    "--set=start_resolution=0.5",
)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork are POSIX")
@pytest.mark.parametrize(
    ("loader", "workers", "threads", "kills", "epochs"),
    [("resident", 0, 1, 12, 17), ("streamed", 2, 2, 4, 6)],
)
def test_killed_at_random_moments(
    loader: str,
    workers: int,
    threads: int,
    kills: int,
    epochs: int,
    images: Path,
    tmp_path: Path,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, str(KILLS), str(images), str(whole), str(killed), str(kills)]
    more = [f"--epochs={epochs}", f"--set=loader={loader}"]
    more += [f"--workers={workers}", f"--threads={threads}"]
    done = subprocess.run(
        [*command, *OPTIONS, *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    places = json.loads(done.stdout)
    assert len(places) == kills
    assert len(set(places)) > kills // 3, places  # all over the run
    assert same_weights(whole, killed)
    assert same_state(whole / STATE, killed / STATE)
    assert without_times(whole / METRICS) == without_times(killed / METRICS)


def same_state(one: Path, other: Path) -> bool:
    """Whether network, average and optimiser of two states have the same bits."""
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    for part in ("network", "average"):
        assert first[part].keys() == second[part].keys()
        if not all(torch.equal(first[part][name], second[part][name]) for name in first[part]):
            return False
    momenta = [
        [each["momentum_buffer"] for each in state["optimizer"]["state"].values()]
        for state in (first, second)
    ]
    return all(torch.equal(*pair) for pair in zip(*momenta, strict=True))


def without_times(path: Path) -> list[dict[str, str]]:
    """Return the rows of a metrics.csv but for what depends on the clock."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]
