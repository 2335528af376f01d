"""One process of a fit: it plans or joins the race, trains the winner and proves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mobilette.errors import InputError
from mobilette.files import write_json
from mobilette.folders import BusyError
from mobilette.run.directory import is_run
from mobilette.search.contender import Contender
from mobilette.search.race import FINAL, REFINED, Place, final_ranking, ranked
from mobilette.search.study import Study
from mobilette.workflows.fit_proofs import Proofs
from mobilette.workflows.fit_race import Race
from mobilette.workflows.fit_reasons import why_this_one
from mobilette.workflows.fit_record import (
    RESULT,
    Clock,
    FitRequest,
    Fitted,
    Journal,
    RacePlan,
    Term,
    read_plan,
)
from mobilette.workflows.fit_refine import Refining
from mobilette.workflows.fit_teacher import Teachers
from mobilette.workflows.fit_trial import Trial

_LEAST = 5.0  # seconds of a last training
_CHECK = 0.2  # of the time left, what a proof before the last training may take
_LADDER = 3.0  # proofs that fit into the time left before the whole ladder to int8 is climbed


@dataclass(frozen=True, kw_only=True)
class FitProcess:
    """One process of a fit."""

    asked: FitRequest
    clock: Clock
    journal: Journal
    study: Study
    trial: Trial
    proofs: Proofs
    race: Race
    refining: Refining
    teachers: Teachers

    def run(self) -> Fitted:
        """Do what is left, until the end."""
        plan = read_plan(self.journal.folder)
        self.race.run(plan)
        contenders = (*plan.contenders, *self.refining.run(plan))
        self._finish(plan, contenders)
        failed = self.journal.lines("failed")
        if failed and not self.journal.lines("trained") and self.proofs.best() is None:
            raise InputError(
                f"no network could be trained; {failed[0]['key']}: {failed[0]['reason']}"
            )
        return self.result(plan)

    def _finish(self, plan: RacePlan, contenders: Sequence[Contender]) -> None:
        """Train the winner to the end of the time and prove it; if it misses a term, the next."""
        self.clock.save()  # all that is left is trained for: by every process's clock
        rewards = self.study.rewards()
        by_key = {each.key: each for each in contenders}
        raced = final_ranking([each.key for each in plan.contenders], plan.rounds, rewards)
        # If nothing that raced could be trained, or all cost too much: the quickest to train.
        others = [each for each in contenders if Place(key=each.key, number=0) not in rewards]
        quick = [each.key for each in sorted(others, key=lambda each: each.madds)]
        ranking = list(dict.fromkeys((*ranked(list(by_key), rewards, REFINED), *raced, *quick)))
        for key in sorted(ranking, key=self.proofs.is_misfit):
            if any(line["passed"] for line in self.proofs.of_finished()):
                return
            place = Place(key=key, number=FINAL)
            if place in self.study.rewards():  # another process may just have finished it
                continue
            left = self.clock.left - self.proofs.expected_seconds()
            is_new = not is_run(self.trial.run_of(by_key[key]))
            if (left < 0 and self.proofs.of_finished()) or (left < _LEAST and is_new):
                return
            if self.study.take([place]) is None:
                self.journal.tell("elsewhere", network=key, left=max(self.clock.left, 0.0))
                return
            try:
                proved = self._finish_one(by_key[key])
            except BusyError:
                self.study.give_up(place)
                return
            self.study.finish(place, None if proved is None else proved["top1"])

    def _finish_one(self, contender: Contender) -> dict[str, Any] | None:
        """Train a contender to the end and prove it; ``None`` if that fails or costs too much."""
        key = contender.key
        try:
            if key not in {line["key"] for line in self.journal.lines("finished")}:
                if not self._fits(contender):
                    return None
                seconds = self.clock.left - self.proofs.expected_seconds()
                if seconds >= _LEAST:
                    teacher = self.teachers.choose(contender, seconds)
                    seconds = max(self.clock.left - self.proofs.expected_seconds(), _LEAST)
                    self.trial.finish(contender, seconds, teacher)
                self.journal.add("finished", key=key, spent=self.clock.spent)
            proved = self.proofs.prove(contender)
            in_int8 = self.asked.wanted.precision == "int8"
            enough = self.clock.left > _LADDER * self.proofs.expected_seconds()
            if in_int8 and not proved["verified"] and enough:
                proved = self.proofs.prove(contender, thorough=True)
        except BusyError:
            raise
        except InputError as error:
            self.journal.add("failed", key=key, round=FINAL, reason=str(error))
            return None
        return proved

    def _fits(self, contender: Contender) -> bool:
        """Whether a contender's artifact meets the terms: trained further, it will cost as much."""
        proofs = [line for line in self.journal.lines("proved") if line["key"] == contender.key]
        is_trained = is_run(self.trial.run_of(contender))
        is_cheap = self.proofs.expected_seconds() < _CHECK * self.clock.left
        if not proofs and is_trained and is_cheap:
            self.proofs.prove(contender)
        return not self.proofs.is_misfit(contender.key)

    def result(self, plan: RacePlan) -> Fitted:
        """Return the result as it stands."""
        best, artifact = self.proofs.best(), self.journal.artifact
        lines = tuple(self.journal.lines())
        fitted = Fitted(
            path=self.journal.folder,
            artifact=artifact,
            key=best["key"] if best else "",
            verified=bool(best and best["verified"]),
            top1=best["top1"] if best else 0.0,
            measure=plan.measure,
            images=best["images"] if best else 0,
            terms=tuple(Term(**each) for each in best["terms"]) if best else (),
            why=why_this_one(best, plan, lines),
            fitting=plan.fitting,
            lines=lines,
            seconds=self.clock.spent,
        )
        write_json(self.journal.folder / RESULT, fitted.to_json())
        return fitted
