"""The folder of a fit: what was asked for, every candidate and verdict, and the time spent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock

from mobilette.artifact.directory import Artifact, find_artifacts, open_artifact
from mobilette.counting.budget import Constraint, parse_budget
from mobilette.errors import InputError
from mobilette.files import read_json, read_record, write_json
from mobilette.limits import AMOUNT, DROP, FRACTION, SECONDS, SEED, WORKERS
from mobilette.progress import Remark
from mobilette.records import Ranged
from mobilette.search.contender import Contender
from mobilette.search.race import Rounds
from mobilette.search.scenes import Wanted, wanted
from mobilette.training.events import Sitting

FIT, PLAN, LINES, CLOCK, RESULT = "fit.json", "plan.json", "fit.jsonl", "clock.json", "result.json"
RUNS, ARTIFACT, PROOF = "runs", "artifact", "proof.json"
REFINEMENT, STARTS = "refinement.json", "starts"
Measure = Literal["top-1", "mean average precision"]
_SAVED_EVERY = 2.0  # seconds between records of the time spent


@dataclass(frozen=True, kw_only=True)
class FitRequest(Ranged):
    """The content of fit.json: what `fit` was asked for."""

    data: str
    budget: str | None
    scene: str | None
    to: str | None
    precision: str | None
    seconds: Annotated[float, SECONDS]
    starts: tuple[str, ...]
    teacher: str | None
    names: tuple[str, ...]
    max_drop: Annotated[float, DROP]
    seed: Annotated[int, SEED]
    storage: str | None
    device: str
    workers: Annotated[int, WORKERS] | None
    max_unusable: Annotated[float, FRACTION]
    holdout: Annotated[float, FRACTION] | None
    groups: str | None
    study: str
    schema: Literal[1] = 1

    @property
    def wanted(self) -> Wanted:
        """The budget's terms, the target and its precision."""
        return wanted(self.budget, scene=self.scene, to=self.to, precision=self.precision)


def absolute(place: str | Path) -> str:
    """Return the absolute path of what is there, for resuming from another folder, or a name."""
    return str(Path(place).resolve()) if Path(place).exists() else str(place)


def with_absolute_tables(budget: str) -> str:
    """Return ``budget`` with the absolute paths of its latency tables."""
    for term in parse_budget(budget):
        if term.device is not None and term.device.table is not None:
            table = term.device.table
            budget = budget.replace(f"@{table}", f"@{absolute(table)}")
    return budget


@dataclass(frozen=True, kw_only=True)
class RacePlan(Ranged):
    """The content of plan.json: who races, and for how long.

    Attributes:
        fitting: how many networks fit the budget by what is counted.
        classes: of the images.
        images: how many there are.
        fingerprint: of their files (`mobilette.data.fingerprint`).
        measure: what an accuracy is: of several labels per image, the mean average precision.
    """

    contenders: tuple[Contender, ...]
    rounds: Rounds
    fitting: Annotated[int, AMOUNT]
    classes: tuple[str, ...]
    images: Annotated[int, AMOUNT]
    fingerprint: str
    measure: Measure = "top-1"
    schema: Literal[1] = 1


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of the budget and what was measured of the artifact; in the unit of its limit.

    ``remark`` says what part of a prediction is interpolated; it is empty otherwise.
    """

    text: str
    quantity: str
    limit: float
    measured: float
    passed: bool
    remark: str = ""

    @classmethod
    def of(cls, term: Constraint, measured: float, remark: str = "") -> Term:
        """Return the verdict on ``term``."""
        return cls(
            text=term.text,
            quantity=term.quantity,
            limit=term.limit,
            measured=measured,
            passed=term.is_met(measured),
            remark=remark,
        )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The result of `fit`.

    Attributes:
        path: the folder of the fit.
        artifact: the best verified artifact; ``None`` if none was made in time.
        key: its network.
        verified: whether `verify` passed.
        top1: its accuracy on the held-out images, 0 to 1.
        measure: what that is: ``top-1``, or ``mean average precision`` of several labels per image.
        images: how many these are.
        terms: of the budget, with what was measured of the artifact.
        why: one sentence: why this network.
        fitting: how many networks fit by what is counted.
        lines: what fit.jsonl has: each contender and verdict.
        seconds: of wall-clock, over all processes' restarts.
    """

    path: Path
    artifact: Artifact | None
    key: str
    verified: bool
    top1: float
    measure: Measure
    images: int
    terms: tuple[Term, ...]
    why: str
    fitting: int
    lines: tuple[dict[str, Any], ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every term is met by a verified artifact."""
        there = self.artifact is not None
        return there and self.verified and all(term.passed for term in self.terms)

    def to_json(self) -> dict[str, object]:
        """Return the content as JSON values."""
        return {
            "passed": self.passed,
            "path": str(self.path),
            "artifact": None if self.artifact is None else str(self.artifact.path),
            "network": self.key,
            "verified": self.verified,
            "top1": self.top1,
            "measure": self.measure,
            "images": self.images,
            "terms": [asdict(term) for term in self.terms],
            "why": self.why,
            "fitting": self.fitting,
            "candidates": list(self.lines),
            "seconds": self.seconds,
        }


def read_plan(folder: Path) -> RacePlan:
    """Return who races in the fit in ``folder``."""
    return read_record(folder / PLAN, RacePlan)


Listener = Callable[[dict[str, Any]], None]


class Journal:
    """The files of a fit, shared by all its processes."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        self.folder, self._listener = folder, listener

    def add(self, what: str, **values: Any) -> dict[str, Any]:
        """Append a line to fit.jsonl, tell the listener and return it."""
        line = {"what": what} | values
        with (
            FileLock(self.folder / f".{LINES}.lock"),
            (self.folder / LINES).open("a", encoding="utf-8") as file,
        ):
            # A process that was killed may have left half a line.
            file.write("\n" * self._ends_amid() + json.dumps(line) + "\n")
        self._listener(line)
        return line

    def tell(self, what: str, **values: Any) -> None:
        """Tell the listener alone."""
        self._listener({"what": what} | values)

    def _ends_amid(self) -> bool:
        content = (self.folder / LINES).read_bytes()
        return bool(content) and not content.endswith(b"\n")

    def lines(self, what: str | None = None) -> list[dict[str, Any]]:
        """Return the lines so far; one that a killed process left half-written is no line."""
        found = []
        path = self.folder / LINES
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and what in (None, line.get("what")):
                found.append(line)
        return found

    @property
    def artifact(self) -> Artifact | None:
        """The best artifact so far."""
        place = self.folder / ARTIFACT
        found = find_artifacts(place) if place.is_dir() else []
        return open_artifact(found[0]) if found else None


class Clock:
    """The time of a fit, which goes on after a restart where it was.

    Several processes have one each. They start within seconds of each other's last records, so
    each follows the one that is furthest.
    """

    def __init__(self, folder: Path, limit: float, sitting: Sitting) -> None:
        self.limit, self.now, self._file = limit, sitting.now, folder / CLOCK
        self._before = self._read()
        self._started = self._saved = sitting.started

    def _read(self) -> float:
        if not self._file.exists():
            return 0.0
        found = read_json(self._file)
        spent = found.get("seconds") if isinstance(found, dict) else None
        if not isinstance(spent, int | float):
            raise InputError(f"{self._file}: key 'seconds' is missing")
        return float(spent)

    @property
    def spent(self) -> float:
        """Seconds since the beginning, without those between a kill and its restart."""
        return self._before + self.now() - self._started

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.limit - self.spent

    def __call__(self, event: object = None) -> None:
        """Save the time spent, every few seconds: a callback of trainings."""
        if self.now() - self._saved > _SAVED_EVERY:
            self.save()

    def saved_at(self, remark: Remark) -> Remark:
        """Return ``remark``, with the time spent saved at each call."""

        def save_and_say(line: str) -> None:
            self()
            remark(line)

        return save_and_say

    def save(self) -> None:
        """Save the time spent; where another process recorded more, that is it."""
        self._saved = self.now()
        self._before += max(self._read() - self.spent, 0.0)
        write_json(self._file, {"seconds": self.spent})
