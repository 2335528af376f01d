"""`verify`: does an artifact answer as its checkpoint did?"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.data.dataset import load_split
from mobilette.data.labels import Labels
from mobilette.data.reading import LoadReport
from mobilette.engines.load import open_engine
from mobilette.engines.predictor import Predictor
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.errors import InputError
from mobilette.files import read_bytes
from mobilette.run.class_matching import BY_NAME
from mobilette.run.directory import WEIGHTS, Run, is_run, open_run
from mobilette.run.metrics import accuracy
from mobilette.training.process import usable_cores
from mobilette.verification.evaluate import labelled_pictures
from mobilette.verification.exact import check_exact
from mobilette.verification.gate import compare, judge_golden, judge_pictures


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found; accuracies are fractions, ``None`` where no pictures were given.

    Attributes:
        max_abs_diff: the largest difference of any logit, over golden vectors and pictures.
        top1_agreement: over the pictures; over the golden vectors where there are no pictures, or
            no checkpoint to compare with on them.
        failures: why it did not pass; empty if it did.
        notes: what could not be checked, and why.
    """

    passed: bool
    max_abs_diff: float
    top1_agreement: float
    accuracy_source: float | None = None
    accuracy_artifact: float | None = None
    images: int = 0
    failures: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the verdict as JSON values."""
        return asdict(self)


def verify(
    artifact: str | Path,
    data: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    split: str | None = None,
    workers: int | None = None,
    max_unusable: float = 0.1,
    report_load: LoadReport | None = None,
) -> Verdict:
    """Run an artifact and its checkpoint on golden vectors and on the same pictures; judge.

    Each side prepares the pictures by its own record: the artifact by its contract, the
    checkpoint by its run.

    Args:
        artifact: the artifact directory.
        data: pictures; without them only golden vectors are compared.
        checkpoint: the run; by default the one that the contract names.
        split: by default ``val`` where there is one, else every picture.
        workers: processes that decode; ``None`` means one a core.
        max_unusable: the part of the pictures that may be unusable.
        report_load: called with (pictures read, pictures in all).

    Raises:
        InputError: a file of the artifact was changed, or the pictures cannot be used.
    """
    opened = open_artifact(artifact)
    predictor = open_engine(opened)
    run, notes = _find_run(opened, checkpoint)
    golden = opened.golden
    on_golden = compare(predictor.logits(golden.inputs), golden.logits)
    failures = judge_golden(on_golden)
    if opened.contract.target == "mcu":
        failures += check_exact(opened)
    if data is None:
        return Verdict(
            passed=not failures,
            max_abs_diff=on_golden.max_abs_diff,
            top1_agreement=on_golden.top1_agreement,
            failures=tuple(failures),
            notes=(*notes, "no pictures given: golden vectors only"),
        )
    pictures, by = labelled_pictures(
        data, predictor.classes, split=split, multi_label=predictor.multi_label
    )
    if by != BY_NAME:
        notes.append(f"folders matched with classes by {by}")

    def answers(side: Predictor) -> tuple[NDArray[np.float32], Labels]:
        read, unusable = load_split(
            pictures,
            num_classes=len(side.classes),
            resolution=side.arch.resolution,
            preprocess=side.preprocess,
            workers=usable_cores() if workers is None else workers,
            max_unusable=max_unusable,
            on_progress=report_load,
        )
        if unusable and side is predictor:
            name, reason = unusable[0]
            notes.append(f"{len(unusable)} pictures left out; the first is {name}: {reason}")
        return side.logits(read.pixels[:]), read.labels

    ours, labels = answers(predictor)
    accuracy_artifact = accuracy(ours, labels)
    comparison, accuracy_source = on_golden, None
    if run is not None:
        theirs, _ = answers(CheckpointPredictor(run))
        comparison = compare(ours, theirs)
        accuracy_source = accuracy(theirs, labels)
        failures += judge_pictures(comparison, drop=accuracy_source - accuracy_artifact)
    return Verdict(
        passed=not failures,
        max_abs_diff=max(on_golden.max_abs_diff, comparison.max_abs_diff),
        top1_agreement=comparison.top1_agreement,
        accuracy_source=accuracy_source,
        accuracy_artifact=accuracy_artifact,
        images=len(labels),
        failures=tuple(failures),
        notes=tuple(notes),
    )


def _find_run(artifact: Artifact, given: str | Path | None) -> tuple[Run | None, list[str]]:
    """Return the checkpoint's run, or none and the reason why there is none.

    Raises:
        InputError: ``given`` is no run, or not the one that the artifact was made from.
    """
    source = artifact.contract.source
    path = Path(given) if given is not None else artifact.path / source.run
    if given is None and not (is_run(path) and (path / WEIGHTS).is_file()):
        return None, [f"the run {path} is not there: golden vectors only (--from RUN names it)"]
    run = open_run(path)
    if hashlib.sha256(read_bytes(run.weights_path)).hexdigest() == source.weights_sha256:
        return run, []
    reason = f"{run.weights_path}: not the weights that the artifact was made from"
    if given is not None:
        raise InputError(reason)
    return None, [f"{reason}: golden vectors only"]
