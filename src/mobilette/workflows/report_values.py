"""What a report says, as values: the page, the model card and the JSON are made from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.counting.cost import Cost
from mobilette.data.images import LabelledImage
from mobilette.model.answering import Answering
from mobilette.run.metrics import Metrics, wilson_interval
from mobilette.verification.promised import Promised
from mobilette.verification.shifts import Robustness
from mobilette.verification.statistics import Bin, distance

Kind = Literal["run", "artifact", "fit"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A measured image and the answer to it.

    Attributes:
        true: its classes, as indices; one of them but in multi-label sets.
        guess: the best class.
        right: whether that is a true one.
        probability: the best class's, calibrated, 0 to 1.
        given: whether the best class is given as the answer; else it is ``unknown``.
    """

    image: LabelledImage
    true: tuple[int, ...]
    guess: int
    right: bool
    probability: float
    given: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class HeatMap:
    """What the network saw of an image, and which parts of it spoke for the answer.

    Attributes:
        pixels: uint8 (C, H, W), RGB or grey.
        map: float32 (h, w), 0 to 1, of the same area.
    """

    pixels: NDArray[np.uint8]
    map: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How a class is answered.

    Attributes:
        images: how many have the class (the support).
        guessed: how many got it as the best class.
        right: how many of these have it.
        average_precision: in multi-label sets alone.
    """

    id: str
    name: str
    images: int
    guessed: int
    right: int
    average_precision: float | None = None

    @property
    def precision(self) -> float | None:
        """The fraction of the answers that is right; ``None`` without answers."""
        return self.right / self.guessed if self.guessed else None

    @property
    def recall(self) -> float | None:
        """The fraction of the class's images that is found; ``None`` without images."""
        return self.right / self.images if self.images else None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities say how often answers are right, without and with the temperature."""

    temperature: float
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]

    @property
    def error_before(self) -> float:
        """The expected calibration error of plain probabilities, 0 to 1."""
        return distance(self.before)

    @property
    def error_after(self) -> float:
        """The same of calibrated ones."""
        return distance(self.after)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One pass over images that the model was not trained on.

    Attributes:
        data: the images, as they were named.
        split: which of them; empty if all.
        engine: what computed the answers.
        classes: every class of the model.
        matrix: images by true class and best class, (classes, classes); ``None`` in a multi-label
            set.
        answers: one per image.
        coverage: (fraction of the images answered, fraction of these answers that is wrong), the
            surest answers first; empty in a multi-label set.
        promised: what the promise comes to, if there is one.
        maps: of the most confident mistakes, by the images' names.
    """

    data: str
    split: str
    engine: str
    metrics: Metrics
    classes: tuple[ClassScore, ...]
    answers: tuple[Answer, ...] = field(repr=False)
    matrix: NDArray[np.int64] | None = field(repr=False)
    calibration: Calibration | None
    coverage: tuple[tuple[float, float], ...] = field(repr=False)
    promised: Promised | None
    maps: Mapping[str, HeatMap] = field(default_factory=dict, repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of top-1 (Wilson)."""
        return wilson_interval(self.metrics.top1, self.metrics.images)

    def mistakes(self) -> list[Answer]:
        """Return the wrong answers, the most confident first."""
        wrong = [answer for answer in self.answers if answer.true and not answer.right]
        return sorted(wrong, key=lambda answer: (-answer.probability, answer.image.name))


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """What dataset.json says about the images that a run was trained on.

    Attributes:
        counts: images by split and class.
        rule: what divided them.
        left_out: name and reason of every image that could not be used.
        ignored: files that are no images of the set.
        duplicates: copies within train; ``None`` if not looked for.
        remarks: how the set was understood.
    """

    source: str
    fingerprint: str
    counts: Mapping[str, Mapping[str, int]]
    rule: str
    left_out: tuple[tuple[str, str], ...]
    ignored: int
    duplicates: int | None
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """An audit's findings: how many of each kind, and a few lines about the set."""

    folder: str
    source: str
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord:
    """An artifact and what was measured of it.

    Attributes:
        path: as it was found.
        sha256: of its contract.
        verified: whether it answers as its run does; ``None`` if no record tells.
        by: what measured it, such as bench.json; empty if nothing did.
        reasons: why it is not verified or not timed.
        top1: its own accuracy on ``images`` images.
        latency_ms: median for one image; ``spread_ms`` is from the 10th to the 90th percentile.
        own: whether it was made from the weights that this report is about.
    """

    path: str
    target: str
    precision: str
    sha256: str
    size_bytes: int
    verified: bool | None = None
    by: str = ""
    reasons: tuple[str, ...] = ()
    top1: float | None = None
    images: int = 0
    latency_ms: float | None = None
    spread_ms: tuple[float, float] | None = None
    own: bool = True


@dataclass(frozen=True, kw_only=True)
class CandidateRecord:
    """A network that raced in a fit; ``cost`` is in the quantity of `FitRecord`.

    Attributes:
        rounds: how many trainings it had.
        seconds: of training in all.
        top1: after the last of them; ``None`` if none ended.
        verdict: of its artifact, or why it failed; empty if it only raced.
    """

    key: str
    cost: float
    size_bytes: int
    madds: int
    rounds: int = 0
    seconds: float = 0.0
    top1: float | None = None
    passed: bool | None = None
    verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """A race, as its folder records it.

    Attributes:
        asked: the budget in words.
        quantity: what the budget limits first: params, madds, size or ram.
        limit: of that quantity, if it is limited.
        terms: text, what was measured in words, and whether it was met.
    """

    asked: str
    seconds: float
    fitting: int
    quantity: str
    limit: float | None
    chosen: str
    why: str
    terms: tuple[tuple[str, str, bool], ...]
    candidates: tuple[CandidateRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a model came to be, for making it again.

    Attributes:
        command: what trains it again; empty if it was imported.
        recipe: the content of recipe.toml.
        start: what its weights were before.
        facts: device, precision, threads and the like, by name.
        versions: of packages.
        weights_sha256: of the file of weights; of an artifact without its run, of the contract.
    """

    command: str
    recipe: str
    start: str
    facts: Mapping[str, str]
    versions: Mapping[str, str]
    weights_sha256: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Everything that is known of a model: what `mobilette.report` shows.

    Attributes:
        name: the folder's.
        kind: ``run``, ``artifact`` or ``fit``.
        path: the folder.
        summary: what it is, what it can be trusted with, and when it is silent: a line each.
        warnings: what lowers the trust, one line each.
        network: the name in the catalogue.
        history: a row per epoch, by column of metrics.csv.
        measured: the answers to held-out images; ``None`` if these cannot be read.
        notes: what is missing, and why or how to add it, one line each.
    """

    name: str
    kind: Kind
    path: Path
    summary: tuple[str, ...]
    warnings: tuple[str, ...]
    network: str
    width_mult: float | None
    arch: Arch = field(repr=False)
    cost: Cost = field(repr=False)
    answering: Answering
    history: tuple[Mapping[str, float], ...] = field(repr=False)
    measured: Measured | None
    data: DataRecord | None = field(repr=False)
    audit: AuditRecord | None
    artifacts: tuple[ArtifactRecord, ...]
    shifts: Robustness | None = field(repr=False)
    fit: FitRecord | None = field(repr=False)
    origin: Origin = field(repr=False)
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content as JSON values; of the answers, the mistakes."""
        cost = {key: value for key, value in self.cost.to_json().items() if key != "layers"}
        return {
            "name": self.name,
            "kind": self.kind,
            "path": str(self.path),
            "summary": list(self.summary),
            "warnings": list(self.warnings),
            "network": {"name": self.network, "width_mult": self.width_mult, **cost},
            "answering": asdict(self.answering),
            "measured": None if self.measured is None else _measured_json(self.measured),
            "data": None if self.data is None else asdict(self.data),
            "audit": None if self.audit is None else asdict(self.audit),
            "artifacts": [asdict(each) for each in self.artifacts],
            "shifts": None if self.shifts is None else self.shifts.to_json(),
            "fit": None if self.fit is None else asdict(self.fit),
            "origin": asdict(self.origin),
            "notes": list(self.notes),
        }


def _measured_json(measured: Measured) -> dict[str, Any]:
    calibration = measured.calibration
    return {
        "data": measured.data,
        "split": measured.split,
        "engine": measured.engine,
        **measured.metrics.to_json(),
        "top1_interval": measured.interval,
        "classes": [
            asdict(each) | {"precision": each.precision, "recall": each.recall}
            for each in measured.classes
        ],
        "mistakes": [
            {
                "path": each.image.name,
                "true": [measured.classes[index].name for index in each.true],
                "label": measured.classes[each.guess].name,
                "probability": each.probability,
            }
            for each in measured.mistakes()
        ],
        "calibration": None
        if calibration is None
        else asdict(calibration)
        | {"error_before": calibration.error_before, "error_after": calibration.error_after},
        "promised": None if measured.promised is None else asdict(measured.promised),
    }
