"""Diagnoses an artifact: its contract, its bits, and known mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import Contract
from mobilette.artifact.directory import Artifact
from mobilette.artifact.tflite import ask_tflite_micro, check_tflite
from mobilette.artifact.web_runtime import FOLDER, PACKAGE, VERSION, differing
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import PRESETS, Preprocess
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.errors import InputError
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.run.inference import checkpoint_logits
from mobilette.verification.gate import compare

Arrays = NDArray[np.uint8]
Logits = NDArray[np.float32]
EXACT_DB, GAIN_DB = 60.0, 10.0

_OTHER_INPUTS: Mapping[str, Callable[[Arrays], Arrays]] = MappingProxyType(
    {
        "colour order: it takes its colours in the opposite order": lambda x: x[:, ::-1],
        "layout: it takes columns for rows": lambda x: x.transpose(0, 1, 3, 2),
    }
)


def diagnose(predictor: ArtifactPredictor, model: Model | None) -> list[str]:
    """Return the known mistakes, a line each, that explain ``predictor``'s golden answers.

    It tries swapped colours, swapped rows and columns, a permuted class order and, if ``model`` is
    known, the means and deviations of the presets, and none.
    """
    golden, precision = predictor.artifact.golden, predictor.contract.precision
    answers = predictor.logits(golden.inputs)
    # A mistake explains fp32 answers at 60 dB; rounded ones if the ratio clearly rises.
    least = EXACT_DB
    if precision != "fp32":
        least = compare(answers, golden.logits).signal_to_noise_db + GAIN_DB
    found = []
    for mistake, change in _OTHER_INPUTS.items():
        inputs = np.ascontiguousarray(change(golden.inputs))
        if not np.array_equal(inputs, golden.inputs) and _fits(
            predictor.logits(inputs), golden.logits, least
        ):
            found.append(f"{mistake} (the golden vectors fit then)")
    found += _other_class_order(answers, golden.logits, predictor, least)
    if model is None:
        return found
    for what, preprocess in _other_preprocesses(model.preprocess):
        logits = checkpoint_logits(model.network, Normalise(preprocess), golden.inputs)
        if _fits(answers, logits, least):
            return [*found, f"mean and std: it answers as with {what}"]
    return found


def _fits(one: Logits, other: Logits, least: float) -> bool:
    return compare(one, other).signal_to_noise_db >= least


def _other_class_order(
    answers: Logits, logits: Logits, predictor: ArtifactPredictor, least: float
) -> list[str]:
    """Name two swapped classes if the columns of ``answers`` are only permuted."""
    if not np.isfinite(answers).all():
        return []
    # Sorting both sides' columns by value pairs them; equal columns may swap.
    ours, theirs = (np.lexsort(side[::-1]) for side in (answers, logits))
    column = np.empty(len(ours), np.int64)
    column[theirs] = ours
    moved = np.flatnonzero(column != np.arange(len(column)))
    if not len(moved) or not _fits(answers[:, column], logits, least):
        return []
    first = int(moved[0])
    names = predictor.classes
    return [
        "class order: the logits are in another order than the labels; the logit of "
        f"{names[first].id!r} is where {names[int(column[first])].id!r} belongs"
    ]


def _other_preprocesses(own: Preprocess) -> Iterator[tuple[str, Preprocess]]:
    none, one = (0.0,) * own.channels, (1.0,) * own.channels
    yield "a mean of 0", replace(own, mean=none)
    yield "a std of 1", replace(own, std=one)
    yield (
        "pixels divided by 255 beforehand",
        replace(
            own,
            mean=tuple(255 * value for value in own.mean),
            std=tuple(255 * value for value in own.std),
        ),
    )
    for name, preset in PRESETS.items():
        if own.channels == preset.channels:
            flip = preset.colour != own.colour
            mean, std = (side[::-1] if flip else side for side in (preset.mean, preset.std))
            if (mean, std) != (own.mean, own.std):
                yield f"those of the preset {name!r}", replace(own, mean=mean, std=std)


def check_metadata(contract: Contract, model: Model) -> list[str]:
    """Return where ``contract`` differs from ``model``, a line each."""
    failures = []
    if contract.arch.hash != model.arch.hash:
        failures.append("contract.json: arch is not the run's network")
    ours, theirs = asdict(contract.preprocess), asdict(model.preprocess)
    failures += [
        f"contract.json: preprocess.{key} is {_short(value)}, the run's is {_short(theirs[key])}"
        for key, value in ours.items()
        if value != theirs[key]
    ]
    failures += _check_classes(contract.classes, model.classes)
    outputs = "sigmoid" if model.multi_label else "softmax"
    if contract.outputs != outputs:
        failures.append(f"contract.json: outputs is {contract.outputs}, the run's is {outputs}")
    return failures


def _check_classes(ours: tuple[ClassLabel, ...], theirs: tuple[ClassLabel, ...]) -> list[str]:
    if ours == theirs:
        return []
    if len(ours) != len(theirs):
        return [f"contract.json: {len(ours)} classes, the run has {len(theirs)}"]
    index = next(index for index, label in enumerate(ours) if label != theirs[index])
    same = {label.id for label in ours} == {label.id for label in theirs}
    return [
        f"contract.json: {'the order of the ' if same else ''}classes is not the run's; number "
        f"{index + 1} is {ours[index].id!r}, the run's is {theirs[index].id!r}"
    ]


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(f"{item:g}" for item in value) + ")"
    return str(value)


def check_bundle(artifact: Artifact) -> list[str]:
    """Return which file of a bundled onnxruntime-web is not npm's: browsers execute it."""
    begin = f"{FOLDER}/"
    inside = [name for name in artifact.contract.parts if name.startswith(begin)]
    wrong = differing({name.removeprefix(begin): artifact.read(name) for name in inside})
    return [f"{begin}{wrong}: not that of npm's {PACKAGE} {VERSION}"] if wrong else []


def check_exact(artifact: Artifact) -> list[str]:
    """Return how tflite-micro's golden answers differ from the exact ones; empty if no bit does.

    The exact ones are the int8 answers that LiteRT's reference kernels gave at export.
    """
    golden = artifact.golden
    if golden.exact is None:
        return ["golden vectors: no exact int8 answers, which a microcontroller must give"]
    where = artifact.path / artifact.contract.model
    model = artifact.read_model()
    try:
        check_tflite(model)
        pixels = np.ascontiguousarray(golden.inputs.transpose(0, 2, 3, 1))
        answers = ask_tflite_micro(model, pixels)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if answers.shape != golden.exact.shape:
        return [f"tflite-micro answers with {answers.shape[1]} numbers per image"]
    different = np.abs(answers.astype(int) - golden.exact)
    if not different.any():
        return []
    wrong = int(different.any(axis=1).sum())
    failures = [
        f"tflite-micro's answers to {wrong} of {len(answers)} golden inputs differ from "
        f"LiteRT's reference kernels by up to {different.max()} steps"
    ]
    if len(answers) > 1 and (answers == answers[0]).all():
        failures.append("tflite-micro gives the same answer to every golden input")
    return failures
