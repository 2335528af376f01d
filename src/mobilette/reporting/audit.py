"""An audit as a folder: ``audit.csv`` to fill in, ``audit.html`` to look at, ``audit.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, StrictUndefined, Template

from mobilette.data.findings import KINDS, Finding, findings_csv
from mobilette.data.images import LabelledImage
from mobilette.errors import visible
from mobilette.files import write_bytes, write_json
from mobilette.folders import new_directory
from mobilette.reporting.pictures import Picture, picture_of
from mobilette.workflows.audit import Audit

JSON = "audit.json"
SHOWN = 48  # findings of a kind with their images
_SIDE = 160
_ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "unreadable": "Left out of every training.",
        "exact duplicate": "Every pixel is that of another image.",
        "near duplicate": "Another image shows the same, cropped, mirrored or changed.",
        "wrong label": "A network that had not seen them finds another class much more likely.",
        "dark": "Almost nothing is bright.",
        "bright": "Almost nothing is dark.",
        "little information": "Nearly one colour.",
        "blurred": "Much less sharp than the others.",
        "odd shape": "Much longer one way than the other: cropping keeps little of it.",
        "odd size": "Much smaller or larger than the others.",
    }
)


@dataclass(frozen=True, kw_only=True)
class _Card:
    images: tuple[Picture, ...]
    lines: tuple[str, ...]
    detail: str
    sure: float


@dataclass(frozen=True, kw_only=True)
class _Section:
    title: str
    about: str
    count: int
    cards: tuple[_Card, ...]

    @property
    def more(self) -> int:
        return self.count - len(self.cards)

    @property
    def paired(self) -> bool:
        return self.title.endswith("duplicate")


def write_audit(audit: Audit, folder: Path, *, force: bool = False) -> None:
    """Write an audit into the new ``folder``; the page needs no network and nothing beside it.

    Raises:
        InputError: ``folder`` exists (``force`` replaces an audit) or cannot be written.
    """
    with new_directory(
        folder, holds=JSON, force=force, source=Path(audit.images.name)
    ) as unfinished:
        table = findings_csv(audit.findings)
        # A name that is no text cannot be accepted, but the others can.
        write_bytes(unfinished / "audit.csv", table.encode(errors="backslashreplace"))
        page = audit_page(audit).encode(errors="backslashreplace")
        write_bytes(unfinished / "audit.html", page)
        write_json(unfinished / JSON, audit.to_json())


def audit_page(audit: Audit) -> str:
    """Return the page, with the images in it."""
    there = {image.name: image for some in audit.images.splits.values() for image in some}
    splits = list(audit.counts)
    return _template().render(
        name=visible(audit.images.name),
        summary=[visible(line) for line in audit.summary()],
        heading=["class", *splits, "right"],
        classes=[
            [
                visible(name),
                *(f"{audit.counts[split][name]:,}" for split in splits),
                _right(audit, name),
            ]
            for name in audit.images.classes
        ],
        confusions=[
            [visible(one.label), visible(one.taken_for), f"{one.images:,}", f"{one.share:.1%}"]
            for one in (() if audit.labels is None else audit.labels.confusions[:SHOWN])
        ],
        sections=list(_sections(audit, there)),
    )


def _right(audit: Audit, name: str) -> str:
    recall = {} if audit.labels is None else audit.labels.recall
    return f"{recall[name]:.1%}" if name in recall else ""


def _sections(audit: Audit, there: Mapping[str, LabelledImage]) -> Iterator[_Section]:
    for what in KINDS:
        found = audit.of_kind(what)
        if found:
            cards = tuple(_card(finding, there) for finding in found[:SHOWN])
            yield _Section(title=what, about=_ABOUT[what], count=len(found), cards=cards)


def _card(finding: Finding, there: Mapping[str, LabelledImage]) -> _Card:
    names = [finding.path, *([finding.other] if finding.other else [])]
    lines = [*names, f"class {finding.label}"]
    if finding.suggestion:
        lines[-1] += f": rather {finding.suggestion}?"
    pictures = [picture_of(there[name], side=_SIDE) for name in names if name in there]
    return _Card(
        images=tuple(picture for picture in pictures if picture is not None),
        lines=tuple(map(visible, lines)),
        detail=visible(finding.detail),
        sure=round(finding.sure, 3),
    )


@cache
def _template() -> Template:
    text = files("mobilette.reporting").joinpath("audit.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(text)
