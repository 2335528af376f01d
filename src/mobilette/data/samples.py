"""The samples of one tar shard as WebDataset writes it.

Layout: https://github.com/webdataset/webdataset. The files of one sample follow each other and
have one name up to the first dot; what follows the dot says what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from mobilette.data.names import DECODED, is_hidden
from mobilette.data.tar import ENDS_MID_FILE, Entry, TarMember, read_entries
from mobilette.errors import InputError

_IMAGE, _CLASS = "image", "class"
_LONGEST_CLASS = 1024  # bytes


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image in a shard, its name there, and what the ``.cls`` beside it says."""

    name: str
    image: TarMember
    text: str


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a shard holds.

    Attributes:
        samples: those with an image and a class.
        unusable: name and reason of each other one.
        ignored: names of the files that are neither.
        complete: false where the shard ends mid-file or without its end mark.
    """

    samples: tuple[Sample, ...]
    unusable: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    complete: bool


def read_samples(path: Path) -> Shard:
    """List the samples of the shard ``path``; of its images only the headers are read.

    Raises:
        InputError: it cannot be read, is damaged or compressed, or has no complete sample.
    """
    samples: list[Sample] = []
    unusable: list[tuple[str, str]] = []
    ignored: list[str] = []
    if not path.is_file():
        raise InputError(f"{path}: not a file")
    try:
        with path.open("rb") as file:
            every, complete = read_entries(file, where=path)
            files = [entry for entry in every if not any(map(is_hidden, _folders(entry.name)))]
            for stem, group in groupby(files, key=lambda entry: _parts(entry.name)[0]):
                entries = list(group)
                chosen = _choose(entries, ignored)
                if not chosen:
                    continue
                sample = _sample(path, file, chosen)
                if isinstance(sample, Sample):
                    samples.append(sample)
                else:
                    at_end = not complete and entries[-1] is every[-1]
                    unusable.append((stem, ENDS_MID_FILE if at_end else sample))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not samples:
        cut = "" if complete else "; it ends mid-file"
        raise InputError(f"{path}: no complete sample in it, an image and its .cls{cut}")
    return Shard(
        samples=tuple(samples),
        unusable=tuple(unusable),
        ignored=tuple(ignored),
        complete=complete,
    )


def _folders(name: str) -> list[str]:
    """Return the names of the folders on the way to a file, and its own."""
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _parts(name: str) -> tuple[str, str]:
    """Return the sample that a file is of, empty for none, and what it is of it."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    if not stem or not dot:
        return "", ""
    kind = _IMAGE if f".{ending.lower()}" in DECODED else ending.lower()
    return folder + slash + stem, _CLASS if kind == "cls" else kind


def _choose(entries: list[Entry], ignored: list[str]) -> dict[str, Entry]:
    """Return the image and the class among the files of a sample, the first of each."""
    chosen: dict[str, Entry] = {}
    for entry in entries:
        kind = _parts(entry.name)[1]
        if kind in (_IMAGE, _CLASS) and kind not in chosen:
            chosen[kind] = entry
        else:
            ignored.append(entry.name)
    return chosen


def _sample(path: Path, file: BinaryIO, chosen: dict[str, Entry]) -> Sample | str:
    """Return the sample, or the reason why it cannot be used."""
    image, label = chosen.get(_IMAGE), chosen.get(_CLASS)
    if image is None or not image.whole:
        return "no image beside its .cls"
    if label is None or not label.whole:
        return "no .cls beside it"
    if label.size > _LONGEST_CLASS:
        return f"its .cls has {label.size:,} bytes, which is no class"
    file.seek(label.offset)
    text = file.read(label.size).decode("utf-8", "replace").strip()
    if not text.isprintable() or not text or "\ufffd" in text:
        return "its .cls is empty or no text"
    return Sample(name=image.name, image=TarMember(path, image.offset, image.size), text=text)
