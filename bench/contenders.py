"""How each contender is started: its arguments, its process, its schedule fitted to a time.

timm's train.py gets its defaults, torchvision's the line that its README has for MobileNet V2. Both
were made for hundreds of epochs; here their schedules are squeezed into what fits: the
warm-up of timm (5 of 300 epochs) and the decay of torchvision (0.98 an epoch, 300 epochs) keep
their parts of the whole. torchvision's rate is for batches of 256 and goes down with the batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mobilette.errors import InputError

if TYPE_CHECKING:
    from bench.contender import Moment, Name, Result, Spec
    from bench.images import count_images
else:
    from contender import Moment, Name, Result, Spec
    from images import count_images

HERE = Path(__file__).resolve().parent
SOURCES = str(HERE.parent / "src")
KERNELS = "kernels"
PROBE_WARM_UP, PROBE_IMAGES = 8, 1_536  # eight batches are ready when training begins


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every contender trains, and where the others' scripts are.

    Attributes:
        batch: images a step; ``None`` means each script's own default.
        scratch: a folder for what they write.
        timm: a checkout of timm.
        torchvision: a folder with torchvision's references/classification.
        more: further arguments by contender; a script takes the last of two.
    """

    data: Path
    model: str
    width_mult: float
    resolution: int
    batch: int | None
    scratch: Path
    timm: Path | None
    torchvision: Path | None
    more: dict[Name, list[str]]

    def contenders(self) -> list[Name]:
        """Return those whose scripts are at hand."""
        scripts: list[tuple[Name, object]] = [
            ("plain", HERE),
            ("timm", self.timm),
            ("torchvision", self.torchvision),
        ]
        return [name for name, script in scripts if script]

    def batch_of(self, name: Name) -> int:
        """Return the images a step of one contender."""
        return self.batch or (32 if name == "torchvision" else 128)


def spec(task: Task, name: Name, *, epochs: int, seed: int) -> Spec:
    """Return how to run one of the others for ``epochs``; when to stop is still to be set."""
    batch, classes = task.batch_of(name), len(list((task.data / "train").iterdir()))
    data, size, out = str(task.data), str(task.resolution), str(task.scratch / name)
    options: dict[str, object]
    if name == "plain":
        script = HERE / "plain_loop.py"
        options = {"epochs": epochs, "batch-size": batch, "model": task.model}
        options |= {"width-mult": task.width_mult, "resolution": size}
        arguments = [data, "--no-validate"]
    elif name == "timm":
        script = _script(task.timm)
        options = {"data-dir": data, "train-split": "train", "val-split": "", "device": "cpu"}
        options |= {"model": task.model, "num-classes": classes, "img-size": size, "output": out}
        options |= {"batch-size": batch, "epochs": epochs, "seed": seed}
        options |= {"warmup-epochs": round(5 * epochs / 300)}
        arguments = []
    else:
        script = _script(task.torchvision)
        options = {"data-path": data, "model": task.model, "device": "cpu", "output-dir": out}
        options |= {"batch-size": batch, "epochs": epochs, "workers": 4, "print-freq": 100}
        options |= {"lr": 0.045 * batch / 256, "weight-decay": 4e-5}
        options |= {"lr-step-size": 1, "lr-gamma": 0.98 ** (300 / epochs)}
        options |= dict.fromkeys(("train-crop-size", "val-crop-size", "val-resize-size"), size)
        arguments = []
    arguments += [f"--{key}={value}" for key, value in options.items()]
    return Spec(
        name=name,
        script=str(script),
        arguments=arguments + task.more.get(name, []),
        data=data,
        model=task.model,
        width_mult=task.width_mult,
        resolution=task.resolution,
        seed=seed,
    )


def fitted_epochs(task: Task, name: Name, seconds: float) -> int:
    """Return how many epochs fit into ``seconds`` of training, by a short run; at least 1."""
    batch = task.batch_of(name)
    steps = max(PROBE_IMAGES // batch, 8)
    probe = asdict(spec(task, name, epochs=1_000, seed=0)) | {"warm_up": PROBE_WARM_UP}
    result = run(task, Spec(**probe | {"steps": steps}))
    rate = (result.end.images - result.begin.images) / (result.end.seconds - result.begin.seconds)
    return max(int(rate * seconds / count_images(task.data / "train")), 1)


def run(task: Task, spec: Spec) -> Result:
    """Run one contender in a process of its own and return what came of it."""
    task.scratch.mkdir(parents=True, exist_ok=True)
    what, came = task.scratch / "spec.json", task.scratch / "result.json"
    came.unlink(missing_ok=True)
    what.write_text(json.dumps(asdict(spec)))
    script = str(HERE / "contender.py")
    done = subprocess.run(
        [sys.executable, script, str(what), str(came)],
        capture_output=True,
        text=True,
        env=environment(task),
    )
    if done.returncode or not came.exists():
        raise InputError(f"{spec.name} failed:\n{done.stderr[-3_000:]}")
    values = json.loads(came.read_text())
    moments = {name: Moment(**values[name]) for name in ("begin", "end")}
    points = [(seconds, top1) for seconds, top1 in values["points"]]
    return Result(**values | moments | {"points": points})


def environment(task: Task) -> dict[str, str]:
    """Return the variables of a contender's process: nothing decoded by an earlier one is found.

    Compiled kernels are, if there is a folder `KERNELS` in the scratch folder.
    """
    empty = tempfile.mkdtemp(dir=task.scratch, prefix="cache-")
    if (task.scratch / KERNELS).is_dir():
        Path(empty, KERNELS).symlink_to((task.scratch / KERNELS).absolute())
    caches = dict.fromkeys(("MOBILETTE_CACHE", "XDG_CACHE_HOME"), empty)
    paths = [SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | caches | {"PYTHONPATH": os.pathsep.join(paths)}


def machine() -> str:
    """Return the processor, its cores, the threads and torch's version, in a line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")
    versions = f"torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {versions}"


def _script(folder: Path | None) -> Path:
    script = Path(folder or "").resolve() / "train.py"
    if not script.is_file():
        raise InputError(f"{folder}: has no train.py")
    return script
