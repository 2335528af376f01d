"""`verify`: does an artifact answer like its checkpoint?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.arguments import checked
from mobilette.artifact.directory import GOLDEN, Artifact, open_artifact
from mobilette.artifact.golden import Golden
from mobilette.data.held_out import Choice
from mobilette.data.images import Labels
from mobilette.data.reading import Reading
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from mobilette.limits import DROP
from mobilette.model.answering import PLAIN, Answering
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run
from mobilette.run.metrics import accuracy, right_answers
from mobilette.run.subject import model_sha256, resolve
from mobilette.verification.by_class import changed, changes_by_class
from mobilette.verification.diagnosis import check_bundle, check_exact, check_metadata, diagnose
from mobilette.verification.evaluate import labelled_images, read_split, trained_of
from mobilette.verification.first_difference import IMAGES, first_difference
from mobilette.verification.gate import (
    MAX_DROP,
    compare,
    judge_features,
    judge_golden,
    judge_images,
    right_answers_kept,
    signal_to_noise,
)
from mobilette.verification.promised import measure_promise
from mobilette.verification.readme import check_readme
from mobilette.verification.statistics import calibration_error
from mobilette.verification.verdict import Verdict


@checked
def verify(
    artifact: str | Path | Artifact,
    data: str | Path | None = None,
    *,
    checkpoint: str | Path | Run | Model | None = None,
    split: str | None = None,
    include_trained: bool = False,
    max_drop: float = MAX_DROP,
    workers: int | None = None,
    max_unusable: float = 0.1,
    reporter: Reporter = SILENT,
) -> Verdict:
    """Compare an artifact with its checkpoint on golden vectors and images, and judge it.

    Each side prepares images by its own record: the artifact by its contract, the checkpoint by
    its run. Some are also prepared by the code in the artifact's README.

    Args:
        artifact: an artifact or its directory.
        data: images; without them only golden vectors are compared.
        checkpoint: the run or model it was made from; by default the contract's run.
        split: by default ``val`` if there is one, else every image.
        include_trained: also compare on those that the checkpoint was trained on, which are left
            out otherwise.
        max_drop: percentage points of accuracy that int8 may lose; other precisions have their own
            limits (`mobilette.verification.gate.LIMITS`).
        workers: processes that decode; by default one per core.
        max_unusable: largest fraction of images that may be unreadable.
        reporter: receives the number of images read.

    Raises:
        InputError: a file of the artifact was changed, or the images cannot be used.
    """
    DROP.check("--max-drop", max_drop)
    opened = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
    predictor = open_engine(opened)
    model, notes = _find_model(opened, checkpoint)
    verdict = _on_golden(predictor, model)
    if data is None:
        notes.append("no images given: golden vectors only")
        if verdict.failures and model is not None:
            layer = _first_layer(opened, model, None)
            verdict = replace(verdict, failures=(*verdict.failures, *layer))
    else:
        reading = Reading(
            workers=workers, max_unusable=max_unusable, split=split, include_trained=include_trained
        )
        labelled = labelled_images(
            data,
            predictor.classes,
            reading=reading,
            trained=trained_of(opened if model is None else model),
            multi_label=predictor.multi_label,
        )
        notes += labelled.remarks
        verdict = _on_images(
            replace(verdict, classes_matched_by=labelled.matched_by),
            predictor,
            model,
            labelled.choice,
            reading,
            reporter,
            max_drop=max_drop,
        )
    return replace(verdict, passed=not verdict.failures, notes=(*notes, *verdict.notes))


def _on_golden(predictor: ArtifactPredictor, model: Model | None) -> Verdict:
    """Judge contract and golden vectors; if these fail, diagnose the mistake."""
    golden, contract = predictor.artifact.golden, predictor.contract
    answers = predictor.logits(golden.inputs)
    if answers.shape != golden.logits.shape:
        raise InputError(
            f"{predictor.where}: {answers.shape[-1]} logits per image, but {GOLDEN} has "
            f"{golden.logits.shape[-1]}; they are of different models"
        )
    failures = []
    if model is not None:
        failures += check_metadata(contract, model)
        failures += _check_golden(golden, model)
    if contract.target == "mcu":
        failures += check_exact(predictor.artifact)
    if contract.target == "web":
        failures += check_bundle(predictor.artifact)
    comparison = compare(answers, golden.logits)
    wrong = judge_golden(comparison, contract.precision)
    features_db = None
    if golden.features is not None and contract.features:
        features = predictor.features(golden.inputs)
        features_db = signal_to_noise(features, golden.features)
        failures += judge_features(features, golden.features, contract.precision, "golden vectors")
    if wrong:
        wrong += diagnose(predictor, model)
    return Verdict(
        passed=False,
        target=contract.target,
        precision=contract.precision,
        engine=predictor.engine,
        max_abs_diff=comparison.max_abs_diff,
        signal_to_noise_db=comparison.signal_to_noise_db,
        top1_agreement=comparison.top1_agreement,
        features_signal_to_noise_db=features_db,
        failures=(*failures, *wrong),
        notes=(),
    )


def _check_golden(golden: Golden, model: Model) -> list[str]:
    arch = model.arch
    if golden.inputs.shape[1:] != arch.shape or golden.logits.shape[1] != arch.num_classes:
        return [f"{GOLDEN}: does not fit the run's network"]
    checkpoint = CheckpointPredictor(model)
    own = compare(golden.logits, checkpoint.logits(golden.inputs))
    if not judge_golden(own):
        if golden.features is None:
            return []
        return judge_features(
            golden.features, checkpoint.features(golden.inputs), "fp32", f"{GOLDEN}, by the run"
        )
    return [
        f"{GOLDEN}: not what the checkpoint answers (logits differ by up to {own.max_abs_diff:.3g})"
    ]


def _on_images(
    verdict: Verdict,
    predictor: ArtifactPredictor,
    model: Model | None,
    choice: Choice,
    reading: Reading,
    reporter: Reporter,
    *,
    max_drop: float,
) -> Verdict:
    read = read_split(predictor, choice, reading, reporter)
    readme = check_readme(predictor.artifact, read.images)
    labels, pixels = read.split.labels, read.split.pixels[:]
    sample, ours = pixels[:IMAGES], predictor.logits(pixels)
    features = predictor.features(pixels) if predictor.contract.features else None
    failures, notes = [*verdict.failures, *readme.failures], list(readme.notes)
    if read.unusable:
        name, reason = read.unusable[0]
        notes.append(f"{len(read.unusable)} images left out; the first is {name}: {reason}")
    right = accuracy(ours, labels)
    verdict = replace(
        verdict,
        images=len(labels),
        trained_left_out=read.left_out,
        includes_trained=read.includes_trained,
        readme_images=readme.images,
        accuracy_artifact=right,
        calibration_error_artifact=_calibration_error(ours, labels),
        calibrated_error_artifact=_calibration_error(ours, labels, predictor.answering),
        temperature_artifact=predictor.answering.temperature,
        promise_artifact=measure_promise(ours, labels, predictor.answering),
    )
    if model is not None:
        checkpoint = CheckpointPredictor(model)
        again = read_split(checkpoint, Choice(images=read.images), reading, reporter)
        theirs = checkpoint.logits(again.split.pixels[:])
        comparison, source_right = compare(ours, theirs), accuracy(theirs, labels)
        failures += judge_images(
            comparison,
            drop=source_right - right,
            kept=right_answers_kept(ours, theirs, labels),
            precision=predictor.contract.precision,
            max_drop=max_drop,
        )
        features_db = None
        if features is not None:
            expected = checkpoint.features(again.split.pixels[:])
            features_db = signal_to_noise(features, expected)
            failures += judge_features(features, expected, predictor.contract.precision, "images")
        if failures:
            failures += _first_layer(predictor.artifact, model, sample)
        verdict = replace(
            verdict,
            max_abs_diff=max(verdict.max_abs_diff, comparison.max_abs_diff),
            signal_to_noise_db=comparison.signal_to_noise_db,
            top1_agreement=comparison.top1_agreement,
            features_signal_to_noise_db=features_db,
            accuracy_source=source_right,
            calibration_error_source=_calibration_error(theirs, labels),
            calibrated_error_source=_calibration_error(theirs, labels, model.answering),
            temperature_source=model.answering.temperature,
            promise_source=measure_promise(theirs, labels, model.answering),
            change=changed(right_answers(theirs, labels), right_answers(ours, labels)),
            by_class=changes_by_class(theirs, ours, labels, predictor.classes),
        )
    return replace(verdict, failures=tuple(failures), notes=tuple(notes))


def _first_layer(artifact: Artifact, model: Model, pixels: NDArray[np.uint8] | None) -> list[str]:
    """Name the first layer that differs, if the engine shows its layers."""
    found = first_difference(artifact, model, pixels)
    if found is None:
        return []
    size = f"{found.relative:.1%} of its largest value, {found.snr_db:.1f} dB"
    return [f"the first layer that differs is {found.layer} ({size})"]


def _calibration_error(
    logits: NDArray[np.float32], labels: Labels, answering: Answering = PLAIN
) -> float | None:
    if labels.ndim == 2:
        return None
    return calibration_error(logits, labels, temperature=answering.temperature)


def _find_model(
    artifact: Artifact, given: str | Path | Run | Model | None
) -> tuple[Model | None, list[str]]:
    if given is None:
        reason = artifact.why_no_model()
        if reason is None:
            return artifact.model, []
        return None, [f"{reason}: golden vectors only (--from RUN names it)"]
    model, run = resolve(given)
    found = model_sha256(model, run)
    if found != artifact.contract.source.weights_sha256:
        where = run.weights_path if run is not None else model.origin.source
        raise InputError(f"{where}: not the weights that the artifact was made from")
    return model, []
