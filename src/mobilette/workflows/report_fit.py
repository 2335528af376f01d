"""What a report says about a fit: who raced, who won, and what the budget's terms came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilette.counting.amounts import in_unit
from mobilette.errors import InputError
from mobilette.files import read_json, read_record
from mobilette.places import named_in
from mobilette.search.contender import Contender
from mobilette.search.scenes import Wanted
from mobilette.workflows.fit_reasons import why_this_one
from mobilette.workflows.fit_record import (
    ARTIFACT,
    CLOCK,
    FIT,
    LINES,
    PROOF,
    REFINEMENT,
    FitRequest,
    Journal,
    RacePlan,
    read_plan,
)
from mobilette.workflows.fit_refine import Refinement
from mobilette.workflows.report_values import CandidateRecord, FitRecord

COST = {"params": "params", "madds": "madds", "size": "size_bytes", "ram": "ram_bytes"}


def is_fit(path: Path) -> bool:
    """Whether ``path`` looks like the folder of a fit."""
    return (path / FIT).is_file()


def read_fit(folder: Path) -> FitRecord:
    """Return what the folder of a fit records.

    Raises:
        InputError: one of its files is damaged.
    """
    asked, plan = read_record(folder / FIT, FitRequest), read_plan(folder)
    lines = Journal(folder, lambda line: None).lines()
    changed = folder / REFINEMENT
    refined = read_record(changed, Refinement).contenders if changed.is_file() else ()
    proof = folder / ARTIFACT / PROOF
    best: Any = read_json(proof) if proof.is_file() else None
    clock: Any = read_json(folder / CLOCK) if (folder / CLOCK).is_file() else {}
    try:
        return _fit_record(asked, plan, (*plan.contenders, *refined), lines, best, clock)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / LINES}: damaged ({error!r:.80})") from error


def _fit_record(
    asked: FitRequest,
    plan: RacePlan,
    raced: Sequence[Contender],
    lines: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any] | None,
    clock: Mapping[str, Any],
) -> FitRecord:
    quantity, limit = _limited(asked.wanted)
    words = asked.budget if asked.scene is None else f"{asked.scene} {asked.budget or ''}"
    terms = () if best is None else tuple(_term(term) for term in best["terms"])
    known = {each.key: each for each in raced}
    found = [_candidate(key, each, lines, quantity) for key, each in known.items()]
    return FitRecord(
        asked=(words or "").strip(),
        seconds=float(clock.get("seconds", 0.0)),
        fitting=plan.fitting,
        quantity=quantity,
        limit=limit,
        chosen="" if best is None else str(best["key"]),
        why=why_this_one(best, plan, lines),
        terms=terms,
        candidates=tuple(sorted(found, key=lambda one: -(one.top1 or 0.0))),
    )


def _limited(wanted: Wanted) -> tuple[str, float | None]:
    """Return the quantity that the budget limits first, or mult-adds, and its limit."""
    for term in wanted.terms:
        if term.quantity in COST:
            return term.quantity, float(term.limit)
    return "madds", None


def _term(term: Mapping[str, Any]) -> tuple[str, str, bool]:
    measured = in_unit(str(term["quantity"]), float(term["measured"]))
    return str(term["text"]), measured, bool(term["passed"])


def _candidate(
    key: str, contender: Contender, lines: Sequence[Mapping[str, Any]], quantity: str
) -> CandidateRecord:
    own = [line for line in lines if line.get("key") == key]
    trained = [line for line in own if line["what"] == "trained"]
    proved = [line for line in own if line["what"] == "proved"]
    failed = [line for line in own if line["what"] == "failed"]
    passed, verdict = None, ""
    if proved:
        passed = bool(proved[-1]["passed"])
        missed = [str(term["text"]) for term in proved[-1]["terms"] if not term["passed"]]
        missed += [str(text) for text in proved[-1]["failures"]]
        verdict = f"misses {'; '.join(missed)}" if missed else "verified, every term met"
    elif failed:
        verdict = named_in(str(failed[-1]["reason"]))
    return CandidateRecord(
        key=key,
        cost=float(getattr(contender, COST[quantity])),
        size_bytes=contender.size_bytes,
        madds=contender.madds,
        rounds=len(trained),
        seconds=float(trained[-1]["seconds"]) if trained else 0.0,
        top1=float(trained[-1]["top1"]) if trained else None,
        passed=passed,
        verdict=verdict,
    )
