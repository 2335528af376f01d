"""`ArtifactPredictor`: the base of the engines that execute artifacts."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import canonical
from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.data.machine import threads_by_quota
from mobilette.engines.predictor import Predictor
from mobilette.engines.sharing import Sessions
from mobilette.errors import InputError


class ArtifactPredictor(Predictor):
    """An artifact, executed by its target's engine.

    A child of `fork` makes its own session from the artifact's files on first use. A pickled
    predictor holds only the artifact's path and loads it again.

    Args:
        threads: per call; 0 means the engine's choice, or the cores that a quota leaves.

    Raises:
        InputError: a package is missing, the engine does not accept the model, or the contract
            inside the model differs from the one beside it.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 0) -> None:
        contract = artifact.contract
        # The working directory may have changed when the files are read again.
        self.artifact = replace(artifact, path=artifact.path.absolute())
        self.contract, self.threads = contract, threads or threads_by_quota()
        self.arch, self.preprocess = contract.arch, contract.preprocess
        self.classes = contract.classes
        self.multi_label, self.answering = contract.outputs == "sigmoid", contract.answering
        self.where = str(artifact.path / contract.model)
        self._sessions: Sessions[Any] = Sessions(self.at_once())
        with self.session():
            pass

    @abstractmethod
    def batch_outputs(self, pixels: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        """Return the outputs that `output_names` lists, for one batch of ``pixels`` (N, C, H, W).

        They are logits (N, classes) and, where the contract has them, features (N, D).
        """

    @property
    def output_names(self) -> list[str]:
        """The names of the model's outputs in the contract."""
        features = [self.contract.features] if self.contract.features else []
        return [self.contract.output, *features]

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        return self.batch_outputs(pixels)[0]

    def batch_features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features (N, D) for one batch of ``pixels`` (N, C, H, W)."""
        self.check_features()
        features = self.batch_outputs(pixels)[1]
        expected = (len(pixels), self.feature_count)
        if features.shape != expected:
            raise InputError(f"{self.where}: features are {features.shape}, expected {expected}")
        return features

    def check_features(self) -> None:
        """Raise `InputError` unless the model gives features."""
        if not self.contract.features:
            raise InputError(
                f"{self.artifact.path}: an artifact without features; 'mobilette export RUN --to "
                f"{self.contract.target} --features' makes one that has them"
            )

    @abstractmethod
    def open(self) -> Any:
        """Return a new session, made from the artifact's files with their hashes checked."""

    def at_once(self) -> int | None:
        """Return how many sessions there may be, as for `Sessions`."""
        return None

    def session(self) -> AbstractContextManager[Any]:
        """Lend a session for one call."""
        return self._sessions.lend(self.open)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments that this predictor was made with."""
        return {"threads": self.threads}

    def __reduce__(self) -> tuple[Callable[..., ArtifactPredictor], tuple[object, ...]]:
        path, sha256 = self.artifact.path, self.contract.sha256
        return _load_again, (type(self), path, sha256, self.options())

    def activations(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]] | None:
        """Return the tensors inside the network by name, for ``pixels`` (N, C, H, W).

        Names are the layers', with a suffix where one layer became several operations. ``None`` if
        the engine cannot show them.
        """
        return None

    def laid_out(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Return ``pixels`` (N, C, H, W) in the layout and dtype of the contract's input."""
        if self.contract.input.layout == "NHWC":
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        if self.contract.input.dtype == "float32":
            return pixels.astype(np.float32)
        return pixels

    def check_embedded(self, text: str | bytes | None) -> None:
        """Raise `InputError` unless ``text``, found inside the model, is the contract."""
        if text is None:
            raise InputError(
                f"{self.where}: no contract inside the model; it was not made by Mobilette"
            )
        try:
            inside = json.loads(text)
        except ValueError as error:
            raise InputError(f"{self.where}: the contract inside the model is damaged") from error
        beside = json.loads(canonical(self.contract.embedded()))
        inside = _without_places(inside, beside)
        if inside != beside:
            raise InputError(
                f"{self.where}: the contract inside the model differs from contract.json in "
                f"{', '.join(differing_keys(inside, beside))}"
            )

    def refused(self, error: Exception) -> InputError:
        """Return the error for a model that the engine does not accept."""
        return InputError(f"{self.where}: {self.engine} does not accept it ({one_line(error)})")

    def failed(self, error: Exception) -> InputError:
        """Return the error for a model that the engine failed to execute."""
        return InputError(f"{self.where}: {self.engine} failed ({one_line(error)})")


def _load_again(
    kind: type[ArtifactPredictor], path: Path, sha256: str, options: dict[str, Any]
) -> ArtifactPredictor:
    artifact = open_artifact(path)
    if artifact.contract.sha256 != sha256:
        raise InputError(f"{path}: changed since its predictor was pickled")
    return kind(artifact, **options)


def _without_places(inside: Any, beside: Any) -> Any:
    """Return the contract in a model with places as ``beside``: earlier versions wrote folders."""
    for key, place in (("source", "run"), ("calibration", "data")):
        with suppress(LookupError, TypeError):
            inside = inside | {key: inside[key] | {place: beside[key][place]}}
    return inside


def differing_keys(one: object, other: object, key: str = "") -> list[str]:
    """Return the keys, dotted where nested, at which two JSON values differ."""
    if one == other:
        return []
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [key or "everything"]
    return [
        name
        for each in sorted({*one, *other})
        for name in differing_keys(one.get(each), other.get(each), f"{key}.{each}" if key else each)
    ]


def one_line(error: Exception) -> str:
    """Return an engine's message on one line, at most 200 characters long."""
    return " ".join(str(error).split())[:200]
