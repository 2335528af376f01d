"""What a run was trained on, as its dataset.json records it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mobilette.data.dataset import Dataset
from mobilette.data.digests import NEW, Digests, Trained
from mobilette.data.images import SPLITS
from mobilette.files import LARGEST_RECORD, read_json
from mobilette.model.directory import DATASET, imported_from, is_model
from mobilette.model.model import Model
from mobilette.run.directory import Run

# Keys of DATASET.
TRAINED, HELD_OUT, MOVED = "trained", "held_out", "moved"
# Keys of TRAINED: why images of earlier runs are not known, and whether those of this run are not.
UNKNOWN, UNFINISHED = "unknown", "unfinished"


def trained_on(subject: Run | Model) -> Trained:
    """Return what a run, or the run that a model was read from, was trained on."""
    if isinstance(subject, Run):
        return read_trained(subject.path)
    source = Path(subject.origin.source)
    return read_trained(source) if source.is_absolute() and is_model(source) else NEW


def read_trained(path: Path) -> Trained:
    """Return what the run in the folder ``path`` was trained on.

    Of a model that was imported or saved nothing is known unless it comes from another run.

    Raises:
        InputError: the record is damaged.
    """
    visited = set()
    while (source := imported_from(path)) is not None:
        visited.add(path)
        path = Path(source)
        if path in visited or not (path.is_absolute() and is_model(path)):
            return NEW
    where = path / DATASET
    recorded = read_json(where) if where.exists() else None
    found = recorded.get(TRAINED) if isinstance(recorded, dict) else None
    if not isinstance(recorded, dict) or not isinstance(found, Mapping):
        return Trained(unknown=f"{path} does not record it")
    held_out = recorded.get(HELD_OUT)
    parts = {
        split: Digests.from_json(held_out[split], where=str(where))
        for split in SPLITS
        if isinstance(held_out, Mapping) and split in held_out
    }
    unknown = "its training is not finished" if UNFINISHED in found else found.get(UNKNOWN, "")
    return Trained(
        images=Digests.from_json(found, where=str(where)),
        parts=MappingProxyType(parts),
        names=MappingProxyType(
            {split: frozenset(map(str, recorded.get(f"{split}_names", ()))) for split in parts}
        ),
        unknown=f"{path}: {unknown}" if unknown else "",
    )


def read_moved(recorded: Mapping[str, object], *, where: Path) -> Digests:
    """Return the images that were not held out because an earlier run was trained on them."""
    return Digests.from_json(recorded.get(MOVED), where=str(where))


def describe_trained(dataset: Dataset, before: Trained) -> dict[str, object]:
    """Return what dataset.json records about images of a new run, beside `Dataset.describe`.

    ``before`` is what its initial weights were trained on.
    """
    content = dataset.content
    if content is None:
        return _recorded(before.images, before.unknown, dataset.describe(), finished=False)
    described: dict[str, object] = dataset.describe() | {
        HELD_OUT: {name: content[name].to_json() for name in dataset.parts}
    }
    if len(dataset.moved):
        described[MOVED] = dataset.moved.to_json()
    return _recorded(before.images | content["train"], before.unknown, described)


def now_known(recorded: Mapping[str, object], images: Digests) -> dict[str, object]:
    """Return dataset.json, ``recorded``, with ``images``: what a streamed run was trained on."""
    before = recorded.get(TRAINED)
    unknown = before.get(UNKNOWN, "") if isinstance(before, Mapping) else ""
    return _recorded(Digests.from_json(before, where=DATASET) | images, str(unknown), recorded)


def _recorded(
    images: Digests, unknown: str, described: Mapping[str, object], *, finished: bool = True
) -> dict[str, object]:
    """Return ``described`` with the key `TRAINED`, as small as a record has to be."""
    found: dict[str, object] = {**images.to_json()}
    if unknown:
        found[UNKNOWN] = unknown
    if not finished:
        found[UNFINISHED] = True
    whole = {**described, TRAINED: found}
    if len(json.dumps(whole, indent=1)) <= LARGEST_RECORD:
        return whole
    left = {key: value for key, value in whole.items() if key not in (HELD_OUT, MOVED)}
    return left | {TRAINED: {UNKNOWN: f"{len(images):,} images are too many to record"}}
