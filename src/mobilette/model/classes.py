"""Class labels in their frozen order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilette.errors import InputError, shown
from mobilette.files import LARGEST_RECORD, read_bytes, read_json
from mobilette.limits import CLASSES


@dataclass(frozen=True, kw_only=True)
class ClassLabel:
    """One class: a unique ``id`` (folder name or synset) and a human-readable ``name``."""

    id: str
    name: str

    def __post_init__(self) -> None:
        for text in (self.id, self.name):
            if not text.strip() or any(sign in text for sign in "\t\n\r"):
                raise InputError(
                    f"class {shown(text)}: a class needs a name without tabs and line breaks"
                )
            if text.encode(errors="ignore").decode() != text:
                raise InputError(
                    f"class {shown(text)}: the name is not valid UTF-8; rename the folder"
                )


def classes_text(classes: Sequence[ClassLabel]) -> str:
    """Return the content of ``classes.txt``: one line ``id<TAB>name`` per class, in order."""
    return "".join(f"{label.id}\t{label.name}\n" for label in classes)


def parse_classes(text: str, *, where: str) -> tuple[ClassLabel, ...]:
    """Return the classes in ``text``; without a tab, a line is both id and name.

    Raises:
        InputError: there is no class, an empty line or a duplicate id.
    """
    _check_count(text.count("\n"), where)
    labels = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        label, _, name = line.rstrip("\r").partition("\t")
        if not label.strip():
            raise InputError(f"{where}: line {number} is empty; each line is one class")
        try:
            labels.append(ClassLabel(id=label, name=name or label))
        except InputError as error:
            raise InputError(f"{where}: line {number}: {error}") from None
    return _checked(labels, where)


def read_classes(path: Path) -> tuple[ClassLabel, ...]:
    """Return the classes in a text file (`parse_classes`) or JSON file, in order.

    JSON is a list of names, or a table from index to name or to (id, name) such as Keras'
    ``imagenet_class_index.json``.

    Raises:
        InputError: the file cannot be read, or has another format.
    """
    if path.suffix == ".json":
        return _from_json(read_json(path), where=str(path))
    try:
        text = read_bytes(path, limit=LARGEST_RECORD).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text") from error
    return parse_classes(text, where=str(path))


def _check_count(count: int, where: str) -> None:
    if count > CLASSES.highest:
        raise InputError(f"{where}: {count:,} classes; {CLASSES.highest:,} are the limit")


def _from_json(content: object, *, where: str) -> tuple[ClassLabel, ...]:
    if isinstance(content, Mapping):
        indices = [str(index) for index in range(len(content))]
        if set(content) != set(indices):
            raise InputError(f"{where}: the keys are not the numbers 0 to {len(content) - 1}")
        content = [content[index] for index in indices]
    _check_count(len(content) if isinstance(content, list) else 1, where)
    labels = []
    for entry in content if isinstance(content, list) else [None]:
        words: list[str] = [
            word for word in (entry if isinstance(entry, list) else [entry]) if type(word) is str
        ]
        if len(words) != (len(entry) if isinstance(entry, list) else 1) or len(words) not in (1, 2):
            raise InputError(f"{where}: {shown(entry)} is no class; a name or [id, name] is")
        labels.append(ClassLabel(id=words[0], name=words[-1]))
    return _checked(labels, where)


def _checked(labels: Sequence[ClassLabel], where: str) -> tuple[ClassLabel, ...]:
    if not labels:
        raise InputError(f"{where}: no class in it; each line is 'id<TAB>name'")
    twice = [label for label, n in Counter(label.id for label in labels).items() if n > 1]
    if twice:
        raise InputError(f"{where}: class id {shown(twice[0])} occurs twice")
    return tuple(labels)
