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
from mobilette.engines.load import open_engine, why_not_run
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS
from mobilette.exporters.readme import readme
from mobilette.folders import new_directory
from mobilette.model.answering import Answering
from mobilette.model.directory import is_imported
from mobilette.progress import Reporter
from mobilette.run.directory import Run, recorded_data
from mobilette.run.temperature import fit_temperature
from mobilette.run.trained import trained_on
from mobilette.verification.evaluate import labelled_images, read_split

# Images that are enough, evenly spread over the split.
MOST = 10_000


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Images that a model was not trained on, uint8 (N, C, H, W), and their labels."""

    pixels: NDArray[np.uint8]
    labels: Labels


def held_out(run: Run | None, *, reading: Reading, reporter: Reporter) -> HeldOut:
    """Return the images that ``run`` held out.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    if run is None or is_imported(run.path):
        raise InputError("the model was not trained in a run, so it held out no images")
    reading = replace(reading, split="val")
    choice = labelled_images(
        recorded_data(run.path),
        run.classes,
        reading=reading,
        trained=trained_on(run),
        multi_label=run.multi_label,
    ).choice
    images = members(choice)
    some = replace(choice, images=images[:: -(-len(images) // MOST)], part="")
    split = read_split(run.model, some, reading, reporter).split
    return HeldOut(pixels=split.pixels[:], labels=split.labels)


def why_no_answers(artifact: Artifact) -> str | None:
    """Return why nothing here can execute ``artifact``, or ``None``."""
    contract = artifact.contract
    if not contract.verifiable:
        return f"nothing here executes {contract.target!r} artifacts"
    return why_not_run(contract.target, artifact.path)


def fit_answering(artifact: Artifact, images: HeldOut, reporter: Reporter) -> Answering:
    """Return how ``artifact`` answers best, by its engine's answers to ``images``."""
    logits = open_engine(artifact).logits(images.pixels)
    temperature, why_not = fit_temperature(logits, images.labels)
    count = len(images.labels)
    how = f"not fitted: {why_not}" if why_not else f"fitted on {count:,} images held out"
    reporter.remark(f"{artifact.path.name}: temperature {temperature:g}, {how}")
    return Answering(temperature=temperature)


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
