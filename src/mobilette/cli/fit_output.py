"""Output of a fit: the race as a table that changes, or one line after another."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.live import Live
from rich.table import Table

from mobilette.cli.output import remarks
from mobilette.counting.amounts import human_bytes, human_count
from mobilette.progress import Reporter
from mobilette.search.race import CUT, FINAL, REFINED
from mobilette.training.events import EpochDone, Event, StepDone
from mobilette.workflows.fit_reasons import teacher_text

_SHOWN = 12  # rows of the table


class FitProgress:
    """Shows a fit while it goes on: in a terminal as a live table, else line by line on stderr."""

    def __init__(self) -> None:
        self._console = remarks()
        self._is_live = sys.stderr.isatty() or self._console.is_jupyter
        self._live = Live(console=self._console, transient=True, refresh_per_second=4)
        self._rows: dict[str, dict[str, Any]] = {}
        self._now = ""
        self.folder, self.measure = "", "top-1"

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_live:
            self._live.stop()

    @property
    def reporter(self) -> Reporter:
        """The ``reporter`` for `mobilette.fit`."""
        return Reporter(reading=self._reading, remark=self._remark)

    def _reading(self, done: int, total: int) -> None:
        self._show(f"reading images: {done:,} of {total:,}")

    def _remark(self, text: str) -> None:
        # What each training says of itself is in its own run.
        self._show(text)

    def step(self, event: Event) -> None:
        """Show how far a training is: one of the ``callbacks`` for `mobilette.fit`."""
        if isinstance(event, StepDone):
            self._show(
                f"epoch {event.epoch + 1}, {event.part:.0%} of this training, "
                f"{event.images_per_second:,.0f} images/s, loss {event.loss:.3f}"
            )
        elif isinstance(event, EpochDone):
            self._show(f"{self.measure} {event.metrics.score:.2%}")

    def line(self, line: dict[str, Any]) -> None:
        """Show a line of fit.jsonl: ``on_line`` for `mobilette.fit`."""
        self.folder = line.get("folder", self.folder)
        self.measure = line.get("measure", self.measure)
        text = described(line, self.measure)
        if text and (not self._is_live or line["what"] == "elsewhere"):  # why this process ends
            self._console.print(text)
        if "key" in line:
            self._rows.setdefault(line["key"], {}).update(line)
        self._show(text or self._now)

    def _show(self, text: str) -> None:
        self._now = text
        if self._is_live:
            self._live.update(self._table())

    def _table(self) -> Table:
        table = Table(box=None, caption=self._now, caption_justify="left")
        measure = self.measure
        for heading in ("network", "round", "trained", measure, "size", "mult-adds", "verdict"):
            table.add_column(
                heading, justify="left" if heading in ("network", "verdict") else "right"
            )
        best = sorted(self._rows.items(), key=lambda row: -row[1].get("top1", -1.0))
        for key, row in best[:_SHOWN]:
            seconds = row.get("seconds")
            table.add_row(
                key,
                _round(row),
                f"{seconds:.0f} s" if seconds else "",
                f"{row['top1']:.2%}" if "top1" in row else "",
                human_bytes(row["size_bytes"]) if "size_bytes" in row else "",
                human_count(row["madds"]) if "madds" in row else "",
                _verdict(row),
            )
        return table


def _round(row: dict[str, Any]) -> str:
    number = row.get("round", FINAL)
    return {CUT: "", REFINED: "refined", FINAL: ""}.get(number, str(number + 1))


def _verdict(row: dict[str, Any]) -> str:
    if "reason" in row:
        return "failed"
    if "passed" in row:
        return "PASS" if row["passed"] else "FAIL"
    return ""


def described(line: dict[str, Any], measure: str = "top-1") -> str:
    """Return a line of fit.jsonl as text; ``measure`` is what an accuracy is."""
    what, key = line["what"], line.get("key", "")
    if what == "begun":
        return f"{line['folder']}: {line['fitting']:,} networks fit by what is counted"
    if what == "trained":
        place = "refinement" if line["round"] == REFINED else f"round {line['round'] + 1}"
        return (
            f"{place}: {key}: {measure} {line['top1']:.2%} after "
            f"{line['seconds']:.0f} s; {line['spent']:.0f} s in all"
        )
    if what == "failed":
        return f"{key}: {line['reason']}"
    if what == "cut":
        return f"{key}: {Path(line['of']).name} cut to the budget by NetAdapt"
    if what == "taught":
        return f"{key}: learns from {teacher_text(line)}"
    if what == "finished":
        return f"{key}: trained to the end; {line['spent']:.0f} s in all"
    if what == "elsewhere":
        network, left = line["network"], f"{line['left']:.0f} s from now"
        return f"another process trains {network} to the end of the time, {left}; this one ends"
    if what == "proved":
        verdict = "answers as trained" if line["verified"] else line["failures"][0]
        missed = [term["text"] for term in line["terms"] if not term["passed"]]
        terms = f", misses {', '.join(missed)}" if missed else ", every term is met"
        return f"{key}: artifact: {measure} {line['top1']:.2%}, {verdict}{terms}"
    return ""
