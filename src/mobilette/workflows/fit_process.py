"""One process of a fit: it plans or joins the race, trains the winner and proves it."""

from __future__ import annotations

import math
import time as system_time
from dataclasses import asdict, dataclass
from typing import Any

from mobilette.errors import InputError
from mobilette.files import write_json
from mobilette.run.directory import open_run
from mobilette.search.race import (
    Place,
    final_ranking,
    next_places,
    reward,
)
from mobilette.search.space import Contender
from mobilette.search.study import Study
from mobilette.training.time_plan import TooShortError
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
from mobilette.workflows.fit_trial import Trial, accuracy, keep, proof

_LATEST = 0.55  # of the time: a race that is slower than planned ends here
# What proving an artifact takes is measured once and may take longer.
_PADDING = 1.3
_POLL = 0.5  # seconds, while other processes train
FINAL = 1_000  # the round of the last training
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

    def run(self) -> Fitted:
        """Do what is left, until the end."""
        plan = read_plan(self.journal.folder)
        self._race(plan)
        failed = self.journal.lines("failed")
        if failed and not self.journal.lines("trained"):
            raise InputError(
                f"no network could be trained; {failed[0]['key']}: {failed[0]['reason']}"
            )
        self._finish(plan)
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
        return self.clock.spent + self._of_a_proof() < _LATEST * self.asked.seconds

    def _run_place(self, contender: Contender, place: Place, plan: RacePlan) -> None:
        seconds = plan.rounds.trained(place.number)
        try:
            try:
                run = self.trial.train(contender, seconds)
            except TooShortError as error:
                if place.number or error.needed > _TOO_LONG * self.asked.seconds:
                    raise
                run = self.trial.train(contender, error.needed)
        except InputError as error:
            self.study.finish(place, None)
            self.journal.add("failed", key=contender.key, round=place.number, reason=str(error))
            return
        top1 = accuracy(run)
        gained = self._reward(contender, top1)
        self.study.finish(place, gained)
        self.journal.add(
            "trained",
            key=contender.key,
            round=place.number,
            seconds=seconds,
            top1=top1,
            reward=gained,
            spent=self.clock.spent,
        )
        proofs = self.journal.lines("proved")
        best = max((line["top1"] for line in proofs if line["passed"]), default=-1.0)
        if not proofs or (
            top1 > best and self._of_a_proof() < _PROOF * self.asked.seconds and place.number
        ):
            self._prove(contender)

    def _reward(self, contender: Contender, top1: float) -> float:
        terms = [each for each in self.asked.wanted.counted if each.quantity != "top1"]
        quantity = terms[0].quantity if terms else "madds"
        needs = {
            "params": contender.params,
            "madds": contender.madds,
            "size": contender.size_bytes,
            "ram": contender.ram_bytes,
        }
        target = terms[0].limit if terms else float(contender.madds)
        return reward(top1, cost=needs[quantity], target=target, wanted=self.asked.wanted.top1)

    # The end

    def _of_a_proof(self) -> float:
        """Return the seconds that a proof takes, measured or guessed."""
        proofs = self.journal.lines("proved")
        known = [line["seconds"] for line in proofs if not line["thorough"]]
        return _PADDING * max(known, default=0.05 * self.asked.seconds)

    def _prove(self, contender: Contender, *, thorough: bool = False) -> dict[str, Any]:
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
            best = self._best()
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

    def _best(self) -> dict[str, Any] | None:
        """Return the line of the artifact that is kept."""
        kept = [line for line in self.journal.lines("proved") if line["kept"]]
        return kept[-1] if kept else None

    def _finish(self, plan: RacePlan) -> None:
        """Train the winner to the end of the time and prove it; if it misses a term, the next."""
        rewards = self.study.rewards()
        ranking = final_ranking([each.key for each in plan.contenders], plan.rounds, rewards)
        by_key = {each.key: each for each in plan.contenders}
        if any(line["passed"] for line in self._last_proofs()):
            return
        for key in sorted(ranking, key=self._is_misfit):
            place = Place(key=key, number=FINAL)
            if place in rewards:
                continue
            if self.clock.left < 0 and self.journal.lines("proved"):
                return
            if self.study.take([place]) is None:
                self.trial.sitting.reporter.remark("another process trains the network that won")
                return
            proved = self._finish_one(by_key[key])
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
                seconds = self.clock.left - self._of_a_proof()
                if seconds >= _LEAST:
                    self.trial.finish(contender, seconds, self.asked.teacher)
                self.journal.add("finished", key=key, spent=self.clock.spent)
            proved = self._prove(contender)
            in_int8 = self.asked.wanted.precision == "int8"
            enough = self.clock.left > _LADDER * self._of_a_proof()
            if in_int8 and not proved["verified"] and enough:
                proved = self._prove(contender, thorough=True)
        except InputError as error:
            self.journal.add("failed", key=key, round=FINAL, reason=str(error))
            return None
        return proved

    def _fits(self, contender: Contender) -> bool:
        """Whether a contender's artifact meets the terms: trained further, it will cost as much."""
        proofs = [line for line in self.journal.lines("proved") if line["key"] == contender.key]
        if not proofs and self._of_a_proof() < _CHECK * self.clock.left:
            self._prove(contender)
        return not self._is_misfit(contender.key)

    def _last_proofs(self) -> list[dict[str, Any]]:
        """Return the proofs of contenders that were trained to the end."""
        finished = {line["key"]: line["spent"] for line in self.journal.lines("finished")}
        return [
            line
            for line in self.journal.lines("proved")
            if line["spent"] >= finished.get(line["key"], math.inf)
        ]

    def _is_misfit(self, key: str) -> bool:
        """Whether an artifact of the contender was measured to cost too much."""
        return any(
            not term["passed"]
            for line in self.journal.lines("proved")
            for term in line["terms"]
            if line["key"] == key and term["quantity"] != "top1"
        )

    def result(self, plan: RacePlan) -> Fitted:
        """Return the result as it stands."""
        best, artifact = self._best(), self.journal.artifact
        lines = tuple(self.journal.lines())
        fitted = Fitted(
            path=self.journal.folder,
            artifact=artifact,
            key=best["key"] if best else "",
            verified=bool(best and best["verified"]),
            top1=best["top1"] if best else 0.0,
            images=best["images"] if best else 0,
            terms=tuple(Term(**each) for each in best["terms"]) if best else (),
            why=why_this_one(best, plan, self.journal.lines("trained"))
            if best
            else "no artifact was made in time",
            fitting=plan.fitting,
            lines=lines,
            seconds=self.clock.spent,
        )
        write_json(self.journal.folder / RESULT, fitted.to_json())
        return fitted
