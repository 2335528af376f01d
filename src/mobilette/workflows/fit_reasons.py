"""Why a fit chose a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilette.workflows.fit_record import RacePlan


def why_this_one(
    best: Mapping[str, Any] | None, plan: RacePlan, lines: Sequence[Mapping[str, Any]]
) -> str:
    """Return one sentence: why this network.

    Args:
        best: the line of fit.jsonl of the artifact that is kept, if there is one.
        plan: of the race.
        lines: all of fit.jsonl.
    """
    if best is None:
        return "no artifact was made in time"
    key, trained = best["key"], [line for line in lines if line["what"] == "trained"]
    own = [line for line in trained if line["key"] == key]
    text = f"{key} is one of {plan.fitting:,} networks that fit"
    if own:
        last = own[-1]
        text += f"; after {last['seconds']:.0f} s of training it had {last['top1']:.1%}"
        if plan.measure != "top-1":
            text += f" {plan.measure}"
        misfits = {
            line["key"]
            for line in lines
            if line["what"] == "proved" and not all(term["passed"] for term in line["terms"])
        }
        rivals = [
            line
            for line in trained
            if line["round"] == last["round"] and line["key"] not in {key, *misfits}
        ]
        if rivals:
            rival = max(rivals, key=lambda line: float(line["top1"]))
            text += f", the best of the others, {rival['key']}, {rival['top1']:.1%}"
    for line in lines:
        if line["what"] == "cut" and line["key"] == key:
            text += f"; it was cut to the budget from {Path(line['of']).name} by NetAdapt"
    taught = [line for line in lines if line["what"] == "taught" and line["key"] == key]
    if taught:
        text += f"; its teacher was {teacher_text(taught[-1])}"
    if plan.measure == "top-1":
        return f"{text}; its artifact answers {best['top1']:.1%} of {best['images']:,} images right"
    return (
        f"{text}; the {plan.measure} of its artifact on {best['images']:,} images is "
        f"{best['top1']:.1%}"
    )


def teacher_text(line: Mapping[str, Any]) -> str:
    """Return the teacher of a line of fit.jsonl, and why it is the teacher."""
    if "ahead" not in line:
        return f"{line['by']}, as asked"
    its, own = line["ahead"]
    return f"{Path(line['by']).name}, the best network met, {its:.1%} to {own:.1%} before"
