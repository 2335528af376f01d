"""The run that somebody named, who may have named an artifact of it."""

from __future__ import annotations

import os
from pathlib import Path

from mobilette.artifact.directory import is_artifact, open_artifact
from mobilette.errors import InputError
from mobilette.run.directory import Run, open_run


def open_trained_run(path: str | Path) -> Run:
    """Return the run in the directory ``path``.

    Raises:
        InputError: it is none; of an artifact it says which run that was made from.
    """
    path = Path(path)
    if not is_artifact(path):
        return open_run(path)
    contract = open_artifact(path).contract
    what = "quantised already" if contract.precision == "int8" else "an artifact, not a run"
    made_from = os.path.normpath(path / contract.source.run)
    raise InputError(f"{path}: {what}; give the run it was made from, {made_from}")
