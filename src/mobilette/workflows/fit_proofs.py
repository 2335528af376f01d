"""The proofs of a fit: artifacts that were executed, of which the best is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from filelock import FileLock

from mobilette.files import read_json
from mobilette.run.directory import open_run
from mobilette.search.contender import Contender
from mobilette.search.scenes import Wanted
from mobilette.workflows.fit_record import ARTIFACT, PROOF, Clock, FitRequest, Journal
from mobilette.workflows.fit_trial import Trial, keep, proof

# What proving an artifact takes is measured once and may take longer.
_PADDING = 1.3
_USUAL = 1.7  # what a usual proof takes by the quick one of int8


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """Makes proofs, and knows those in fit.jsonl."""

    asked: FitRequest
    clock: Clock
    journal: Journal
    trial: Trial

    def expected_seconds(self) -> float:
        """Return the seconds that a proof takes, measured or guessed."""
        known = [
            (_USUAL if line.get("quick") else 1.0) * line["seconds"]
            for line in self.journal.lines("proved")
            if not line["thorough"]
        ]
        return _PADDING * max(known, default=0.05 * self.asked.seconds)

    def prove(self, contender: Contender, *, thorough: bool = False) -> dict[str, Any]:
        """Export and verify what a contender has learnt; keep the artifact if it is the best.

        ``thorough``: climb the whole ladder to int8 instead of its first rung. The first proof of
        the race is a quick one, since there is no artifact before it.
        """
        begun, folder = self.clock.now(), self.journal.folder
        is_int8 = self.asked.wanted.precision == "int8"
        quick = is_int8 and not (self.journal.lines("proved") or self.journal.lines("finished"))
        run = open_run(self.trial.run_of(contender))
        with proof(
            run,
            self.asked,
            folder,
            quick=quick,
            thorough=thorough,
            sitting=self.trial.sitting,
        ) as proven:
            line = self.journal.add(
                "proved",
                key=contender.key,
                passed=proven.passed,
                verified=proven.verified,
                failures=list(proven.failures),
                top1=proven.top1,
                images=proven.images,
                terms=[asdict(each) for each in proven.terms],
                cost=contender.cost(self.asked.wanted),
                quick=quick,
                thorough=thorough,
                seconds=self.clock.now() - begun,
                spent=self.clock.spent,
            )
            with FileLock(folder / f".{ARTIFACT}-kept.lock"):
                best = self.best()
                want = self.asked.wanted
                if best is None or rank(line, want) > rank(best, want):
                    keep(proven, folder, line)
        self.clock.save()
        return line

    def best(self) -> dict[str, Any] | None:
        """Return the line of the artifact that is kept."""
        path = self.journal.folder / ARTIFACT / PROOF
        found = read_json(path) if path.is_file() else None
        return found if isinstance(found, dict) else None

    def of_finished(self) -> list[dict[str, Any]]:
        """Return the proofs of contenders that were trained to the end."""
        finished = {line["key"]: line["spent"] for line in self.journal.lines("finished")}
        return [
            line
            for line in self.journal.lines("proved")
            if line["spent"] >= finished.get(line["key"], math.inf)
        ]

    def measured(self, key: str) -> dict[str, float]:
        """Return what the contender's last artifact was measured at, by the text of each term."""
        proofs = [line for line in self.journal.lines("proved") if line["key"] == key]
        return {term["text"]: term["measured"] for line in proofs for term in line["terms"]}

    def is_misfit(self, key: str) -> bool:
        """Whether an artifact of the contender was measured to cost too much."""
        return any(
            not term["passed"]
            for line in self.journal.lines("proved")
            for term in line["terms"]
            if line["key"] == key and term["quantity"] != "top1"
        )


def rank(line: Mapping[str, Any], wanted: Wanted) -> tuple[bool, float, float]:
    """Return what makes a proof the better one, largest first.

    What passes; then the accuracy or, where an accuracy is wanted and reached, the lower cost.
    """
    if line["passed"] and wanted.top1 is not None:
        return (True, -line["cost"], line["top1"])
    return (line["passed"], line["top1"], -line["cost"])
