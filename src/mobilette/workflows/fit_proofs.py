"""The proofs of a fit: artifacts that were executed, of which the best is kept."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mobilette.run.directory import open_run
from mobilette.search.space import Contender
from mobilette.workflows.fit_record import Clock, FitRequest, Journal
from mobilette.workflows.fit_trial import Trial, keep, proof

# What proving an artifact takes is measured once and may take longer.
_PADDING = 1.3


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """Makes proofs, and knows those in fit.jsonl."""

    asked: FitRequest
    clock: Clock
    journal: Journal
    trial: Trial

    def expected_seconds(self) -> float:
        """Return the seconds that a proof takes, measured or guessed."""
        proofs = self.journal.lines("proved")
        known = [line["seconds"] for line in proofs if not line["thorough"]]
        return _PADDING * max(known, default=0.05 * self.asked.seconds)

    def prove(self, contender: Contender, *, thorough: bool = False) -> dict[str, Any]:
        """Export and verify what a contender has learnt; keep the artifact if it is the best.

        ``thorough``: climb the whole ladder to int8 instead of its first rung.
        """
        begun = self.clock.now()
        run = open_run(self.trial.run_of(contender))
        with proof(
            run,
            self.asked,
            self.journal.folder,
            thorough=thorough,
            sitting=self.trial.sitting,
        ) as proven:
            best = self.best()
            better = best is None or (proven.passed, proven.top1) > (best["passed"], best["top1"])
            if better:
                keep(proven, self.journal.folder)
            return self.journal.add(
                "proved",
                key=contender.key,
                passed=proven.passed,
                verified=proven.verified,
                failures=list(proven.failures),
                top1=proven.top1,
                images=proven.images,
                terms=[asdict(each) for each in proven.terms],
                kept=better,
                thorough=thorough,
                seconds=self.clock.now() - begun,
                spent=self.clock.spent,
            )

    def best(self) -> dict[str, Any] | None:
        """Return the line of the artifact that is kept."""
        kept = [line for line in self.journal.lines("proved") if line["kept"]]
        return kept[-1] if kept else None

    def of_finished(self) -> list[dict[str, Any]]:
        """Return the proofs of contenders that were trained to the end."""
        finished = {line["key"]: line["spent"] for line in self.journal.lines("finished")}
        return [
            line
            for line in self.journal.lines("proved")
            if line["spent"] >= finished.get(line["key"], math.inf)
        ]

    def is_misfit(self, key: str) -> bool:
        """Whether an artifact of the contender was measured to cost too much."""
        return any(
            not term["passed"]
            for line in self.journal.lines("proved")
            for term in line["terms"]
            if line["key"] == key and term["quantity"] != "top1"
        )
