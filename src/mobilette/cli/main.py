"""``mobilette VERB SUBJECT [options]``."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from mobilette.cli import (
    bench,
    cost,
    doctor,
    evaluate,
    export,
    models,
    predict,
    prune,
    quantize,
    train,
    verify,
    weights,
)
from mobilette.cli.streams import drop_output, secure_streams
from mobilette.data.machine import threads_by_quota
from mobilette.data.names import refuse_address
from mobilette.errors import InputError, visible

DONE, WRONG_REQUEST = 0, 2
_EMPTY = re.compile(r"\s*|--[\w-]+=\s*")
INTERRUPTED, NOT_READ = 130, 141  # as shells say of Ctrl-C, and of a pipe that is closed
# The base of everything that typer says about wrong arguments; typer itself does not export it.
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="A folder of images in, a small verified image classifier out.",
    epilog="Every verb takes --debug: show the traceback of an error.",
    add_completion=False,
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
    ("train", train.train),
    ("evaluate", evaluate.evaluate),
    ("predict", predict.predict),
    ("export", export.export),
    ("quantize", quantize.quantize),
    ("verify", verify.verify),
    ("bench", bench.bench),
    ("prune", prune.prune),
    ("doctor", doctor.doctor),
):
    app.command(name)(function)
app.add_typer(weights.app, name="weights")


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    secure_streams()
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        ended.append(number)
        sys.exit(128 + number)

    _tidy_before_it_ends(end)
    if threads := threads_by_quota():  # what counts cores, here and in processes, knows no quota
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        status = run(sys.argv[1:])
    except BaseException:
        if not ended:
            raise
    sys.exit(128 + ended[0] if ended else status)  # whatever a half-done call made of the signal


def _tidy_before_it_ends(end: Callable[[int, FrameType | None], NoReturn]) -> None:
    """Let a closed terminal, and `kill`, end this as Ctrl-C does: nothing half-written is left.

    Another such signal ends at once; that of a terminal both kernel and shell send.
    """

    def once(number: int, frame: FrameType | None) -> NoReturn:
        hang_up = number == getattr(signal, "SIGHUP", None)
        signal.signal(number, signal.SIG_IGN if hang_up else signal.SIG_DFL)
        end(number, frame)

    for name in ("SIGTERM", "SIGHUP"):  # of which Windows has but the first
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, once)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its status.

    0: done; 1: a gate was not met; 2: the request was wrong; 130: interrupted; 141: nobody reads
    the output any more.
    """
    given = [argument for argument in arguments if argument != "--debug"]
    try:
        for before, argument in pairwise(("", *given)):
            if _EMPTY.fullmatch(argument):  # of a shell's variable that is not set
                option = argument.strip().rstrip("=") or (before if before.startswith("-") else "")
                raise InputError(f"{option or 'an argument'} is empty; give it a value")
            if given[0] != "predict":  # which answers the images beside it
                refuse_address(argument)
        status = _command()(given or ["--help"], prog_name="mobilette", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return NOT_READ
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # of which typer makes a status 1
            raise
        drop_output()
        return NOT_READ
    except (InputError, UsageError, OSError) as error:
        if len(given) < len(arguments):
            raise
        return _explain(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return int(status or DONE)


@cache
def _command() -> Callable[..., Any]:
    return typer.main.get_command(app)  # which the app itself makes anew at each call


def _explain(error: Exception) -> int:
    text = error.format_message() if isinstance(error, UsageError) else str(error)
    print(visible(f"mobilette: error: {' '.join(text.split())}"), file=sys.stderr)
    return WRONG_REQUEST
