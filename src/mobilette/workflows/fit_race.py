"""The race of a fit: contenders are trained a while, the better ones are trained on."""

from __future__ import annotations

import time as system_time
from collections.abc import Callable
from dataclasses import dataclass

from mobilette.errors import InputError
from mobilette.folders import BusyError
from mobilette.run.directory import Run, is_run
from mobilette.search.contender import Contender
from mobilette.search.race import Place, final_ranking, next_places, reward
from mobilette.search.study import Study
from mobilette.training.time_plan import TooShortError
from mobilette.workflows.fit_proofs import Proofs
from mobilette.workflows.fit_record import Clock, FitRequest, Journal, RacePlan
from mobilette.workflows.fit_trial import Trial, accuracy

POLL = 0.5  # seconds, while other processes train
_LATEST = 0.55  # of the time: a race that is slower than planned ends here
_PROOF = 0.02  # of the time, what a proof during the race may take
# Converting for these takes half a minute: so that there is an artifact by the tenth of minutes,
# the first network is proved after its first seconds.
SLOW_TO_PROVE = ("litert", "mcu", "executorch")
_EARLY = 4.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Race:
    """What a process does in the race."""

    asked: FitRequest
    clock: Clock
    journal: Journal
    study: Study
    trial: Trial
    proofs: Proofs

    def run(self, plan: RacePlan) -> None:
        """Train contenders, as long as there are places open and time is left."""
        by_key = {each.key: each for each in plan.contenders}
        while self._time_left_to_race() > 0:
            places = next_places(list(by_key), plan.rounds, self.study.rewards())
            if places is None:
                return
            place = self.study.take(places)
            if place is None:
                system_time.sleep(POLL)
                continue
            self._run_place(by_key[place.key], place, plan)

    def leader(self, plan: RacePlan) -> Contender | None:
        """Return the contender that leads, of those that were not measured to cost too much."""
        by_key = {each.key: each for each in plan.contenders}
        for key in final_ranking(list(by_key), plan.rounds, self.study.rewards()):
            if not self.proofs.is_misfit(key) and is_run(self.trial.run_of(by_key[key])):
                return by_key[key]
        return None

    def record(
        self, contender: Contender, place: Place, seconds: float, train: Callable[[], Run]
    ) -> float | None:
        """Train and record the result; return the accuracy, or ``None`` if it failed."""
        try:
            run = train()
        except BusyError:  # it is still trained by a process whose time was up
            self.study.give_up(place)
            system_time.sleep(POLL)
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

    def _time_left_to_race(self) -> float:
        spent = self.clock.spent + self.proofs.expected_seconds()
        return _LATEST * self.asked.seconds - spent

    def _run_place(self, contender: Contender, place: Place, plan: RacePlan) -> None:
        seconds = plan.rounds.trained(place.number)
        is_slow = self.asked.wanted.target in SLOW_TO_PROVE

        def train() -> Run:
            if is_slow and not self.journal.lines("proved"):
                run = self._train(contender, place, min(seconds, _EARLY))
                self._prove(contender, place)
                if self.trial.elapsed(contender) >= seconds:
                    return run
            return self._train(contender, place, seconds)

        top1 = self.record(contender, place, seconds, train)
        if top1 is None:
            return
        proofs = self.journal.lines("proved")
        best = max((line["top1"] for line in proofs if line["passed"]), default=-1.0)
        is_cheap = self.proofs.expected_seconds() < _PROOF * self.asked.seconds
        if not proofs or (place.number and top1 > best and is_cheap):
            self._prove(contender, place)

    def _train(self, contender: Contender, place: Place, seconds: float) -> Run:
        """Train until ``seconds``, or as long as it needs at least if that is not too long."""
        try:
            return self.trial.train(contender, seconds)
        except TooShortError as error:
            if place.number or error.needed > self._time_left_to_race():
                raise
            return self.trial.train(contender, error.needed)

    def _prove(self, contender: Contender, place: Place) -> None:
        try:
            self.proofs.prove(contender)
        except InputError as error:  # the others may do
            self.journal.add("failed", key=contender.key, round=place.number, reason=str(error))
