"""``mobilette VERB SUBJECT [options]``."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO, cast

import typer

from mobilette.cli import (
    audit,
    bench,
    cost,
    doctor,
    embed,
    evaluate,
    explain,
    export,
    fit,
    models,
    predict,
    prune,
    push,
    report,
    serve,
    train,
    weights,
)
from mobilette.cli.examples import FIRST, ExampleCommand, ExampleGroup
from mobilette.data.machine import threads_by_quota
from mobilette.data.names import refuse_address
from mobilette.errors import InputError, visible

COMPLETION = "_MOBILETTE_COMPLETE"  # set by shells that ask for completions
DONE, WRONG_REQUEST = 0, 2
HUB = "hf://"
# As other programs take several values of an option.
_SEVERAL = re.compile(r"^export.* (--to|--precision)[ =]([\w,]+) (\w+)")
_EMPTY = re.compile(r"\s*|--[\w-]+=\s*")
INTERRUPTED, NOT_READ = 130, 141  # exit statuses of shells for Ctrl-C and a closed pipe
# The base of typer's errors about wrong arguments; typer does not export it.
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    cls=ExampleGroup,
    help="A folder of images in, a small verified image classifier out.",
    epilog="Every verb takes --debug, which shows the traceback of an error.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import mobilette

        print(f"mobilette {mobilette.__version__}")
        raise typer.Exit


@app.callback()
def _before_verbs(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    pass


for name, function in (
    ("models", models.models),
    ("cost", cost.cost),
    ("audit", audit.audit),
    ("train", train.train),
    ("evaluate", evaluate.evaluate),
    ("predict", predict.predict),
    ("explain", explain.explain),
    ("embed", embed.embed),
    ("export", export.export),
    ("quantize", export.quantize),
    ("verify", evaluate.verify),
    ("bench", bench.bench),
    ("prune", prune.prune),
    ("fit", fit.fit),
    ("report", report.report),
    ("push", push.push),
    ("serve", serve.serve),
    ("doctor", doctor.doctor),
):
    app.command(name, cls=ExampleCommand)(function)
app.add_typer(weights.app, name="weights", cls=ExampleGroup)


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    secure_streams()
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        ended.append(number)
        sys.exit(128 + number)

    _tidy_before_it_ends(end)
    if threads := threads_by_quota():  # code that counts cores ignores quotas
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        status = run(sys.argv[1:])
    except BaseException:
        if not ended:
            raise
    sys.exit(128 + ended[0] if ended else status)  # even if a call swallowed the signal


def _tidy_before_it_ends(end: Callable[[int, FrameType | None], NoReturn]) -> None:
    """Make SIGTERM and SIGHUP end the process like Ctrl-C, so that nothing half-written is left.

    A second SIGTERM ends it at once; a second SIGHUP is ignored: kernel and shell both send one.
    """

    def once(number: int, frame: FrameType | None) -> NoReturn:
        hang_up = number == getattr(signal, "SIGHUP", None)
        signal.signal(number, signal.SIG_IGN if hang_up else signal.SIG_DFL)
        end(number, frame)

    for name in ("SIGTERM", "SIGHUP"):  # Windows has only the first
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, once)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its status.

    0: done; 1: a gate was not met; 2: wrong request; 130: interrupted; 141: output pipe closed.
    """
    given, status = [argument for argument in arguments if argument != "--debug"], DONE
    try:
        for before, argument in pairwise(("", *given)):
            if _EMPTY.fullmatch(argument):  # for a shell variable that is not set
                option = argument.strip().rstrip("=") or (before if before.startswith("-") else "")
                raise InputError(f"{option or 'an argument'} is empty; give it a value")
            if given[0] == "push":
                continue
            # predict still answers the other images; a database has an address
            on_hub = argument.partition("=")[2] if argument.startswith("--") else argument
            if (
                given[0] not in ("predict", "explain")
                and before != "--storage"
                and not on_hub.startswith(HUB)
            ):
                refuse_address(argument)
        if given[:1] != ["push"]:
            given = [_fetched(argument) for argument in given]
        if not given and COMPLETION not in os.environ:
            print(FIRST)
        else:
            command = _command(given[0] if given else "")
            status = command(given, prog_name="mobilette", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return NOT_READ
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # typer turns it into status 1
            raise
        drop_output()
        return NOT_READ
    except (InputError, UsageError, OSError) as error:
        if len(given) < len(arguments):
            raise
        return _explain(error, given)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return int(status or DONE)


def _fetched(argument: str) -> str:
    """Return an argument with the folder of a model in the place of its address on the hub."""
    option, sign, value = argument.partition("=")
    if argument.startswith("--") and value.startswith(HUB):
        return f"{option}{sign}{_fetched(value)}"
    if not argument.startswith(HUB):
        return argument
    from mobilette.formats.hub import fetch_model

    return str(fetch_model(argument))


@cache
def _command(verb: str) -> Callable[..., Any]:
    """Return the app's command with only ``verb``, if it exists: building all of them is slow."""
    one = copy(app)
    one.registered_commands = [each for each in app.registered_commands if each.name == verb]
    one.registered_groups = [each for each in app.registered_groups if each.name == verb]
    found = one.registered_commands or one.registered_groups
    return typer.main.get_command(one if found else app)


def _explain(error: Exception, given: Sequence[str]) -> int:
    text = error.format_message() if isinstance(error, UsageError) else str(error)
    for option, value, more in _SEVERAL.findall(" ".join(given)):
        if f"extra argument(s) ({more}" in text:
            text += f"; of several values write {option} {value},{more}"
    print(visible(f"mobilette: error: {' '.join(text.split())}"), file=sys.stderr)
    return WRONG_REQUEST


class _MayBreak:
    """A stream whose write errors are ignored: training goes on if its terminal was closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def secure_streams() -> None:
    """Tolerate closed streams, unprintable characters and a stderr without a reader."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It takes the lowest free descriptor, so no file opened later gets it.
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, io.open(descriptor, mode, closefd=False))  # noqa: SIM115, UP020
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that a terminal or pipe cannot show are escaped.
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = cast(TextIO, _MayBreak(sys.stderr))


def drop_output() -> None:
    """Discard further output to stdout, whose reader is gone."""
    with suppress(OSError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
