"""What a report says, as values: the page, the model card and the JSON are made from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mobilette.arch.arch import Arch
from mobilette.counting.cost import Cost
from mobilette.model.answering import Answering
from mobilette.verification.shifts import Robustness
from mobilette.workflows.report_answers import Measured

Kind = Literal["run", "artifact", "fit"]


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """What dataset.json says about the images that a run was trained on.

    Attributes:
        counts: images by split and class.
        images: by split; an image may have several classes, or none.
        rule: what divided them.
        left_out: name and reason of every image that could not be used.
        ignored: files that are no images of the set.
        duplicates: copies within train; ``None`` if not looked for.
        remarks: how the set was understood.
    """

    source: str
    fingerprint: str
    counts: Mapping[str, Mapping[str, int]]
    images: Mapping[str, int]
    rule: str
    left_out: tuple[tuple[str, str], ...]
    ignored: int
    duplicates: int | None
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """An audit's findings: how many of each kind, and the surest of them, a line each."""

    folder: str
    source: str
    counts: Mapping[str, int]
    surest: Mapping[str, tuple[str, ...]]


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
            "measured": None if self.measured is None else self.measured.to_json(),
            "data": None if self.data is None else asdict(self.data),
            "audit": None if self.audit is None else asdict(self.audit),
            "artifacts": [asdict(each) for each in self.artifacts],
            "shifts": None if self.shifts is None else self.shifts.to_json(),
            "fit": None if self.fit is None else asdict(self.fit),
            "origin": asdict(self.origin),
            "notes": list(self.notes),
        }
