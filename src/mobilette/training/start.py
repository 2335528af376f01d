"""Initial weights from another run."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.errors import InputError
from mobilette.nn.network import Network
from mobilette.run.directory import Run, is_run, open_run

CLASSIFIER = "head.classifier."


def find_start(start: str | Path) -> Run | None:
    """Return the run whose weights ``start`` means; none for ``scratch`` and ``auto``.

    Raises:
        InputError: it is neither of these words nor a run directory.
    """
    if str(start) in ("scratch", "auto"):
        return None
    if not is_run(Path(start)):
        raise InputError(f"--from {str(start)!r}: 'scratch', 'auto' or a run directory is expected")
    return open_run(start)


def check_start(source: Run, arch: Arch) -> None:
    """Raise `InputError` if the networks differ in more than resolution and classes."""
    same = source.arch.with_resolution(arch.resolution).with_classes(arch.num_classes)
    if same != arch:
        raise InputError(
            f"{source.path}: its network ({source.arch.name}) is not the one to be trained "
            f"({arch.name}); model, width, form and input channels must be the same"
        )


def copy_weights(weights: dict[str, Tensor], network: Network, *, with_classifier: bool) -> None:
    """Copy the ``weights`` of a run that `check_start` accepted into ``network``."""
    if not with_classifier:
        weights = {name: w for name, w in weights.items() if not name.startswith(CLASSIFIER)}
    network.load_state_dict(weights, strict=False)
