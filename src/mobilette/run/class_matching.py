"""Which of a model's classes a folder of pictures is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mobilette.errors import InputError, nearest
from mobilette.run.classes import ClassLabel

BY_NAME, BY_SYNSET, BY_ORDER = "name", "synset prefix", "order"
# WordNet's offset of a noun, as ImageNet's folders are called
SYNSET = re.compile(r"n\d{8}(?=$|[^0-9])")


def match_classes(
    folders: Sequence[str], classes: Sequence[ClassLabel], *, where: str
) -> tuple[list[int], str]:
    """Return for each of ``folders`` the index of its class, and by what they were matched.

    By the id or the name of the class; else by the synset that a folder's name begins with; else,
    where no folder's name is a class at all and there are as many of both, by order.

    Raises:
        InputError: a folder is none of the classes, or two are the same.
    """
    ids = {label.id: index for index, label in enumerate(classes)}
    names = {label.name: index for index, label in reversed(list(enumerate(classes)))}
    known = names | ids
    if any(folder in known for folder in folders):
        return _all_of(folders, known, classes, where), BY_NAME
    synsets = {folder: found[0] for folder in folders if (found := SYNSET.match(folder))}
    if any(synset in ids for synset in synsets.values()):
        by_synset = {folder: ids[synset] for folder, synset in synsets.items() if synset in ids}
        return _all_of(folders, by_synset, classes, where), BY_SYNSET
    if len(folders) == len(classes):
        return list(range(len(folders))), BY_ORDER
    return _all_of(folders, known, classes, where), BY_NAME


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
    indices = [known[folder] for folder in folders]
    if len(set(indices)) < len(indices):
        raise InputError(f"{where}: two folders are one class of the model")
    return indices
