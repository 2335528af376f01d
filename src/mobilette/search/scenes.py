"""Named budgets: what a server, a phone, a browser and a microcontroller can usually bear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mobilette.counting.budget import Constraint, parse_budget
from mobilette.counting.candidates import Precision
from mobilette.errors import InputError, one_of


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A kind of device.

    Attributes:
        target: of the export.
        precision: of the export.
        budget: its limits, as in ``--budget``.
        why: where these come from.
    """

    target: str
    precision: Precision
    budget: str
    why: str


SCENES: Mapping[str, Scene] = MappingProxyType(
    {
        "server": Scene(
            target="onnx",
            precision="fp32",
            budget="latency<=10ms@onnx",
            why="a hundred answers a second from one core",
        ),
        "phone": Scene(
            target="litert",
            precision="int8",
            budget="size<=5MB, madds<=300M",
            why="the mobile setting of MnasNet and its followers, up to 300 million mult-adds",
        ),
        "browser": Scene(
            target="web",
            precision="fp32",
            budget="size<=4MB, madds<=100M",
            why="a page that loads in seconds, and answers several times a second without SIMD",
        ),
        "mcu": Scene(
            target="mcu",
            precision="int8",
            budget="size<=250KB, ram<=256KB",
            why="the limits of the Visual Wake Words challenge: 250 KB of model and of memory each",
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be made: the terms of the budget, the target and its precision."""

    terms: tuple[Constraint, ...]
    target: str
    precision: Precision

    @property
    def text(self) -> str:
        """The terms as they were written."""
        return ", ".join(each.text for each in self.terms)

    @property
    def counted(self) -> tuple[Constraint, ...]:
        """The terms that need no measurement."""
        return tuple(each for each in self.terms if each.quantity not in ("latency", "top1"))

    @property
    def top1(self) -> float | None:
        """The accuracy that is wanted, if one is."""
        return next((each.limit for each in self.terms if each.quantity == "top1"), None)


def wanted(
    budget: str | None, *, scene: str | None, to: str | None, precision: str | None
) -> Wanted:
    """Return what is asked for; terms of ``budget`` take the place of a scene's.

    The target is ``to``, else the engine of the latency, the scene's, or onnx. The precision is as
    given, else the scene's, or int8 where bytes are limited: it needs a quarter of them.

    Raises:
        InputError: there is no term, or two that contradict each other.
    """
    known = SCENES[one_of(scene, SCENES, "scene")] if scene is not None else None
    if budget is None and known is None:
        raise InputError(
            "what may it cost? give a budget such as 'size<=1MB, latency<=2ms@onnx', or a scene: "
            f"{', '.join(SCENES)}"
        )
    terms = parse_budget(budget) if budget is not None else ()
    limited = {each.quantity for each in terms}
    if known is not None:
        terms += tuple(each for each in parse_budget(known.budget) if each.quantity not in limited)
    engines = {each.device.engine for each in terms if each.device and each.device.engine}
    target = to or next(iter(sorted(engines)), known.target if known else "onnx")
    if to is None and len(engines) > 1:
        raise InputError(
            f"the budget limits the latency on {' and '.join(sorted(engines))}; one engine can be "
            "limited, and others by latency tables"
        )
    if engines - {target}:
        raise InputError(
            f"the budget limits the latency on {', '.join(sorted(engines))}, but the target is "
            f"{target}; only that is measured"
        )
    of_bytes = bool({"size", "ram"} & {each.quantity for each in terms})
    if precision is not None:
        one_of(precision, ("fp32", "int8"), "precision")
    chosen = precision or (known.precision if known else None) or ("int8" if of_bytes else "fp32")
    return Wanted(
        terms=terms,
        target=target,
        precision="int8" if chosen == "int8" or (target, precision) == ("mcu", None) else "fp32",
    )
