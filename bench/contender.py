"""Runs one training script as it is and takes its time; a process that the benches start.

    python bench/contender.py SPEC.json RESULT.json

The script (the plain loop, timm's or torchvision's train.py, or our command line) is not changed.
Its network is ours with torch's own layers, put where the script looks for one by name. Hooks of
torch count its steps and images and stop it. The clock runs while the network is in training
mode, so imports, listing files and validation are not counted; waiting for data, workers that
start, logging and checkpoints are. Accuracy on held-out images is measured here, with the clock
stopped, the same way for every script. `ours` is counted whole, from the command line on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from mobilette.data.machine import usable_cores

if TYPE_CHECKING:
    from bench import networks
    from bench.networks import build_network
    from bench.plain_loop import Images
else:
    import networks
    from networks import build_network
    from plain_loop import Images

Name = Literal["ours", "plain", "timm", "torchvision"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is run, and when it is stopped.

    Attributes:
        script: path of the script; empty for ours.
        arguments: those of the script.
        data: the folder with train/ and val/.
        seconds: of training after which the script is stopped; 0 means after ``steps``.
        points: how often accuracy is measured in this time.
        warm_up: steps before those that are timed.
        steps: steps that are timed; 0 means all until the script ends.
    """

    name: Name
    script: str
    arguments: list[str]
    data: str
    model: str
    width_mult: float
    resolution: int
    seed: int = 0
    seconds: float = 0.0
    points: int = 1
    warm_up: int = 0
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What had been spent and done when a step ended; ``cpu`` is -1 where it is not known."""

    seconds: float = 0.0
    data: float = 0.0
    cpu: float = 0.0
    images: int = 0


@dataclass(kw_only=True)
class Result:
    """What came of it; ``points`` are (seconds of training, top-1)."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    threads: int = 0
    cores: int = 1
    points: list[tuple[float, float]] = field(default_factory=list)
    begin: Moment = field(default_factory=Moment)
    end: Moment = field(default_factory=Moment)


class Clock:
    """Seconds that passed while it ran."""

    def __init__(self) -> None:
        self.total, self.since = 0.0, 0.0

    def run(self, running: bool) -> None:
        """Start or stop; to start a running clock changes nothing."""
        self.total = self.read()
        self.since = time.perf_counter() if running else 0.0

    def read(self) -> float:
        """Return the seconds until now."""
        return self.total + (time.perf_counter() - self.since if self.since else 0.0)


class Watch:
    """Follows one script by hooks: what its steps take, and what its network has learnt."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.clock, self.result = spec, Clock(), Result()
        self.network: nn.Module | None = None
        self.waited = 0.0
        if spec.seconds:
            held_out = Images(Path(spec.data) / "val", resolution=spec.resolution)
            pixels = [held_out[index][0] for index in range(len(held_out))]
            self.parts = [torch.stack(pixels[i : i + 128]) for i in range(0, len(pixels), 128)]
            self.labels = torch.tensor([label for _, label in held_out.files])
        register_optimizer_step_post_hook(self.after_step)

    def build(self, *_: object, **__: object) -> nn.Module:
        """Return the network, whatever the script asks for."""
        spec = self.spec
        classes = sum(path.is_dir() for path in (Path(spec.data) / "train").iterdir())
        network = build_network(
            spec.model, width_mult=spec.width_mult, resolution=spec.resolution, classes=classes
        )
        set_mode = network.train

        def train(mode: bool = True) -> nn.Module:
            self.clock.run(mode)
            return set_mode(mode)

        network.train = train  # type: ignore[method-assign]
        network.register_forward_pre_hook(self.before_forward)
        self.network = network
        return network

    def before_forward(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Count images that are trained on."""
        if network.training:
            self.result.images += len(inputs[0])

    def after_step(self, *_: object) -> None:
        """Note the time, measure accuracy if it is due, and end the script if that is."""
        spec, result = self.spec, self.result
        result.steps += 1
        result.seconds = self.clock.read()
        if result.steps == max(spec.warm_up, 1):
            result.begin = self.moment()
        if spec.seconds:
            if result.seconds >= (len(result.points) + 1) * spec.seconds / spec.points:
                self.measure()
            if result.seconds >= spec.seconds:
                raise SystemExit
        elif result.steps == spec.warm_up + spec.steps and spec.steps:
            raise SystemExit

    def moment(self) -> Moment:
        """Return what has been spent and done by now."""
        return Moment(
            seconds=self.result.seconds,
            data=self.waited,
            cpu=cpu_seconds(),
            images=self.result.images,
        )

    def timed(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``wait``, its time while the clock runs added to what was waited for data."""

        def timed_wait(*arguments: Any) -> Any:
            begun = self.clock.read()
            try:
                return wait(*arguments)
            finally:
                self.waited += self.clock.read() - begun

        return timed_wait

    @torch.inference_mode()
    def measure(self) -> None:
        """Add a point to the curve: top-1 on held-out images, with the clock stopped."""
        assert self.network is not None
        was_training = self.network.training
        self.network.eval()
        answers = [self.network(part).argmax(1) for part in self.parts]
        top1 = (torch.cat(answers) == self.labels).double().mean().item()
        self.result.points.append((self.result.seconds, top1))
        if was_training:
            self.network.train()


def cpu_seconds() -> float:
    """Return the CPU time of this process and its children, or -1 where /proc has none."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    ticks = 0
    try:
        for process in processes:
            values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            # user and system time; of this process also its children's that have ended
            ticks += sum(int(value) for value in values[11:13])
            ticks += sum(int(value) for value in values[13:15]) if process == os.getpid() else 0
    except OSError:
        return -1.0
    return ticks / os.sysconf("SC_CLK_TCK")


def define_missing_operators() -> object:
    """Make torchvision importable beside a CPU build of torch; keep what is returned."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(signature)  # type: ignore[no-untyped-call]
        return library
    return None


def put_network(name: Name, build: Callable[..., nn.Module], model: str) -> None:
    """Let the script get its network from ``build``."""
    if name == "plain":
        networks.build_network = build
    elif name == "timm":
        import timm.models

        timm.models.create_model = build
    elif name == "torchvision":
        import torchvision

        torchvision.models.get_model = build
        setattr(torchvision.models, model, build)  # where older scripts look


def run(spec: Spec) -> Result:
    """Run the script of ``spec`` to its end or until it is stopped."""
    torch.manual_seed(spec.seed)
    watch = Watch(spec)
    iterator = torch.utils.data.dataloader._BaseDataLoaderIter
    DataLoader.__iter__ = watch.timed(DataLoader.__iter__)  # type: ignore[method-assign]
    iterator.__next__ = watch.timed(iterator.__next__)  # type: ignore[method-assign]
    sys.argv = [spec.script or "mobilette", *spec.arguments]
    try:
        if spec.name == "ours":
            watch.clock.run(True)
            runpy.run_module("mobilette", run_name="__main__", alter_sys=True)
        else:
            if "fork" in multiprocessing.get_all_start_methods():
                multiprocessing.set_start_method("fork")  # workers would not find the script
            sys.path.insert(0, str(Path(spec.script).parent))
            kept = define_missing_operators() if spec.name != "plain" else None
            put_network(spec.name, watch.build, spec.model)
            runpy.run_path(spec.script, run_name="__main__")
            del kept
    except SystemExit as stop:
        if stop.code:
            raise
    result = watch.result
    result.end = watch.moment()
    result.threads, result.cores = torch.get_num_threads(), usable_cores()
    if spec.seconds and (not result.points or result.points[-1][0] < result.seconds):
        watch.measure()
    return result


if __name__ == "__main__":
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    target = Path(sys.argv[2])
    target.write_text(json.dumps(asdict(run(spec))))
