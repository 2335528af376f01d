"""One process of a fit: it plans or joins the race, trains the winner and proves it."""

from __future__ import annotations

import time as system_time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mobilette.errors import InputError
from mobilette.files import write_json
from mobilette.folders import BusyError
from mobilette.progress import SILENT
from mobilette.run.directory import RECIPE, Run, is_run, open_run
from mobilette.search.race import (
    FINAL,
    REFINED,
    Place,
    final_ranking,
    next_places,
    ranked,
    reward,
)
from mobilette.search.space import Contender
from mobilette.search.study import Study
from mobilette.training.recipe import load_recipe
from mobilette.training.time_plan import TooShortError
from mobilette.workflows.fit_plan import latency_tables
from mobilette.workflows.fit_proofs import Proofs
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
from mobilette.workflows.fit_refine import REFINE_FROM, plan_refinement
from mobilette.workflows.fit_teacher import Teachers
from mobilette.workflows.fit_trial import Trial, accuracy

_LATEST = 0.55  # of the time: a race that is slower than planned ends here
_REFINED_BY = 0.75  # of the time: a refinement that is slower than planned ends here
_POLL = 0.5  # seconds, while other processes train
_TOO_LONG = 0.2  # of the time, for the first training of one network
_LEAST = 5.0  # seconds of a last training
_PROOF = 0.02  # of the time, what a proof during the race may take
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
    teachers: Teachers

    def run(self) -> Fitted:
        """Do what is left, until the end."""
        plan = read_plan(self.journal.folder)
        self._race(plan)
        failed = self.journal.lines("failed")
        if failed and not self.journal.lines("trained"):
            raise InputError(
                f"no network could be trained; {failed[0]['key']}: {failed[0]['reason']}"
            )
        contenders = (*plan.contenders, *self._refine(plan))
        self._finish(plan, contenders)
        return self.result(plan)

    # The race

    def _race(self, plan: RacePlan) -> None:
        """Train contenders, as long as there are places open and time is left."""
        by_key = {each.key: each for each in plan.contenders}
        while self._time_to_race():
            places = next_places(list(by_key), plan.rounds, self.study.rewards())
            if places is None:
                return
            place = self.study.take(places)
            if place is None:
                system_time.sleep(_POLL)
                continue
            self._run_place(by_key[place.key], place, plan)

    def _time_to_race(self) -> bool:
        return self.clock.spent + self.proofs.expected_seconds() < _LATEST * self.asked.seconds

    def _run_place(self, contender: Contender, place: Place, plan: RacePlan) -> None:
        seconds = plan.rounds.trained(place.number)

        def train() -> Run:
            try:
                return self.trial.train(contender, seconds)
            except TooShortError as error:
                if place.number or error.needed > _TOO_LONG * self.asked.seconds:
                    raise
                return self.trial.train(contender, error.needed)

        top1 = self._record(contender, place, seconds, train)
        if top1 is None:
            return
        proofs = self.journal.lines("proved")
        best = max((line["top1"] for line in proofs if line["passed"]), default=-1.0)
        is_cheap = self.proofs.expected_seconds() < _PROOF * self.asked.seconds
        if not proofs or (place.number and top1 > best and is_cheap):
            try:
                self.proofs.prove(contender)
            except InputError as error:  # the others may do
                self.journal.add("failed", key=contender.key, round=place.number, reason=str(error))

    def _record(
        self, contender: Contender, place: Place, seconds: float, train: Callable[[], Run]
    ) -> float | None:
        """Train and record the result; return the accuracy, or ``None`` if it failed."""
        try:
            run = train()
        except BusyError:  # it is still trained by a process whose time was up
            self.study.give_up(place)
            return None
        except InputError as error:
            self.journal.add("failed", key=contender.key, round=place.number, reason=str(error))
            self.study.finish(place, None)
            return None
        top1, want = accuracy(run), self.asked.wanted
        # Any cost will do as the target: all rewards have the same.
        gained = reward(top1, cost=contender.cost(want), target=1e6, wanted=want.top1)
        self.journal.add(
            "trained",
            key=contender.key,
            round=place.number,
            seconds=seconds,
            top1=top1,
            reward=gained,
            spent=self.clock.spent,
        )
        self.study.finish(place, gained)
        return top1

    # The refinement

    def _refine(self, plan: RacePlan) -> tuple[Contender, ...]:
        """Train networks one change away from the leader, and it as long; return them."""
        if self.asked.seconds < REFINE_FROM:
            return ()
        rewards, by_key = self.study.rewards(), {each.key: each for each in plan.contenders}
        ranking = final_ranking(list(by_key), plan.rounds, rewards)
        standing = [
            key
            for key in ranking
            if not self.proofs.is_misfit(key) and is_run(self.trial.run_of(by_key[key]))
        ]
        if not standing:
            return ()
        leader = by_key[standing[0]]
        run = open_run(self.trial.run_of(leader))
        refinement = plan_refinement(
            self.journal.folder,
            leader,
            run,
            self.asked.wanted,
            latency_tables(self.asked.wanted, left=0.0, reporter=SILENT),
            limit=self.asked.seconds,
            trained=self.trial.elapsed(leader),
        )
        leader = by_key[refinement.leader]
        recipe = load_recipe(self.trial.run_of(leader) / RECIPE, overrides={"frozen_epochs": 0})
        while self.clock.spent < _REFINED_BY * self.asked.seconds:
            racing = (leader, *refinement.contenders)
            known = self.study.rewards()
            places = {Place(key=each.key, number=REFINED): each for each in racing}
            left = [place for place in places if place not in known]
            if not left:
                break
            place = self.study.take(left)
            if place is None:
                system_time.sleep(_POLL)
                continue
            each = places[place]
            seconds = self.trial.elapsed(each) + refinement.seconds
            self._record(each, place, seconds, partial(self.trial.train, each, seconds, recipe))
        return refinement.contenders

    # The end

    def _finish(self, plan: RacePlan, contenders: Sequence[Contender]) -> None:
        """Train the winner to the end of the time and prove it; if it misses a term, the next."""
        rewards = self.study.rewards()
        by_key = {each.key: each for each in contenders}
        raced = final_ranking([each.key for each in plan.contenders], plan.rounds, rewards)
        ranking = list(dict.fromkeys((*ranked(list(by_key), rewards, REFINED), *raced)))
        if any(line["passed"] for line in self.proofs.of_finished()):
            return
        for key in sorted(ranking, key=self.proofs.is_misfit):
            place = Place(key=key, number=FINAL)
            if place in rewards:
                continue
            needed = self.proofs.expected_seconds()
            if self.clock.left < needed and self.proofs.of_finished():
                return
            if self.study.take([place]) is None:
                self.trial.sitting.reporter.remark("another process trains the network that won")
                return
            try:
                proved = self._finish_one(by_key[key])
            except BusyError:
                self.study.give_up(place)
                return
            self.study.finish(place, None if proved is None else proved["top1"])
            if proved is not None and proved["passed"]:
                return

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
                    seconds = self.clock.left - self.proofs.expected_seconds()
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
        if not proofs and self.proofs.expected_seconds() < _CHECK * self.clock.left:
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
            images=best["images"] if best else 0,
            terms=tuple(Term(**each) for each in best["terms"]) if best else (),
            why=why_this_one(best, plan, lines),
            fitting=plan.fitting,
            lines=lines,
            seconds=self.clock.spent,
        )
        write_json(self.journal.folder / RESULT, fitted.to_json())
        return fitted
