"""What one GPU is good for, within nine minutes: `bench/gpu.sh` finds Python and images for it.

    python bench/gpu.py ../shared/data/cifar10-jpeg.zip [--within 540] [--out gpu.jsonl]
    python bench/gpu.py none --rehearse        # no images; little of everything, on the CPU

In this order, each in a process of its own (bench/gpu_phase.py, bench/gpu_train.py) that has a
limit of its own:

1. the images are unpacked and decoded, while the tests of captured steps run on the GPU
2. where a step's time goes: parts of the step, and the kernels that take most
3. images a second of eager, captured and compiled steps, start-up apart
4. a training in 60 seconds with the fastest of them, and one in 10

A line of JSON is written as each is done; what fails or no longer fits is a line, too. Captured
steps train only if the tests have passed. The plain recipe of 200 epochs to compare with (SGD at
0.1, cosine, batches of 128, shifts and flips, no averaged weights) takes hours:

    python bench/gpu_train.py train DATA --model mobilenet_v2 --epochs 200 --recipe quick
        --set lr=0.1 --set batch_size=128 --set warmup=0 --set label_smoothing=0 --set ema_decay=0

Aims on the original images (H100): MobileNet V2 94.4% in 60 s, a network of ResNet-18's class 94%
in 10 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
STEPS, TRAIN = (str(Path(__file__).with_name(name)) for name in ("gpu_phase.py", "gpu_train.py"))
TESTS = ["tests/training/test_graphs_on_gpu.py"]
# Without a GPU those are skipped: one that replays a step's operations instead.
TESTS_OF_CPU = [*TESTS, "tests/training/test_graphs.py", "-k", "on_gpu or operations-sgd"]
START = 35.0  # seconds that a training may take beside its time
AIM, SHORT = ("mobilenet_v2", 60), ("resnet18", 10)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done; ``limits`` are seconds by the name of a phase."""

    models: tuple[str, ...] = ("mobilenet_v2", "resnet18", "shufflenet_v2")
    modes: tuple[str, ...] = (
        "eager",
        "captured",
        "captured+cudnn",
        "compiled",
        "captured+compiled",
    )
    width_mult: float = 1.0
    batch: int = 512
    seconds: float = 3.0
    images: int | None = None
    trained: tuple[tuple[str, int], ...] = (AIM, SHORT)
    recipe: str = "cifar_gpu"
    more: tuple[str, ...] = ()
    limits: dict[str, float] = field(
        default_factory=lambda: {
            "prepare": 100.0,
            "tests": 90.0,
            "profile": 25.0,
            "speed": 35.0,
            "compiled": 70.0,
        }
    )


LITTLE = Size(
    models=("mobilenet_v2", "resnet18"),
    modes=("eager", "captured", "compiled"),
    width_mult=0.25,
    batch=8,
    seconds=0.0,
    images=100,
    trained=(("mobilenet_v2", 60),),
    more=("--set=batch_size=32", "--epochs=1"),
    limits=dict.fromkeys(("prepare", "tests", "profile", "speed", "compiled"), 120.0),
)


class Report:
    """Writes a line of JSON for each result, to a file and to stdout."""

    def __init__(self, path: Path, *, within: float) -> None:
        self.path, self.begun, self.within = path, time.perf_counter(), within
        self.failed = 0
        path.write_text("")

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.within - (time.perf_counter() - self.begun)

    def add(self, phase: str, **found: Any) -> dict[str, Any]:
        """Write what a phase ``found``."""
        line = {"phase": phase, "at_s": round(self.within - self.left, 1), **found}
        self.failed += "failed" in line
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        return line

    def run(self, phase: str, *words: str, limit: float, **about: Any) -> dict[str, Any]:
        """Run a phase in a process of its own and write the line of JSON that it prints last."""
        limit = min(limit, self.left)
        if limit < 5:
            return self.add(phase, **about, failed="no time is left")
        command = [sys.executable, TRAIN if phase == "train" else STEPS, phase, *words]
        told = os.environ | {"BEGUN": str(time.time())}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=limit, cwd=ROOT, env=told
            )
        except subprocess.TimeoutExpired:
            return self.add(phase, **about, failed=f"not done after {limit:.0f} s")
        if done.returncode:
            return self.add(phase, **about, failed=_end(done.stderr))
        return self.add(phase, **about, **json.loads(done.stdout.splitlines()[-1]))


def _end(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-12:])[-1_500:]


def tests(report: Report, size: Size, *, cpu: bool) -> bool:
    """Run the tests of captured steps; return whether they passed, on a GPU if there is one."""
    limit = min(size.limits["tests"], report.left)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    command += ["-W", "default", *(TESTS_OF_CPU if cpu else TESTS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    except subprocess.TimeoutExpired:
        report.add("tests", failed=f"not done after {limit:.0f} s")
        return False
    for line in done.stdout.splitlines():
        if '"distances"' in line:
            report.add("distances", **json.loads(line[line.index("{") :]))
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode:
        report.add("tests", result=last, failed=_end(done.stdout + done.stderr))
        return False
    report.add("tests", result=last)
    return not cpu


def speeds(report: Report, size: Size, device: list[str]) -> Iterator[dict[str, Any]]:
    """Time the steps of every network, the first of them in every mode."""
    common = [f"--width-mult={size.width_mult}", f"--batch={size.batch}", *device]
    common += [f"--seconds={size.seconds}"]
    reserve = sum(seconds + START for _, seconds in size.trained[:1])
    for mode in size.modes:
        for model in size.models:
            if "+" in mode and model != size.models[0]:
                continue
            limit = size.limits["compiled" if "compiled" in mode else "speed"]
            about = {"model": model, "mode": mode}
            if report.left - reserve < min(limit, 20):
                report.add("speed", **about, left_out="the rest is for the training")
                continue
            limit = min(limit, report.left - reserve)
            words = [f"--model={model}", f"--mode={mode}", *common]
            yield report.run("speed", *words, limit=limit, **about)


def trainings(report: Report, size: Size, data: str, mode: str, device: list[str]) -> None:
    """Train with the fastest steps for as long as each training is given."""
    for model, seconds in size.trained:
        about = {"model": model, "mode": mode, "given_s": seconds}
        if report.left < seconds + START / 2:
            report.add("train", **about, left_out=f"{report.left:.0f} s are left")
            continue
        words = [f"--model={model}", f"--mode={mode}", f"--seconds={seconds}", *size.more]
        words += [f"--width-mult={size.width_mult}", f"--recipe={size.recipe}", *device]
        report.run("train", data, *words, limit=2 * seconds + START, **about)


def main(
    data: Annotated[str, typer.Argument(help="A zip or folder with train/ and val/, or none.")],
    rehearse: Annotated[bool, typer.Option(help="Little of everything, on the CPU.")] = False,
    within: Annotated[float, typer.Option(help="Seconds for all of it.")] = 540.0,
    batch: Annotated[int, typer.Option(help="Images per timed step.")] = 512,
    out: Annotated[Path | None, typer.Option(help="[$OUT/gpu.jsonl, or gpu.jsonl]")] = None,
) -> None:
    """Do all of it and end with status 1 if something failed."""
    report = Report(out or Path(os.environ.get("OUT", ".")) / "gpu.jsonl", within=within)
    machine = report.run("machine", limit=60.0)
    cpu = rehearse or machine.get("device", "cpu") == "cpu"
    if cpu:  # threads that wait for each other would take most of the time
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    size = LITTLE if cpu else Size(batch=batch)
    device = ["--device=cpu"] if cpu else []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MOBILETTE_CACHE"] = str(Path(scratch) / "cache")
        folder = Path(scratch) / "images"
        words = ["prepare", data, str(folder)] + [f"--images={size.images}"] * bool(size.images)
        preparing = subprocess.Popen(
            [sys.executable, TRAIN, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        agreed = tests(report, size, cpu=cpu)
        images = finish(preparing, report, limit=size.limits["prepare"])
        for mode in size.modes[:2]:
            words = [f"--model={size.models[0]}", f"--mode={mode}", f"--batch={size.batch}"]
            words += [f"--width-mult={size.width_mult}", *device]
            report.run("profile", *words, limit=size.limits["profile"], mode=mode)
        timed = [one for one in speeds(report, size, device) if "failed" not in one]
        usable = [
            one
            for one in timed
            if one["model"] == size.models[0] and (agreed or "captured" not in one["mode"])
        ]
        best = max(usable, key=lambda one: float(one["images_per_second"]), default=None)
        mode = "eager" if best is None else str(best["mode"])
        report.add("best", mode=mode, agreed=agreed)
        if images is not None:
            trainings(report, size, images, mode, device)
    report.add("end", rehearsed_on_cpu=cpu, phases_failed=report.failed)
    raise typer.Exit(int(report.failed > 0))


def finish(preparing: subprocess.Popen[str], report: Report, *, limit: float) -> str | None:
    """Wait until the images are decoded; return where they are, if there are any."""
    try:
        told, error = preparing.communicate(timeout=min(limit, max(report.left, 1.0)))
    except subprocess.TimeoutExpired:
        preparing.kill()
        preparing.communicate()
        report.add("prepare", failed="the images were not decoded in time")
        return None
    if preparing.returncode:
        report.add("prepare", failed=_end(error))
        return None
    found = report.add("prepare", **json.loads(told.splitlines()[-1]))
    return None if found["data"] == "none" else str(found["data"])


if __name__ == "__main__":
    typer.run(main)
