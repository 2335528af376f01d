"""Whether processes can be started from where this one stands in its program."""

from __future__ import annotations

import ast
import multiprocessing
import sys
import threading
from pathlib import Path
from types import FrameType


def why_no_processes() -> str | None:
    """Return why no processes can be started that decode images; ``None`` if they can.

    A new process imports the program's main module first, under another name. Where that is not
    there to be imported, or would do again what this process is doing now, threads have to do.
    """
    if multiprocessing.current_process().daemon:
        return "a daemonic process may start none"
    main = sys.modules.get("__main__")
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if file is None or (spec is not None and spec.name.rpartition(".")[2] == "__main__"):
        return None  # `python -c`, a notebook, or a package that is run: nothing is imported
    try:
        program = ast.parse(Path(file).read_bytes())
    except OSError:
        return f"the program, {file}, is no file that they could begin with"
    except (SyntaxError, ValueError):  # compiled, or a shell script that Python is part of
        return None
    line = _line_in(vars(main))
    if line is None or _is_guarded(program, line):
        return None
    return f'no `if __name__ == "__main__":` is around line {line} of {file}'


def _line_in(main: dict[str, object]) -> int | None:
    """Return the line of the main module that its thread executes now, if it does."""
    ident = threading.main_thread().ident
    frame: FrameType | None = sys._current_frames().get(ident or 0)
    line = None
    while frame is not None:
        if frame.f_globals is main and frame.f_code.co_name == "<module>":
            line = frame.f_lineno
        frame = frame.f_back
    return line


def _is_guarded(program: ast.Module, line: int) -> bool:
    for each in ast.walk(program):
        if isinstance(each, ast.If) and each.lineno <= line <= (each.end_lineno or line):
            names = {part.id for part in ast.walk(each.test) if isinstance(part, ast.Name)}
            if "__name__" in names:
                return True
    return False
