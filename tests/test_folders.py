"""Folders that several processes want at once, or whose process was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mobilette.errors import InputError
from mobilette.folders import BusyError, claimed, claimed_free, new_directory, restore, scratch

KILLS = Path(__file__).with_name("folder_kills.py")
posix_only = pytest.mark.skipif(os.name == "nt", reason="fork and SIGKILL are POSIX")
# Claims what its arguments say, tells the name, and keeps it until its input ends.
HOLD = """
import sys
from pathlib import Path
from mobilette import folders
what, where = sys.argv[1:]
claim = getattr(folders, what)
with claim(Path(where)) as got:
    print(got or where, flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path: Path, what: str = "claimed") -> Iterator[subprocess.Popen[str]]:
    """Have another process hold a claim; its next line of output is what it has claimed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, what, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@posix_only
@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_folder_is_replaced_whole_wherever_its_process_is_killed(
    way: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLS), str(tmp_path), way],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) > 15
    assert [kill["status"] for kill in kills] == [9] * (len(kills) - 1) + [0]
    old, new = ([[name, text] for name in ("one", "two")] for text in ("old", "new"))
    results = [kill["found"] for kill in kills]
    first_new = results.index(new)
    assert results == [old] * first_new + [new] * (len(kills) - first_new)
    assert all(kill["left"] == ["run"] for kill in kills)
    if way == "exchange" and sys.platform == "linux":
        assert all(kill["there"] for kill in kills)
    else:
        assert sum(not kill["there"] for kill in kills) == 1  # brought back by the reader


def test_a_claimed_folder_is_refused_to_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    with held(path) as other:
        assert said(other) == str(path)
        message = rf"run: process {other.pid} is writing it; wait until it ends"
        with pytest.raises(BusyError, match=message):
            claimed(path).__enter__()
        for force in (False, True):
            with pytest.raises(BusyError, match=message):
                new_directory(path, holds="file", force=force).__enter__()
        with claimed(path.with_name("other")):
            pass
        other.communicate()
    assert names(tmp_path) == []
    with new_directory(path, holds="file"):
        pass
    assert names(path.parent) == ["run"]


@posix_only
def test_the_claim_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with held(path) as other:
        assert said(other) == str(path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert names(tmp_path) == [".run.lock"]
    with claimed(path):
        pass
    assert names(tmp_path) == []


def test_a_thread_may_claim_again_what_it_has_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run"
    link = tmp_path / "link"
    link.symlink_to(path, target_is_directory=True)
    with ThreadPoolExecutor(1) as pool, claimed(path):
        with new_directory(path, holds="file") as folder, claimed(path):
            assert folder.is_dir()  # what is being written is not taken for a dead process's
        for name in (path, link):
            with pytest.raises(BusyError):
                pool.submit(claimed(name).__enter__).result()
    assert names(tmp_path) == ["link", "run"]


def test_default_names_count_on_for_processes_that_begin_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with held(path, "claimed_free") as a, held(path, "claimed_free") as b:
        assert {said(a), said(b)} == {str(path), f"{path}-2"}
        with claimed_free(path) as third:
            assert third.name == "run-3"
        for process in (a, b):
            process.communicate()
    path.mkdir()
    with claimed_free(path) as free:
        assert free.name == "run-2"
    assert names(tmp_path) == ["run"]


def test_a_free_name_is_not_looked_for_where_there_can_be_none(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        claimed_free(tmp_path / "runs" / "run").__enter__()


def test_what_others_have_beside_a_folder_is_left_alone(tmp_path: Path) -> None:
    others = [
        ".run.backup.old",
        ".run.12345678",
        ".run.backup",
        ".run.x.12345678.unfinished",
        ".run",
        "run.old",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".run.12345678" / "file").touch()  # somebody's copy of a whole one
    (tmp_path / ".run.abcd_123.unfinished").mkdir()
    with new_directory(tmp_path / "run", holds="file"):
        pass
    assert names(tmp_path) == sorted([*others, "run"])


def test_what_earlier_versions_left_unfinished_goes_with_the_redo(tmp_path: Path) -> None:
    for name in (".onnx.k3_x91ab", ".onnx.abcdefgh"):
        (tmp_path / name).mkdir()
    (tmp_path / ".onnx.abcdefgh" / "model.onnx").touch()
    with new_directory(tmp_path / "onnx", holds="contract.json"):
        pass
    assert names(tmp_path) == ["onnx"]


def test_a_folder_that_nobody_replaced_is_not_brought_back(tmp_path: Path) -> None:
    restore(tmp_path / "run")
    assert names(tmp_path) == []


def test_without_a_lock_it_goes_on_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / ("x" * 250)  # the lock's name is too long for the file system
    with claimed(path, remark=said.append):
        pass
    assert said == [f"{path}: cannot be locked here: do not start a second process that writes it"]


@posix_only
def test_temporary_folders_of_the_dead_are_removed_and_of_the_living_are_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "mobilette-mine").mkdir()
    with held(tmp_path, "scratch") as dead, held(tmp_path, "scratch") as alive:
        left, kept = Path(said(dead)), Path(said(alive))
        (left / "file").touch()
        dead.kill()
        dead.wait()
        with scratch(tmp_path) as outer, scratch(tmp_path) as inner:
            assert not left.exists()
            assert kept.is_dir()
            assert outer.is_dir()
            assert inner.is_dir()
        alive.communicate()
    assert names(tmp_path) == ["mobilette-mine"]


def test_no_place_for_temporary_files_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: cannot be written"):
        scratch(tmp_path / "nowhere").__enter__()
