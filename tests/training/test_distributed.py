"""Several processes train one network, started by torchrun as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mobilette.folders import BusyError
from mobilette.run.directory import STATE, open_run
from mobilette.workflows.resume import resume
from tests.training.runs import same_weights
from tests.training.test_train import run_cli

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torchrun with gloo, and signals")

OPTIONS = (
    "--model=mobilenet_v1",
    "--width-mult=0.25",
    "--resolution=16",
    "--epochs=3",
    "--batch-size=16",
    "--threads=1",
    "--workers=0",
    "--set=precision=fp32",
    "--set=mixup=0.2",
    "--set=save_every=2",
)
# With 3 steps an epoch: enough of them that a process is killed or stopped before the last.
LONG = "--epochs=16"
# The same sums in another order; the loss is a little different from the first step on.
TOLERANCE = 1e-4


@contextmanager
def torchrun(*arguments: str | Path, restarts: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Yield torchrun with two processes; they are killed at the end if they are still there."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += [f"--max-restarts={restarts}", "--standalone", "-m", "mobilette", "train"]
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def ended(*arguments: str | Path, restarts: int = 0) -> tuple[int, str]:
    """Return the status of torchrun and what it wrote to stderr."""
    with torchrun(*arguments, restarts=restarts) as process:
        _, err = process.communicate(timeout=300)
    return process.returncode, err


@pytest.fixture(scope="module")
def together(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that two processes have trained."""
    out = tmp_path_factory.mktemp("together") / "run"
    status, err = ended(images, *OPTIONS, "--out", out)
    assert status == 0, err
    assert err.count("2 processes, cpu") == 1  # one of them speaks
    return out


def test_two_processes_are_one_with_two_parts(together: Path, images: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    done = run_cli("train", images, *OPTIONS, "--set=accumulate=2", "--out", alone)
    assert done.returncode == 0, done.stderr
    states = [torch.load(path / STATE, weights_only=True) for path in (together, alone)]
    for part in ("network", "average"):
        for name, tensor in states[0][part].items():
            # One process's running statistics see both halves, each of two its own.
            if "running" not in name and "tracked" not in name:
                difference = (tensor - states[1][part][name]).abs().max()
                assert difference <= TOLERANCE * max(tensor.abs().max(), 1.0), name
    for row, other in zip(open_run(together).history(), open_run(alone).history(), strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
        assert row["top1"] == pytest.approx(other["top1"], abs=0.05)


def test_one_process_with_the_whole_batch_is_something_else(
    together: Path, images: Path, tmp_path: Path
) -> None:
    """Otherwise the tolerance above would say nothing."""
    alone = tmp_path / "alone"
    assert run_cli("train", images, *OPTIONS, "--out", alone).returncode == 0
    first, second = (
        torch.load(path / STATE, weights_only=True)["network"] for path in (together, alone)
    )
    name = "rows.0.depthwise.conv.weight"
    assert (first[name] - second[name]).abs().max() > 10 * TOLERANCE


def test_a_killed_writer_is_replaced_and_the_run_ends_as_if_it_was_not(
    images: Path, tmp_path: Path
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "run"
    status, err = ended(images, *OPTIONS, LONG, "--out", undisturbed)
    assert status == 0, err
    with torchrun(images, *OPTIONS, LONG, "--out", out, restarts=2) as process:
        _wait_for_steps(out, 6)
        (writer,) = (pid for pid in _workers(process.pid) if b"RANK=0" in _environment(pid))
        os.kill(writer, signal.SIGKILL)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert same_weights(undisturbed, out)
    assert len(open_run(out).history()) == 16


def test_a_stopped_torchrun_leaves_a_run_that_goes_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with torchrun(images, *OPTIONS, "--epochs=1000", "--out", out) as process:
        _wait_for_steps(out, 4)
        with pytest.raises(BusyError, match="run: process [0-9]+ is writing it"):  # for all ranks
            resume(out)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode != 0
    progress = torch.load(out / STATE, weights_only=True)["progress"]
    assert not progress["finished"]
    assert not list(_workers(process.pid))


def test_several_processes_need_a_name_for_their_run(images: Path) -> None:
    status, err = ended(images, *OPTIONS)
    assert status != 0
    assert "several processes write one run: give it a name with --out" in err


def _wait_for_steps(out: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (out / STATE).exists():
            progress = torch.load(out / STATE, weights_only=True)["progress"]
            if progress["index"] >= steps:
                return
        time.sleep(0.01)
    raise AssertionError("no step was saved")


def _environment(process: int) -> list[bytes]:
    return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


def _workers(parent: int) -> Iterator[int]:
    """Yield the processes whose parent is ``parent``."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and fields[0] != "Z":
                yield int(entry.name)
