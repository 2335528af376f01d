"""What the page of a report shows, in its order: texts, tables and pictures for the template."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mobilette.counting.amounts import human_bytes, human_count
from mobilette.errors import visible
from mobilette.places import named, named_in
from mobilette.reporting.heat_maps import drawn
from mobilette.reporting.pictures import Album, Picture
from mobilette.run.metrics import wilson_interval
from mobilette.workflows.report_answers import Answer, ClassScore, HeatMap, Measured
from mobilette.workflows.report_values import Report

# Pictures of a page, and of one cell of the confusion matrix.
MOST, MOST_BYTES, SIDE = 500, 6_000_000, 128
MISTAKES, WRONG, RIGHT, SAMPLES = 24, 24, 6, 20
MATRIX = 24  # classes, above which only pairs are listed
PAIRS = 40
_SHORT = 3  # characters


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture with what is said about it, and its heat map, if there is one."""

    picture: Picture
    heat: Picture | None = None
    lines: tuple[str, ...]
    right: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Images of one class with one answer.

    Attributes:
        key: its dialog's id.
        share: of the images of the true class, 0 to 1.
        heat: how strongly it is coloured, in percent.
        shots: some of them; `more` are not in the page.
    """

    key: str
    true: str
    guess: str
    count: int
    share: float
    right: bool
    shots: tuple[Shot, ...]

    @property
    def heat(self) -> int:
        """The square root of the share, so that single images are seen."""
        return round(45 * math.sqrt(self.share))

    @property
    def more(self) -> int:
        """How many images are not in the page."""
        return self.count - len(self.shots)

    @property
    def title(self) -> str:
        """What the cell has, in words."""
        images = "1 image" if self.count == 1 else f"{self.count:,} images"
        what = f"{self.true}, found" if self.right else f"{self.true} taken for {self.guess}"
        return f"{what}: {images}"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The part of the page about single answers.

    Attributes:
        rows: the confusion matrix, a row per true class, ``None`` for empty cells; empty if there
            are too many classes.
        cells: every cell that has images, the largest confusions first.
        album: said below: what of the pictures is in the page.
    """

    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    cells: tuple[Cell, ...]
    mistakes: tuple[Shot, ...]
    samples: tuple[Shot, ...]
    wrong: int
    album: str

    @property
    def short(self) -> bool:
        """Whether the names of the classes fit above the columns."""
        return all(len(name) <= _SHORT for name, _ in self.rows)

    @property
    def confusions(self) -> tuple[Cell, ...]:
        """The cells with wrong answers that are listed as pairs."""
        return tuple(cell for cell in self.cells if not cell.right)[:PAIRS]


def answers_view(measured: Measured) -> Answers:
    """Return single answers with their pictures."""
    album = Album(most=MOST, most_bytes=MOST_BYTES, side=SIDE)
    names = [visible(one.name) for one in measured.classes]
    mistakes = measured.mistakes()
    shown = tuple(_shots(mistakes[:MISTAKES], names, album, title=True, maps=measured.maps))
    samples = tuple(_shots(_samples(measured.answers), names, album, title=True))
    cells = {} if measured.matrix is None else _cells(measured, names, album)
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...] = ()
    if cells and len(names) <= MATRIX:
        places = range(len(names))
        rows = tuple(
            (names[true], tuple(cells.get((true, guess)) for guess in places)) for true in places
        )
    listed = tuple(sorted(cells.values(), key=lambda cell: (cell.right, -cell.count)))
    wrong = sum(1 for one in mistakes if one.image.name in album.shown)
    said = []
    if mistakes:
        said.append(f"of {wrong:,} of the {len(mistakes):,} wrong answers")
        said += [f"at most {WRONG} of a cell"] if cells and wrong < len(mistakes) else []
    if cells:
        said.append(f"of {RIGHT} right ones of each class, those it was least sure of")
    return Answers(
        rows=rows,
        cells=listed,
        mistakes=shown,
        samples=samples,
        wrong=len(mistakes),
        album=f"Pictures in this page: {'; '.join(said)}." if said else "",
    )


def _cells(measured: Measured, names: Sequence[str], album: Album) -> dict[tuple[int, int], Cell]:
    """Return the cells with images; wrong answers get their pictures first."""
    members: dict[tuple[int, int], list[Answer]] = {}
    for answer in measured.answers:
        members.setdefault((answer.true[0], answer.guess), []).append(answer)
    found = {}
    order = sorted(members, key=lambda place: (place[0] == place[1], -len(members[place])))
    for true, guess in order:
        some, right = members[true, guess], true == guess
        # Of right answers the least sure, of wrong ones the surest.
        some.sort(key=lambda answer: answer.probability if right else -answer.probability)
        few = some[: RIGHT if right else WRONG]
        found[true, guess] = Cell(
            key=f"cell-{true}-{guess}",
            true=names[true],
            guess=names[guess],
            count=len(some),
            share=len(some) / measured.classes[true].images,
            right=right,
            shots=tuple(_shots(few, names, album)),
        )
    return found


def _shots(
    answers: Sequence[Answer],
    names: Sequence[str],
    album: Album,
    *,
    title: bool = False,
    maps: Mapping[str, HeatMap] = MappingProxyType({}),
) -> Iterator[Shot]:
    for answer in answers:
        picture = album.take(answer.image)
        if picture is None:
            continue
        true = ", ".join(names[index] for index in answer.true) or "none"
        sure = f"{answer.probability:.0%}" if answer.probability < 0.995 else ">99%"
        unknown = "" if answer.given else ", so “unknown”"
        said = f"{names[answer.guess]}, {sure}{unknown}" if title else f"{sure}{unknown}"
        lines = (said, f"is {true}") if title and not answer.right else (said,)
        right = answer.right or not answer.true  # of no class: its best one is no answer
        heat = maps.get(answer.image.name)
        overlay = None
        if heat is not None:
            overlay = album.take_drawn(drawn(heat), f"{answer.image.name}, heat map")
        yield Shot(picture=picture, heat=overlay, lines=lines, right=right)


def _samples(answers: Sequence[Answer]) -> list[Answer]:
    """Return a few answers, every class in turn."""
    by_class: dict[tuple[int, ...], list[Answer]] = {}
    for answer in answers:
        by_class.setdefault(answer.true, []).append(answer)
    order = [by_class[key] for key in sorted(by_class)]
    turns = max(map(len, order), default=0)
    taken = (some[turn] for turn in range(turns) for some in order if turn < len(some))
    return [answer for answer, _ in zip(taken, range(SAMPLES), strict=False)]


def key_figures(report: Report) -> list[tuple[str, str, str]]:
    """Return name, value and small print of what is asked first."""
    figures = []
    measured = report.measured
    if measured is not None:
        metrics = measured.metrics
        low, high = measured.interval
        name, value = "top-1", metrics.top1
        detail = f"{low:.1%} to {high:.1%}, {metrics.images:,} images"
        if metrics.mean_average_precision is not None:
            name, value = "mean average precision", metrics.mean_average_precision
            detail = f"{metrics.images:,} images"
        figures.append((name, f"{value:.1%}", detail))
        if measured.promised is not None:
            found = measured.promised
            error = f"{found.error:.1%} wrong" if found.error is not None else "none given"
            detail = f"{error}; at most {100 * found.promised:g}% promised"
            figures.append(("answered", f"{found.coverage:.1%}", detail))
    counted = report.cost
    size = (
        f"{human_bytes(counted.size_bytes.fp32)} fp32, {human_bytes(counted.size_bytes.int8)} int8"
    )
    figures.append(("parameters", human_count(counted.params), size))
    peak = human_bytes(counted.peak_activation_bytes.int8)
    figures.append(("mult-adds", human_count(counted.madds), f"peak activations {peak} int8"))
    timed = [one for one in report.artifacts if one.verified and one.latency_ms is not None]
    if timed:
        best = min(timed, key=lambda one: one.latency_ms or 0.0)
        where = f"{visible(Path(best.path).name)}, verified"
        figures.append(("fastest", f"{best.latency_ms:.2g} ms", where))
    return figures


def class_rows(scores: Sequence[ClassScore]) -> list[tuple[str, str, str, str, str, str, int]]:
    """Return a row per class.

    Its name, precision, recall, the interval of that, average precision, images, and recall in
    percent.
    """
    rows = []
    for one in scores:
        low, high = wilson_interval(one.recall or 0.0, one.images)
        between = f"{low:.0%} to {high:.0%}" if one.images else ""
        rows.append(
            (
                visible(one.name),
                _percent(one.precision),
                _percent(one.recall),
                between,
                _percent(one.average_precision),
                f"{one.images:,}",
                round(100 * (one.recall or 0.0)),
            )
        )
    return rows


def _percent(value: float | None) -> str:
    return "-" if value is None else "100%" if value == 1 else f"{value:.1%}"


def artifact_rows(report: Report) -> list[tuple[str, ...]]:
    """Return a row per artifact: name, target, precision, verdict, kind, top-1, latency, size."""
    rows: list[tuple[str, ...]] = []
    for one in report.artifacts:
        verdict = {True: "verified", False: "FAILED", None: "not judged"}[one.verified]
        by = f" by {one.by}" if one.by and one.verified is not None else ""
        kind = {True: "good", False: "bad", None: "open"}[one.verified]
        why = "; ".join(visible(named_in(reason)) for reason in one.reasons)
        if not one.own:
            why = "; ".join(filter(None, ("made from other weights", why)))
        spread = one.spread_ms and f"{one.spread_ms[0]:.2f} to {one.spread_ms[1]:.2f}"
        rows.append(
            (
                visible(named(one.path)),
                one.target,
                one.precision,
                verdict + by,
                kind,
                "-" if one.top1 is None else f"{one.top1:.2%}",
                "-" if one.latency_ms is None else f"{one.latency_ms:.2f} ms",
                spread or "",
                human_bytes(one.size_bytes) if one.size_bytes else "-",
                why,
            )
        )
    return rows


def count_rows(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the heading and the rows of the counts of images: a class each, and the sum."""
    data = report.data
    if data is None:
        return (), []
    splits = list(data.counts)
    names = list(dict.fromkeys(name for counts in data.counts.values() for name in counts))
    rows = [
        (visible(name), *(f"{data.counts[split].get(name, 0):,}" for split in splits))
        for name in names
    ]
    total = ("all images", *(f"{data.images[split]:,}" for split in splits))
    return ("class", *splits), [*rows, total]


def base_name(data: str) -> str:
    """Return a set's name without the folders above it, which concern no reader."""
    return Path(data).name or data
