"""`CheckpointPredictor`: a model, executed by PyTorch."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilette.data.machine import threads_by_quota
from mobilette.data.normalise import Normalise
from mobilette.engines.artifact import one_line
from mobilette.engines.predictor import Predictor
from mobilette.engines.sharing import CALLS, usable_threads
from mobilette.errors import InputError
from mobilette.model.model import Model
from mobilette.nn.inference import for_inference, has_hooks
from mobilette.nn.network import Network
from mobilette.nn.threads import torch_threads
from mobilette.run.directory import Run, open_run
from mobilette.run.inference import features_in_batches, logits_in_batches


class CheckpointPredictor(Predictor):
    """A model, executed by PyTorch.

    Threads may share it: the network answers them in parallel on the CPU, in turns on other
    devices. In a child of `fork` it uses one thread, because OpenMP's threads stay in the parent,
    and no device but the CPU. A run's predictor is pickled as the run's path and loaded again.

    Raises:
        InputError: ``device`` cannot be used, or the weights are missing or damaged.
    """

    engine = "PyTorch"

    def __init__(
        self, subject: Run | Model, *, device: torch.device | str = "cpu", threads: int = 0
    ) -> None:
        self.model = model = subject.model if isinstance(subject, Run) else subject
        self.arch, self.preprocess, self.classes = model.arch, model.preprocess, model.classes
        self.multi_label, self.answering = model.multi_label, model.answering
        self.threads = threads or min(threads_by_quota(), torch.get_num_threads())
        self.path = subject.path.absolute() if isinstance(subject, Run) else None
        self.where, self.device = self.path or model.origin.source, torch.device(device)
        self._process, on_cpu = os.getpid(), self.device.type == "cpu"
        self._turn: AbstractContextManager[object] = nullcontext() if on_cpu else Lock()
        try:
            network = model.backbone if on_cpu else copy.deepcopy(model.backbone)
            self.network: Network = network.to(self.device)
            self.normalise = Normalise(model.preprocess).to(self.device)
        except RuntimeError as error:
            raise InputError(f"{self.where}: device {device}: {one_line(error)}") from error
        self._fast: Network | None = None

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        self.check_classifier()
        with self._one_call():
            return logits_in_batches(self._answering(), self.normalise, pixels)

    def batch_features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features (N, D) for one batch of ``pixels`` (N, C, H, W)."""
        with self._one_call():
            return features_in_batches(self._answering(), self.normalise, pixels)

    def _answering(self) -> Network:
        """Return what answers: made once, because a model never changes."""
        if has_hooks(self.network):
            return self.network
        if self._fast is None:
            self._fast = for_inference(self.network)
        return self._fast

    def check_classifier(self) -> None:
        """Raise `InputError` if the model was imported without a classifier."""
        self.model.check_classifier()

    @contextmanager
    def _one_call(self) -> Iterator[None]:
        if self.device.type != "cpu" and self._process != os.getpid():
            raise InputError(
                f"{self.where}: device {self.device} cannot be used in a forked process; "
                "use the start method spawn"
            )
        with CALLS.one(), self._turn, torch_threads(usable_threads("torch", self.threads)):
            yield

    def __reduce__(self) -> tuple[Callable[..., CheckpointPredictor], tuple[object, ...]]:
        options: dict[str, Any] = {"device": str(self.device), "threads": self.threads}
        if self.path is None:
            return partial(type(self), replace(self.model), **options), ()
        return _load_again, (type(self), self.path, weights_sha256(self.network), options)


def _load_again(
    kind: type[CheckpointPredictor], path: Path, sha256: str, options: dict[str, Any]
) -> CheckpointPredictor:
    predictor = kind(open_run(path), **options)
    if weights_sha256(predictor.network) != sha256:
        raise InputError(f"{path}: its weights changed since its predictor was pickled")
    return predictor


def weights_sha256(network: Network) -> str:
    """Return the SHA-256 of the network's tensors, in order."""
    found = hashlib.sha256()
    for tensor in network.state_dict().values():
        found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()
