"""Printing: results to stdout, progress and remarks to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from mobilette.counting.amounts import human_bytes as human_bytes
from mobilette.counting.amounts import human_count as human_count
from mobilette.errors import visible

if TYPE_CHECKING:
    from rich.console import Console

# Wider than any table: a terminal may wrap lines, but names and numbers are never truncated.
RESULT_WIDTH = 100_000


def print_json(value: object) -> None:
    """Print one JSON value on one line; non-finite numbers become null."""
    print(json.dumps(_finite(value)), flush=True)


def say(text: str) -> None:
    """Print one line of a result, half a millisecond faster than rich."""
    print(visible(text), flush=True)


def console() -> Console:
    """Return the console for results: no markup, no wrapping, control characters escaped."""
    return _plain_console()(highlight=False, markup=False, emoji=False, width=RESULT_WIDTH)


def remarks() -> Console:
    """Return the console for progress and remarks on stderr."""
    return _plain_console()(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


@cache
def _plain_console() -> type[Console]:
    """Return rich's console, imported on first use, with every text escaped."""
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

    return PlainConsole


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    left: Collection[int] = (0,),
    gap: int = 3,
) -> str:
    """Return a table as text, without rich, which takes 50 ms to import.

    The columns ``left`` are aligned left, the others right; control characters are escaped.
    """
    lines = [[visible(str(cell)) for cell in line] for line in (headings, *rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]

    def padded(number: int, cell: str) -> str:
        space = " " * (widths[number] - _width(cell))
        return cell + space if number in left else space + cell

    return "\n".join(
        (" " * gap).join(padded(*numbered) for numbered in enumerate(line)).rstrip()
        for line in lines
    )


def _width(text: str) -> int:
    """Return the columns that ``text`` takes in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def say_trained(left_out: int, *, included: bool | None) -> str:
    """Return how the images that a model was trained on were treated, to put after their number."""
    if included:
        return ", among them some that it was trained on"
    return f", {left_out:,} left out that it was trained on" if left_out else ""


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on stderr; yield a function of (what is being done, done, total or 0)."""
    from rich.progress import Progress, TextColumn

    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[rate]}"))
    console, disable = remarks(), not sys.stderr.isatty()
    with Progress(*columns, console=console, transient=True, disable=disable) as bars:
        task = bars.add_task(what, rate="")

        def show(what: str, done: int, total: int) -> None:
            if what != bars.tasks[0].description:  # its rate has to be measured again
                bars.reset(task, description=what)
            speed = bars.tasks[0].speed
            rate = f"{speed:,.1f}/s" if speed and total else ""
            bars.update(task, completed=done, total=total or None, rate=rate)

        yield show


@contextmanager
def reading_bar() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while images are read; yield a function of (done, total)."""
    what = "reading images"
    with progress_bar(what) as show:
        yield lambda done, total: show(what, done, total)
