"""Fits how an artifact answers, on images that its run was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.directory import CONTRACT, Artifact, copy_artifact, open_artifact
from mobilette.data.held_out import members
from mobilette.data.images import Labels
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.engines.targets import open_engine, why_not_run
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS
from mobilette.exporters.readme import readme
from mobilette.folders import new_directory
from mobilette.model.answering import Answering
from mobilette.model.directory import is_imported
from mobilette.model.model import Model
from mobilette.progress import Reporter
from mobilette.run.answers import Fitted, check_promise, fit_answering
from mobilette.run.directory import Run, recorded_data
from mobilette.run.promise import Asked, parse_promise
from mobilette.run.trained import trained_on
from mobilette.verification.evaluate import labelled_images, read_split

# Images that are enough, evenly spread over the split.
MOST = 10_000


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Images that a model was not trained on, uint8 (N, C, H, W), their labels and their split."""

    pixels: NDArray[np.uint8]
    labels: Labels
    split: str


def held_out(run: Run | None, *, promises: bool, reading: Reading, reporter: Reporter) -> HeldOut:
    """Return images that ``run`` held out: its ``test``, if there is one for promises, or ``val``.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    if run is None or is_imported(run.path):
        raise InputError("the model was not trained in a run, so it held out no images")
    data, trained = recorded_data(run.path), trained_on(run)
    test = promises and "test" in {*find_images(data).splits, *trained.parts}
    split = "test" if test else "val"
    choice = labelled_images(
        data,
        run.classes,
        reading=replace(reading, split=split),
        trained=trained,
        multi_label=run.multi_label,
    ).choice
    images = members(choice)
    some = replace(choice, images=images[:: -(-len(images) // MOST)], part="")
    read = read_split(run.model, some, reading, reporter).split
    return HeldOut(pixels=read.pixels[:], labels=read.labels, split=split)


def why_no_answers(artifact: Artifact) -> str | None:
    """Return why nothing here can execute ``artifact``, or ``None``."""
    contract = artifact.contract
    if not contract.verifiable:
        return f"nothing here executes {contract.target!r} artifacts"
    return why_not_run(contract.target, artifact.path)


def fit(artifact: Artifact, images: HeldOut, asked: Asked | None, reporter: Reporter) -> Fitted:
    """Return how ``artifact`` answers best, by its engine's answers to ``images``."""
    logits = open_engine(artifact).logits(images.pixels)
    found = fit_answering(logits, images.labels, split=images.split, asked=asked)
    for line in found.remarks:
        reporter.remark(f"{artifact.path.name}: {line}")
    return found


def asked_of(model: Model, promise: str | None) -> Asked | None:
    """Return the promise that is asked for, by default the model's own."""
    if promise is not None:
        return parse_promise(promise)
    own, known = model.answering.promise, model.answering.known
    if own is None and known is None:
        return None
    return Asked(
        error=None if own is None else own.error, kept=None if known is None else known.kept
    )


def promised(
    model: Model, promise: str | None, images: HeldOut, *, where: str, reporter: Reporter
) -> Asked | None:
    """Return the promise to make on ``images``; the model's own only if they are enough.

    Raises:
        InputError: they are not enough for ``promise``.
    """
    asked = asked_of(model, promise)
    if asked is None:
        return None
    try:
        check_promise(asked, images=len(images.labels), multi_label=model.multi_label, where=where)
    except InputError as error:
        if promise is not None:
            raise
        reporter.remark(f"the run's promise is not made anew: {error}")
        return None
    return asked


def place(made: Artifact, final: Path, answering: Answering, *, force: bool) -> Artifact:
    """Copy the artifact ``made`` to ``final``, where it answers by ``answering``."""
    contract = replace(
        made.contract,
        temperature=answering.temperature,
        promise=answering.promise,
        known=answering.known,
    )
    with new_directory(final, holds=CONTRACT, force=force) as folder:
        text = readme(contract, TARGETS[contract.target])
        copy_artifact(made, folder, contract=contract, readme=text)
    return open_artifact(final)
