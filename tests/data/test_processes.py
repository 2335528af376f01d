"""Programs in which processes that decode can be started, and those in which threads have to do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mobilette.data.workers import _is_guarded
from tests.data.sets import divided

# A function that decodes a set by two workers, and prints how many images there are, what was
# remarked, and how many times this program has begun.
LOAD = """
import os, sys
import mobilette.data.dataset as d, mobilette.data.preprocess as p, mobilette.data.sources as s
import mobilette.data.reading as r, mobilette.progress as g
os.write(1, b"begun\\n")
def load(folder):
    said = []
    set_ = d.load_dataset(s.find_images(folder), resolution=16, loader="streamed",
                          reading=r.Reading(workers=2), preprocess=p.preset("torch"),
                          reporter=g.Reporter(remark=said.append))
    rows = set_.splits["train"].pixels[:]
    set_.close()
    print(len(rows), int(rows.sum()), *said, sep="|", flush=True)
"""
CALL = "load(sys.argv[1])\n"
GUARDED = f'if __name__ == "__main__":\n    {CALL}'
BY_THREADS = "images are decoded by threads, not by processes: "
DAEMON = """
def daemon(folder):
    import multiprocessing
    child = multiprocessing.get_context("fork").Process(target=load, args=(folder,), daemon=True)
    child.start()
    child.join()
"""
EXECUTOR = """
def executor(folder):
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1) as pool:
        pool.submit(load, folder).result()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return divided(tmp_path_factory.mktemp("set") / "images", train=12, val=4)


def answer(done: subprocess.CompletedProcess[str]) -> tuple[list[str], int]:
    """Return what `load` printed, and how many times the program had begun."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    (found,) = (line for line in lines if line != "begun")
    return found.split("|"), lines.count("begun")


def ran(words: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], input=text, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
@pytest.mark.parametrize(
    ("how", "program", "remark"),
    [
        ("file", LOAD + CALL, '`if __name__ == "__main__":` is missing around line'),
        ("file", LOAD + GUARDED, None),
        ("stdin", LOAD + CALL, "the program, <stdin>, is not a file"),
        ("stdin", LOAD + GUARDED, "the program, <stdin>, is not a file"),
        ("-c", LOAD + CALL, None),
        ("file", LOAD + DAEMON + CALL.replace("load", "daemon"), "a daemonic process cannot start"),
        ("file", LOAD + EXECUTOR + GUARDED.replace("load(", "executor("), None),
        ("exec", LOAD + CALL, None),
        ("module", LOAD + CALL, '`if __name__ == "__main__":` is missing around line'),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 10 else "",
)
def test_decoding_works_from_every_program(
    how: str, program: str, remark: str | None, folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(program)
    arguments = [str(folder)]
    if how == "file":
        done = ran([str(script), *arguments])
    elif how == "stdin":
        done = ran(["-", *arguments], program)
    elif how == "-c":
        done = ran(["-c", program, *arguments])
    elif how == "module":
        done = ran(
            [
                "-c",
                f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r});"
                "runpy.run_module('program', run_name='__main__', alter_sys=True)",
                *arguments,
            ]
        )
    else:  # as notebooks do it
        done = ran(["-c", f"exec({program!r}, globals())", *arguments])
    (count, total, *remarks), begun = answer(done)
    assert (count, int(total) > 0) == ("24", True)
    if remark is None:
        assert remarks == []
    else:
        assert begun == 1  # the program was not done again by a process
        assert [line.startswith(BY_THREADS + remark) for line in remarks] == [True]


@pytest.mark.parametrize("fault", ["raise OSError(11, 'no more processes')", "os._exit(1)"])
def test_processes_that_do_not_begin_are_done_without(
    fault: str, folder: Path, tmp_path: Path
) -> None:
    """The first as where their number is limited; the second as where memory is."""
    if fault.startswith("raise"):
        program = LOAD + (
            "import multiprocessing.popen_spawn_posix as posix\n"
            f"def launch(self, process):\n    {fault}\n"
            f"posix.Popen._launch = launch\n{GUARDED}"
        )
    else:
        program = f"import os\nif __name__ != '__main__':\n    {fault}\n{LOAD}{GUARDED}"
    script = tmp_path / "program.py"
    script.write_text(program)
    (count, _, *remarks), _ = answer(ran([str(script), str(folder)]))
    assert count == "24"
    assert len(remarks) == 1
    assert remarks[0].startswith(BY_THREADS)


@pytest.mark.parametrize(
    ("source", "line", "guarded"),
    [
        ("x = 1\ncall()", 2, False),
        ("if __name__ == '__main__':\n    call()", 2, True),
        ("if '__main__' == __name__:\n    call()\nelse:\n    pass", 2, True),
        ("try:\n    if __name__ == '__main__':\n        call()\nfinally:\n    pass", 3, True),
        ("if __name__ == '__main__':\n    a()\ncall()", 3, False),
        ("if x:\n    call()", 2, False),
    ],
)
def test_guards_are_told_from_the_source(source: str, line: int, guarded: bool) -> None:
    assert _is_guarded(ast.parse(source), line) is guarded
