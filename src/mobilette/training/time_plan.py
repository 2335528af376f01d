"""What can be done in a time: how long the classifier is trained alone, and whether all fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mobilette.errors import InputError

PADDING = 1.15  # of what was measured once, on a machine that may become busier
# Of the time to train: what the epochs in which only the classifier learns may take.
FROZEN_SHARE = 0.5
# Steps below which a training is none: the first few only make the loss move.
LEAST_STEPS = 8
# A time that is proposed lies above what is needed: costs are measured anew.
_MORE = 1.2


class TooShortError(InputError):
    """There is too little time; ``needed`` seconds would do."""

    def __init__(self, message: str, *, needed: float) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds: of a step, of one that trains the classifier alone, of a validation."""

    step: float
    frozen_step: float
    validation: float


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """What is done in a time.

    Attributes:
        frozen_steps: steps that train the classifier alone.
        steps: steps after them.
        validations: the one after the frozen steps, and the last.
        seconds: what all of it takes, what was over before included; at most the time there is.
    """

    frozen_steps: int
    steps: int
    validations: int
    seconds: float


def plan_time(
    limit: float, *, spent: float, costs: Costs, steps_of_epoch: int, frozen_epochs: int
) -> TimePlan:
    """Return how ``limit`` seconds are used, of which ``spent`` are over.

    The frozen epochs are cut short where they, and the validation after them, would take more than
    `FROZEN_SHARE` of the time to train; the rest is for steps that train everything.

    Args:
        limit: seconds.
        spent: seconds, of reading and measuring.
        costs: as measured.
        steps_of_epoch: of all pictures once.
        frozen_epochs: of the recipe; 0 where everything is trained from the start.

    Raises:
        TooShortError: not even a few steps fit, or an epoch where that is shorter; with a time that
            would do, if the costs stay as they are.
    """
    least = min(LEAST_STEPS, steps_of_epoch)
    end = PADDING * (costs.validation + costs.step)
    frozen_end = costs.validation if frozen_epochs else 0.0
    least_frozen = least * costs.frozen_step + frozen_end if frozen_epochs else 0.0
    needed = max(least_frozen + least * costs.step, least_frozen / FROZEN_SHARE)
    available = limit - spent - end
    # What is proposed is accepted: both are rounded.
    if available < needed * (1 - 1e-9):
        would_do = math.ceil(_MORE * (spent + end + needed))
        raise TooShortError(
            f"a time of {seconds(limit)} is too short: {spent:.1f} s are over before the first "
            f"step, {least} steps take {least * costs.step:.1f} s and a validation "
            f"{costs.validation:.1f} s; {seconds(would_do)} would do",
            needed=would_do,
        )
    frozen_steps = 0
    if frozen_epochs:
        alone = min(FROZEN_SHARE * available, available - least * costs.step) - frozen_end
        fit = int(alone / max(costs.frozen_step, 1e-9))
        frozen_steps = min(frozen_epochs * steps_of_epoch, max(fit, least))
    left = available - frozen_steps * costs.frozen_step - frozen_end
    steps = max(int(left / max(costs.step, 1e-9)), 1)
    used = spent + frozen_steps * costs.frozen_step + frozen_end + steps * costs.step + end
    return TimePlan(
        frozen_steps=frozen_steps,
        steps=steps,
        validations=1 + (frozen_epochs > 0),
        seconds=min(used, limit),
    )


def seconds(value: float) -> str:
    """Return a time as ``--time`` takes it."""
    return f"{value:g}s"


def describe(plan: TimePlan, costs: Costs, *, limit: float, steps_of_epoch: int) -> str:
    """Return the plan in a line."""
    alone = ""
    if plan.frozen_steps:
        epochs = plan.frozen_steps / steps_of_epoch
        alone = f"{plan.frozen_steps:,} steps of the classifier alone ({epochs:.2g} epochs), then "
    return (
        f"in {seconds(limit)}: {alone}about {plan.steps:,} steps "
        f"({plan.steps / steps_of_epoch:.2g} epochs of {1000 * costs.step:.0f} ms steps, less "
        f"further validations); a validation takes {costs.validation:.1f} s"
    )
