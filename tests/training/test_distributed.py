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
from tests.training.runs import same_weights, train

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
SIGNALLED = Path(__file__).with_name("signalled.py")
# The same sums in another order; the loss is a little different from the first step on.
TOLERANCE = 1e-4


@contextmanager
def torchrun(
    *arguments: str | Path,
    restarts: int = 0,
    program: tuple[str | Path, ...] = ("-m", "mobilette"),
) -> Iterator[subprocess.Popen[str]]:
    """Yield torchrun with two processes; they are killed at the end if they are still there."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += [f"--max-restarts={restarts}", "--standalone"]
    with subprocess.Popen(
        [*command, *map(str, program), "train", *map(str, arguments)],
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


def train_alone(images: Path, out: Path, **overrides: object) -> Path:
    """Train in this process with what `OPTIONS` say."""
    same = {"epochs": 3, "batch_size": 16, "precision": "fp32", "mixup": 0.2, "save_every": 2}
    train(
        images,
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        overrides=same | overrides,
        workers=0,
        out=out,
    )
    return out


def test_two_processes_are_one_with_two_parts(together: Path, images: Path, tmp_path: Path) -> None:
    alone = train_alone(images, tmp_path / "alone", accumulate=2)
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
    alone = train_alone(images, tmp_path / "alone")
    first, second = (
        torch.load(path / STATE, weights_only=True)["network"] for path in (together, alone)
    )
    name = "rows.0.depthwise.conv.weight"
    assert (first[name] - second[name]).abs().max() > 10 * TOLERANCE


def test_a_killed_writer_is_replaced_and_the_run_ends_as_if_it_was_not(
    together: Path, images: Path, tmp_path: Path
) -> None:
    """Killed in its twelfth step of 18, once a state is written inside the second epoch."""
    out = tmp_path / "run"
    program = (SIGNALLED, "SIGKILL", "12")
    with torchrun(images, *OPTIONS, "--out", out, restarts=2, program=program) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.count(f"{out}: continues at epoch 2 of 3, step 5 of 6") == 1
    assert same_weights(together, out)
    assert len(open_run(out).history()) == 3


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
