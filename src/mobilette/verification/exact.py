"""Whether a microcontroller's kernels answer to the bit as the model's own record says."""

from __future__ import annotations

import numpy as np

from mobilette.artifact.directory import Artifact
from mobilette.artifact.tflite import check_tflite
from mobilette.artifact.tflite_kernels import ask_tflite_micro
from mobilette.errors import InputError


def check_exact(artifact: Artifact) -> list[str]:
    """Return how tflite-micro's answers to the golden inputs differ from the exact ones.

    Those are the int8 answers of LiteRT's reference kernels, written at the export. An empty list
    means that every bit is the same.

    Raises:
        InputError: the model is damaged, or tflite-micro does not run it.
    """
    golden = artifact.golden
    if golden.exact is None:
        return ["golden vectors: without the exact int8 answers that a microcontroller has to give"]
    where = artifact.path / artifact.contract.model
    model = artifact.read_model()
    try:
        check_tflite(model)
        pixels = np.ascontiguousarray(golden.inputs.transpose(0, 2, 3, 1))
        answers = ask_tflite_micro(model, pixels)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if answers.shape != golden.exact.shape:
        return [f"tflite-micro answers with {answers.shape[1]} numbers an image"]
    different = np.abs(answers.astype(int) - golden.exact)
    if not different.any():
        return []
    wrong = int(different.any(axis=1).sum())
    failures = [
        f"tflite-micro's answers to {wrong} of {len(answers)} golden inputs are not those of "
        f"LiteRT's reference kernels: up to {different.max()} steps apart"
    ]
    if len(answers) > 1 and (answers == answers[0]).all():
        failures.append("tflite-micro answers every golden input alike: a constant")
    return failures
