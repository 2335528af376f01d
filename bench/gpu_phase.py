"""How fast a training step is on a GPU, and where its time goes: phases of bench/gpu.py.

    python bench/gpu_phase.py speed --model mobilenet_v2 --mode captured --batch 512
    python bench/gpu_phase.py profile --model mobilenet_v2 --mode eager

The last line is what was found, as JSON. A mode is `eager`, `captured` (one CUDA graph), `compiled`
(torch.compile), or one of these and more: `captured+compiled`, `captured+cudnn` (cuDNN times its
algorithms instead of guessing). On the CPU a captured step is only taken on static inputs, and a
compiled one without Inductor's code: a rehearsal, whose numbers say nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Annotated, Any

import torch
import typer

from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.errors import InputError, one_of
from mobilette.formats.pretrained import create_model
from mobilette.training.environment import choose_device, choose_precision
from mobilette.training.events import Clock, Stopwatch
from mobilette.training.graphs import WARM_UP
from mobilette.training.recipe import load_recipe
from mobilette.training.step import Trainer

# Of the process, libraries included, if whoever started it has told when.
START = time.time() - float(os.environ.get("BEGUN", time.time()))
WAYS = ("eager", "captured", "compiled", "cudnn")
RESOLUTION, CLASSES, IMAGES = 32, 10, 4_096
app = typer.Typer(add_completion=False)
ModelName = Annotated[str, typer.Option("--model")]
Mode = Annotated[str, typer.Option("--mode", help=f"{', '.join(WAYS)}; several with +.")]


def keys_of(mode: str, device: torch.device) -> dict[str, object]:
    """Return the recipe's keys for a mode; a rehearsal has neither Inductor nor bf16."""
    for way in mode.split("+"):
        one_of(way, WAYS, "mode")
    torch.backends.cudnn.benchmark = "cudnn" in mode
    compile = "always" if "compiled" in mode else "never"
    keys: dict[str, object] = {"compile": compile, "graphs": "captured" in mode}
    if device.type == "cpu":
        torch.compile = partial(torch.compile, backend="aot_eager")
        keys["precision"] = "fp32"
    return keys


def wait(device: torch.device) -> None:
    """Wait until everything that was launched is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make(
    model: str, mode: str, device: torch.device, *, width_mult: float, clock: Clock | None = None
) -> Trainer:
    """Return a trainer of random weights with the recipe for GPUs."""
    torch.manual_seed(0)
    network = create_model(model, width_mult=width_mult, num_classes=CLASSES, resolution=RESOLUTION)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = load_recipe("cifar_gpu", overrides=keys_of(mode, device))
    made = Trainer(
        network,
        normalise=Normalise(preset("torch")).to(device),
        recipe=recipe,
        precision=choose_precision(recipe.precision, device),
        clock=clock,
    )
    made.begin_epoch(0)
    return made


def stepping(made: Trainer, batch: int) -> Callable[[int], torch.Tensor]:
    """Return what takes a step, given its number, on random images that lie on the device."""
    drawn = torch.Generator().manual_seed(0)
    shape = (max(IMAGES, batch), 3, RESOLUTION, RESOLUTION)
    images = torch.randint(0, 256, shape, generator=drawn, dtype=torch.uint8).to(made.device)
    labels = torch.randint(0, CLASSES, (len(images),), generator=drawn).to(made.device)

    def step(index: int) -> torch.Tensor:
        first = index * batch % (len(images) - batch + 1)
        some = slice(first, first + batch)
        return made.step(images[some], labels[some], index=index, place=(0, index), progress=0.0)

    return step


def say(**found: Any) -> None:
    """Print what a phase found."""
    print(json.dumps(found), flush=True)


@app.command()
def machine() -> None:
    """Say what this is."""
    device = choose_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    say(device=name, cores=os.cpu_count(), start_s=round(START, 2), **versions)


@app.command()
def speed(
    model: ModelName,
    mode: Mode,
    batch: int = 512,
    seconds: float = 3.0,
    width_mult: float = 1.0,
    device: str = "auto",
) -> None:
    """Time steps on random images, their start-up apart."""
    where = choose_device(device)
    marks = {"start_s": START}
    last = time.perf_counter()

    def mark(name: str) -> None:
        nonlocal last
        wait(where)
        now = time.perf_counter()
        marks[name], last = now - last, now

    torch.zeros(1, device=where)
    mark("device_s")
    made = make(model, mode, where, width_mult=width_mult)
    step = stepping(made, batch)
    mark("network_s")
    step(0)
    mark("first_step_s")
    for index in range(1, WARM_UP + 2):
        loss = step(index)
    mark("until_steady_s")
    rates: list[float] = []
    index, begun = WARM_UP + 2, time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - begun < seconds:
        now = time.perf_counter()
        done = 10 if where.type == "cuda" else 1
        for _ in range(done):
            loss = step(index)
            index += 1
        wait(where)
        rates.append(done * batch / (time.perf_counter() - now))
    memory = torch.cuda.max_memory_allocated(where) if where.type == "cuda" else 0
    say(
        images_per_second=round(median(rates)),
        lowest=round(min(rates)),
        highest=round(max(rates)),
        batch=batch,
        precision=made.precision,
        memory_gb=round(memory / 1e9, 2),
        loss=round(float(loss), 3),
        **{name: round(value, 2) for name, value in marks.items()},
    )


@app.command()
def profile(
    model: ModelName,
    mode: Mode,
    batch: int = 512,
    width_mult: float = 1.0,
    device: str = "auto",
    steps: int = 5,
) -> None:
    """Say what the parts of a step take, and which kernels take most."""
    where = choose_device(device)
    clock = Stopwatch(where)
    timed = make(model, mode, where, width_mult=width_mult, clock=clock)
    step = stepping(timed, batch)
    for index in range(WARM_UP + steps):
        clock.start()
        step(index)
        clock.count(batch)
    parts = clock.result()
    step = stepping(make(model, mode, where, width_mult=width_mult), batch)
    for index in range(WARM_UP + 2):
        step(index)
    wait(where)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if where.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    begun = time.perf_counter()
    with torch.profiler.profile(activities=activities) as seen:
        for index in range(steps):
            step(WARM_UP + 2 + index)
        wait(where)
    whole = 1000 * (time.perf_counter() - begun) / steps
    kernels = [
        (one.key[:60], _milliseconds(one, where) / steps, one.count / steps)
        for one in seen.key_averages()
        if where.type == "cpu" or one.device_type.name == "CUDA"
    ]
    kernels.sort(key=lambda kernel: -kernel[1])
    say(
        parts_ms={name: round(1000 * s / parts.steps, 2) for name, s in parts.seconds.items()},
        step_ms=round(whole, 2),
        busy_ms=round(sum(kernel[1] for kernel in kernels), 2),
        launches=round(sum(kernel[2] for kernel in kernels)),
        kernels=[[name, round(ms, 3), round(count, 1)] for name, ms, count in kernels[:12]],
    )


def _milliseconds(one: Any, where: torch.device) -> float:
    total = one.self_cpu_time_total if where.type == "cpu" else one.self_device_time_total
    return float(total) / 1000


if __name__ == "__main__":
    try:
        app()
    except InputError as error:
        sys.exit(str(error))
