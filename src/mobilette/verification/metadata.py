"""Does the contract of an artifact say what the run that it was made from says?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mobilette.artifact.contract import Contract
from mobilette.model.classes import ClassLabel
from mobilette.run.directory import Run


def check_metadata(contract: Contract, run: Run) -> list[str]:
    """Return what ``contract`` says otherwise than ``run``, a line each."""
    failures = []
    if contract.arch.hash != run.arch.hash:
        failures.append("contract.json: arch is not the run's network")
    ours, theirs = asdict(contract.preprocess), asdict(run.preprocess)
    failures += [
        f"contract.json: preprocess.{key} is {_short(value)}, the run's is {_short(theirs[key])}"
        for key, value in ours.items()
        if value != theirs[key]
    ]
    failures += _check_classes(contract.classes, run.classes)
    outputs = "sigmoid" if run.multi_label else "softmax"
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
