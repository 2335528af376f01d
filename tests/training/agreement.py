"""Whether two ways to take a step agree: no more apart than noise and rounding make one way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mobilette.training.step import Trainer

# A relative change of the weights as small as the rounding of a few sums.
ROUNDING = 1e-6
FACTOR = 3.0

State = dict[str, Tensor]
Step = Callable[[Trainer, int], object]
Make = Callable[[], Trainer]


def tensors_of(made: Trainer) -> dict[str, list[Tensor]]:
    """Return all tensors that a step changes."""
    network = made.network.state_dict()
    trained = {name for name, _ in made.network.named_parameters()}
    parts: dict[str, list[Tensor]] = {"weights": [], "statistics": [], "counts": []}
    for name, value in network.items():
        rest = "statistics" if value.is_floating_point() else "counts"
        parts["weights" if name in trained else rest].append(value)
    parts["average"] = [each.detach() for each in made.average.network.parameters()]
    parts["moments"] = [
        value
        for group in made.optimizer.param_groups
        for each in group["params"]
        for _, value in sorted(made.optimizer.state[each].items())
        if value is not None
    ]
    return parts


def state_of(made: Trainer) -> State:
    """Return copies of them, one vector each."""
    return {name: _joined(values) for name, values in tensors_of(made).items()}


def _joined(values: Iterable[Tensor]) -> Tensor:
    parts = [value.detach().double().cpu().flatten() for value in values]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def distances(eager: Make, captured: Make, step: Step, *, steps: int) -> dict[str, State]:
    """Return how far apart steps from the same state end, the largest of several steps.

    Relative to what the step changes. Over many steps the smallest difference would grow until
    nothing can be told from it, so each begins where the first eager trainer stands.

    Args:
        eager: makes a trainer, with the same weights each time.
        captured: likewise, the one in question.
        step: takes the step of that number.
        steps: their number.
    """
    lead = eager()
    others = {"eager": eager(), "rounded": eager(), "captured": captured(), "again": captured()}
    found: dict[str, dict[str, Tensor]] = {}
    drawn = torch.Generator().manual_seed(0)
    for index in range(steps):
        for made in others.values():
            _put(tensors_of(lead), made)
        with torch.no_grad():
            for each in others["rounded"].network.parameters():
                noise = torch.randn(each.shape, generator=drawn).to(each.device)
                each.mul_(1.0 + ROUNDING * noise)
        before = state_of(lead)
        for made in (lead, *others.values()):
            step(made, index)
        first = state_of(lead)
        after = {name: state_of(made) for name, made in others.items()}
        for name, one, other in (
            ("eager twice", first, after["eager"]),
            ("captured twice", after["captured"], after["again"]),
            ("weights rounded", first, after["rounded"]),
            ("eager and captured", first, after["captured"]),
        ):
            for part, apart in _apart(one, other, before).items():
                worst = found.setdefault(name, {})
                worst[part] = torch.maximum(worst.get(part, apart), apart)
    return found


def _put(source: dict[str, list[Tensor]], made: Trainer) -> None:
    """Copy ``source`` into the tensors of ``made``, which stay where they are."""
    with torch.no_grad():
        for name, values in tensors_of(made).items():
            for mine, theirs in zip(values, source[name], strict=True):
                mine.copy_(theirs)


def _apart(one: State, other: State, before: State) -> State:
    parts = {}
    for name, value in one.items():
        old = before[name] if len(before[name]) else torch.zeros_like(value)
        change = (value - old).norm()
        assert change > 0 or not len(value), f"the step does not change the {name}"
        parts[name] = (value - other[name]).norm() / change.clamp(min=1e-30)
    return parts


def disagreements(found: dict[str, State]) -> list[str]:
    """Return what differs by more than `FACTOR` times what noise or rounding make of it."""
    controls = [values for name, values in found.items() if name != "eager and captured"]
    return [
        name
        for name, apart in found["eager and captured"].items()
        if not apart <= FACTOR * max(float(values[name]) for values in controls)
    ]


def described(found: dict[str, State]) -> dict[str, dict[str, float]]:
    """Return the distances as numbers of few digits."""
    return {
        name: {part: float(f"{float(apart):.2e}") for part, apart in values.items()}
        for name, values in found.items()
    }
