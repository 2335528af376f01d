"""The served artifacts: opened by name, described, opened again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mobilette.arch.scale import size_of
from mobilette.artifact.directory import CONTRACT, GOLDEN, LABELS, Artifact, open_artifact
from mobilette.artifact.web_runtime import (
    BUNDLED,
    FOLDER,
    RUNTIME,
    runtime_files,
    runtime_record,
)
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError, one_of, shown
from mobilette.formats.hub import fetch_model, is_hub_address
from mobilette.serving.settings import Work

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """An artifact under a name, with its engine.

    Attributes:
        files: of a web artifact, what its page loads, by the part of the address after the host.
    """

    name: str
    predictor: ArtifactPredictor
    files: Mapping[str, bytes | Path]

    def facts(self) -> dict[str, object]:
        """Return what a client needs to know, as JSON values; no paths of this machine."""
        contract, predictor = self.predictor.contract, self.predictor
        measured = contract.measured
        return {
            "name": self.name,
            "arch": contract.arch.name,
            "target": contract.target,
            "precision": contract.precision,
            "engine": predictor.engine,
            "resolution": list(size_of(contract.arch.resolution)),
            "classes": [asdict(each) for each in contract.classes],
            "multi_label": predictor.multi_label,
            "preprocess": asdict(contract.preprocess),
            "answering": asdict(contract.answering),
            "top1": None if measured is None else measured.top1,
            "size_bytes": None if measured is None else measured.size_bytes,
            "versions": dict(contract.versions),
            "sha256": contract.sha256,
        }


def parse_places(texts: list[str]) -> dict[str, Path]:
    """Return the folders of artifacts by name from ``FOLDER``, or from ``NAME=FOLDER`` of each.

    A folder may be an address on the hub: the model is fetched, once.

    Raises:
        InputError: a name is missing, given twice or cannot be part of an address, or a model
            cannot be fetched.
    """
    places: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).exists():
            name, folder = DEFAULT, text
            if len(texts) > 1:
                raise InputError(f"{text}: of several artifacts each needs a name; NAME={text}")
        if not NAME.fullmatch(name):
            raise InputError(
                f"{shown(name)} is no name: up to 64 of the letters A to z, digits, '.', '_', '-'"
            )
        if name in places:
            raise InputError(f"{name}: two artifacts of this name")
        places[name] = fetch_model(folder) if is_hub_address(folder) else Path(folder)
    return places


def open_served(places: Mapping[str, Path], *, work: Work) -> dict[str, Served]:
    """Return the artifacts with their engines, which have answered once.

    Raises:
        InputError: one of them is damaged, or nothing here executes it.
    """
    return {name: _open(name, place, work) for name, place in places.items()}


def _open(name: str, place: Path, work: Work) -> Served:
    artifact = open_artifact(place)
    predictor = open_engine(artifact, threads=work.threads)
    for images in sorted({1, work.max_batch}):  # memory is taken now, not by the first requests
        predictor.batch_logits(np.zeros((images, *predictor.arch.shape), np.uint8))
    return Served(name=name, predictor=predictor, files=_page_files(artifact))


def choose(served: Mapping[str, Served], name: str | None) -> Served:
    """Return the artifact called ``name``, or the first; `InputError` if there is none."""
    return served[next(iter(served)) if name is None else one_of(name, served, "model")]


def _page_files(artifact: Artifact) -> dict[str, bytes | Path]:
    """Return what a web artifact's page loads; its engine from here, if npm has put it here."""
    contract = artifact.contract
    if contract.target != "web":
        return {}
    names = (contract.model, *contract.parts, LABELS, GOLDEN)
    files: dict[str, bytes | Path] = {name: artifact.read(name) for name in names}
    files[CONTRACT] = contract.published().to_text().encode()
    if RUNTIME in files and not any(name.startswith(f"{FOLDER}/") for name in names):
        with suppress(InputError):
            files |= {f"{FOLDER}/{name}": content for name, content in runtime_files().items()}
            files[RUNTIME] = runtime_record(BUNDLED)
    return files
