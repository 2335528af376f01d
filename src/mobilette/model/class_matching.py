"""Matches folders of images with a model's classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from mobilette.data.images import LabelledImage, indices_of
from mobilette.data.names import folded
from mobilette.errors import InputError, nearest
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model

BY_NAME, BY_SIMILAR_NAME = "name", "name without case and number"
BY_SYNSET, BY_ORDER = "synset prefix", "order"
# WordNet's noun offset, as in ImageNet's folder names
SYNSET = re.compile(r"n\d{8}(?=$|[^0-9])")
_NUMBER_BEFORE = re.compile(r"^\d+[\W_]+(?=[^\W\d_])")  # not of 1.5 or 5-10
_NUMBER = re.compile(r"[0-9]{1,18}")
_BETWEEN = re.compile(r"[\W_]+")


def match_classes(
    folders: Sequence[str], classes: Sequence[ClassLabel], *, where: str
) -> tuple[list[int], str]:
    """Return the class index of each of ``folders``, and how they were matched.

    Tried in order: the class id or name; the same ignoring case, a leading number (``03_cat``),
    leading zeros (``07``) and separators between words; the synset at the start of the folder
    name; and, if the folders or the classes are just numbers and equally many, their order. All but
    the first are guesses.

    Raises:
        InputError: a folder matches no class or two, or two folders match one class.
    """
    ids = {label.id: index for index, label in enumerate(classes)}
    named: dict[str, list[str]] = {}
    for label in classes:
        named.setdefault(label.name, []).append(label.id)
    for folder in folders:  # ImageNet has two cranes
        if folder not in ids and len(same := named.get(folder, ())) > 1:
            raise InputError(
                f"{where}: {len(same)} classes of the model are called {folder!r}; name the folder "
                f"by its id: {', '.join(same)}"
            )
    known = {name: ids[same[0]] for name, same in named.items() if len(same) == 1} | ids
    if all(folder in known for folder in folders):
        return _all_of(folders, known, classes, where), BY_NAME
    similar = _similar(known)
    there = {folder: known.get(folder, similar.get(plain(folder), -1)) for folder in folders}
    by_name = {folder: index for folder, index in there.items() if index >= 0}
    if len(by_name) == len(there):
        return _all_of(folders, by_name, classes, where), BY_SIMILAR_NAME
    synsets = {folder: found[0] for folder in folders if (found := SYNSET.match(folder))}
    by_synset = {folder: ids[synset] for folder, synset in synsets.items() if synset in ids}
    if by_synset and not by_name:
        return _all_of(folders, by_synset, classes, where), BY_SYNSET
    numbers = _are_numbers(folders) or _are_numbers([label.name for label in classes])
    if numbers and not by_name and len(folders) == len(classes):
        return _ranks(folders), BY_ORDER
    return _all_of(folders, by_name, classes, where), BY_NAME


def guessed(matched_by: str) -> tuple[str, ...]:
    """Return a remark unless the classes were matched by exact name."""
    return () if matched_by == BY_NAME else (f"folders matched with classes by {matched_by}",)


def relabelled(
    images: Iterable[LabelledImage], index: Sequence[int], *, multi_label: bool
) -> tuple[LabelledImage, ...]:
    """Return ``images`` with each label n replaced by ``index[n]``."""
    found = []
    for image in images:
        labels = tuple(sorted(index[number] for number in indices_of(image.label)))
        found.append(replace(image, label=labels if multi_label else labels[0]))
    return tuple(found)


def plain(name: str) -> str:
    """Return ``name`` without case, leading number and zeros, and with separators as spaces."""
    words = _BETWEEN.sub(" ", folded(_NUMBER_BEFORE.sub("", name.strip()))).strip()
    return words.lstrip("0") or "0" if words.isdecimal() else words


def _similar(known: Mapping[str, int]) -> dict[str, int]:
    """Return the class of each plain name that only one class has."""
    found: dict[str, set[int]] = {}
    for name, index in known.items():
        found.setdefault(plain(name), set()).add(index)
    return {name: min(indices) for name, indices in found.items() if name and len(indices) == 1}


def _are_numbers(names: Iterable[str]) -> bool:
    return all(map(_NUMBER.fullmatch, names))


def _ranks(folders: Sequence[str]) -> list[int]:
    """Return each folder's rank, numbers by value."""
    key = int if _are_numbers(folders) else str
    order = sorted(range(len(folders)), key=lambda index: key(folders[index]))
    ranks = [0] * len(folders)
    for rank, index in enumerate(order):
        ranks[index] = rank
    return ranks


def _all_of(
    folders: Sequence[str], known: dict[str, int], classes: Sequence[ClassLabel], where: str
) -> list[int]:
    for folder in folders:
        if folder not in known:
            some = ", ".join(label.id for label in classes[:5]) + ", ..." * (len(classes) > 5)
            names = [text for label in classes for text in (label.id, label.name)]
            raise InputError(
                f"{where}: class {folder!r} is none of the model's {len(classes)} ({some})"
                f"{nearest(folder, names)}"
            )
    found: dict[int, str] = {}
    for folder in folders:
        other = found.setdefault(known[folder], folder)
        if other != folder:
            raise InputError(
                f"{where}: two folders are one class of the model: {other!r} and {folder!r}"
            )
    return list(found)


def are_numbers(classes: Sequence[ClassLabel]) -> bool:
    """Whether ``classes`` are named by their numbers, as for weights without class names."""
    return all(label.id == str(number) for number, label in enumerate(classes))


def select_classes(model: Model, ids: Sequence[str]) -> Model | None:
    """Return ``model`` with a classifier for ``ids`` alone, in this order.

    ``None`` if one of them matches no class by name or synset.
    """
    if are_numbers(model.classes) and list(ids) != [label.id for label in model.classes]:
        return None  # a number does not identify a class
    if not model.has_classifier:
        return None
    try:
        indices, matched_by = match_classes(ids, model.classes, where=model.origin.source)
    except InputError:
        return None
    if matched_by == BY_ORDER:
        return None
    rows = torch.tensor(indices)
    return replace(
        model,
        arch=model.arch.with_classes(len(ids)),
        weights={
            name: tensor[rows] if name.startswith("head.classifier.") else tensor
            for name, tensor in model.weights.items()
        },
        classes=tuple(
            ClassLabel(id=own, name=model.classes[index].name)
            for own, index in zip(ids, indices, strict=True)
        ),
    )
