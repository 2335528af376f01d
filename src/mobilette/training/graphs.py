"""A training step as a CUDA graph: its kernels are launched once, then replayed together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mobilette.errors import InputError
from mobilette.training.environment import Precision
from mobilette.training.recipe import Recipe

# Steps before a capture: cuDNN chooses its algorithms, the optimiser makes its state.
WARM_UP = 3

Work = Callable[[], Tensor]  # does something and returns a loss


def check_graphs(
    recipe: Recipe, *, device: torch.device, precision: Precision, processes: int
) -> None:
    """Raise `InputError` if ``recipe`` asks for graphs and its steps cannot be captured there."""
    if not recipe.graphs:
        return
    adam_cycles = recipe.optimizer == "adamw" and recipe.schedule == "one_cycle"
    for cannot, why in (
        (device.type != "cuda", f"only CUDA has graphs, {device} has none"),
        (precision == "fp16", "fp16 decides outside a graph whether to step; bf16 and fp32 do not"),
        (processes > 1, f"{processes} processes cannot exchange gradients in a graph; one can"),
        (recipe.accumulate > 1, f"a step is one part, not accumulate={recipe.accumulate}"),
        (adam_cycles, "adamw's first beta cannot vary in a graph; sgd's momentum can"),
    ):
        if cannot:
            raise InputError(f"graphs=true: {why}; --set graphs=false trains without")


class Numbers:
    """Numbers by name on a device, as 0-dimensional fp32 tensors that stay where they are.

    A graph keeps the numbers of Python that it was captured with; these it reads at each replay.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, value: float) -> Tensor:
        """Return the tensor called ``name``, filled with ``value``."""
        if name not in self._held:
            self._held[name] = torch.zeros((), device=self._device)
        return self._held[name].fill_(value)


@dataclass(kw_only=True)
class _Step:
    """One kind of step: its static inputs, how often it was taken, and its replay, if captured."""

    inputs: tuple[Tensor, Tensor]
    taken: int = 0
    replay: Work | None = None


class Graphs:
    """Takes training steps as CUDA graphs, one for each kind of step.

    The first `WARM_UP` steps of a kind are taken one kernel at a time. They are steps of the
    training, so nothing has to be undone. On another device nothing is captured: the same work is
    done on the same static inputs, so that all but the capture can be tested there.

    Attributes:
        capture: returns what does a piece of work again; nothing is computed before that is called.
    """

    def __init__(self, work: Callable[[Tensor, Tensor], Tensor], *, device: torch.device) -> None:
        """Make graphs of ``work``: (images, targets) to a loss, with what changes besides.

        ``work`` must read and change the same tensors each time, must not wait for the device, and
        must depend on no number of Python that varies.
        """
        self._work = work
        # Libraries keep handles per stream: those of the warm-up have to serve the capture.
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.capture: Callable[[Work], Work] = self._captured
        self._steps: dict[Hashable, _Step] = {}
        self._most = 0

    @property
    def captured(self) -> int:
        """The number of kinds of steps that are replayed."""
        return sum(step.replay is not None for step in self._steps.values())

    def clear(self) -> None:
        """Forget all graphs, because tensors that they change were replaced."""
        self._steps.clear()

    def step(self, images: Tensor, targets: Tensor, *, kind: Hashable) -> Tensor:
        """Take a step on (N, C, H, W) and (N,) or (N, classes); return its loss, a device scalar.

        ``kind`` is what else the kernels depend on. A batch that lacks images is not captured.
        """
        if len(images) < self._most:
            return self._work(images, targets)
        self._most = len(images)
        key = (kind, images.shape, images.dtype, targets.shape, targets.dtype)
        if key not in self._steps:
            self._steps[key] = _Step(inputs=(images.clone(), targets.clone()))
        step = self._steps[key]
        for static, new in zip(step.inputs, (images, targets), strict=True):
            static.copy_(new)
        work = partial(self._work, *step.inputs)
        if step.taken < WARM_UP:
            loss = self._aside(work)
        else:
            step.replay = step.replay or self.capture(work)
            loss = step.replay()
        step.taken += 1
        return loss.clone()  # the next replay overwrites it

    def _aside(self, work: Work) -> Tensor:
        """Return ``work()``, done on the stream on which it will be captured."""
        if self._stream is None:
            return work()
        now = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            loss = work()
        now.wait_stream(self._stream)
        return loss

    def _captured(self, work: Work) -> Work:
        if self._stream is None:
            return work
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            loss = work()

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay
