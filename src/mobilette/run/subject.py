"""A model given as a run, a run folder, a `Model` or a network trained elsewhere."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError, shown
from mobilette.files import read_bytes
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model, Origin, check_finite, numbered_classes
from mobilette.nn.network import Network
from mobilette.run.directory import Run, is_run, open_run


class Subject(NamedTuple):
    """A model and the run that holds exactly that model, if any."""

    model: Model
    run: Run | None


def resolve(
    subject: str | Path | Run | Model | Network,
    *,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
) -> Subject:
    """Return the model that ``subject`` refers to.

    Args:
        subject: a run, its folder, a model, or a network trained elsewhere.
        preprocess: for a network, its preprocessing; by default its ``preprocess`` attribute.
        classes: for a network, the class names in order; numbers by default.

    Raises:
        InputError: no run, weights missing or damaged, or a network without preprocessing.
    """
    if isinstance(subject, Network):
        return Subject(_of_network(subject, preprocess, classes), None)
    if preprocess is not None or classes is not None:
        raise InputError("preprocess and classes are for a Network; a run or a Model has its own")
    if isinstance(subject, Model):
        check_finite(subject.weights)
        return Subject(subject, _run_of(subject))
    run = subject if isinstance(subject, Run) else open_run(subject)
    return Subject(run.model, run)


def model_sha256(model: Model, run: Run | None) -> str:
    """Return the hash of the run's weight file, or of the one `Model.save` would write."""
    from safetensors.torch import save

    if run is not None:
        return hashlib.sha256(read_bytes(run.weights_path)).hexdigest()
    return hashlib.sha256(
        save({name: tensor.contiguous() for name, tensor in model.weights.items()})
    ).hexdigest()


def folder_name(subject: Run | Model) -> str:
    """Return a name for a folder of outputs made from ``subject``."""
    if isinstance(subject, Run):
        return subject.path.resolve().name
    return re.sub(r"\W+", "_", subject.arch.name)


def _of_network(
    network: Network, preprocess: Preprocess | None, classes: Sequence[str] | None
) -> Model:
    preprocess = preprocess or getattr(network, "preprocess", None)
    if not isinstance(preprocess, Preprocess):
        raise InputError(
            f"{network.arch.name}: a network does not say how images are prepared for it; "
            "give preprocess="
        )
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    check_finite(weights)
    return Model(
        arch=network.arch,
        weights={name: tensor.clone() for name, tensor in weights.items()},
        preprocess=preprocess,
        classes=_labels(classes, network.arch.num_classes),
        origin=Origin(name=network.arch.name, source=network.arch.name),
    )


def _labels(names: Sequence[str] | None, count: int) -> tuple[ClassLabel, ...]:
    if names is None:
        return numbered_classes(count)
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"classes is {shown(names)}, not a list of names")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise InputError(f"classes: {shown(twice[0])} occurs twice")
    return tuple(ClassLabel(id=name, name=name) for name in names)


def _run_of(model: Model) -> Run | None:
    """Return the run ``model`` was read from, if it still holds these weights."""
    path = Path(model.origin.source)
    if not (path.is_absolute() and is_run(path)):
        return None
    run = open_run(path)
    if not run.weights_path.is_file() or run.arch != model.arch:
        return None
    if hashlib.sha256(read_bytes(run.weights_path)).hexdigest() != model.origin.sha256:
        return None
    stored = run.model.weights
    same = all(torch.equal(stored[name], tensor) for name, tensor in model.weights.items())
    return run if same else None
