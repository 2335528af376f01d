from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobilette.errors import InputError
from mobilette.files import read_bytes, read_json, write_bytes
from mobilette.folders import check_new, new_directory


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["weights"]


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE is POSIX")
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "weights"
    write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match="weights: cannot be written"):
            write_bytes(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["weights"]


def test_size_is_checked_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(InputError, match=r"large: 1,099,511,627,776 bytes, more than"):
        read_bytes(path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "arch.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"arch\.json: not valid JSON") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such file"):
        read_bytes(tmp_path / "nothing")
    with pytest.raises(InputError, match="not a file"):
        read_bytes(tmp_path)


def test_a_new_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with new_directory(target, holds="file") as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert names(target.parent) == ["b"]


def test_a_failure_inside_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with new_directory(tmp_path / "a" / "b", holds="file") as folder:
            (folder / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == []


def test_an_existing_directory_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    (target / "precious").touch()
    with pytest.raises(InputError, match=r"run: exists; give another --out, or --force"):
        new_directory(target, holds="file").__enter__()
    with (
        pytest.raises(ValueError, match="stop"),
        new_directory(target, holds="precious", force=True),
    ):
        raise ValueError("stop")
    assert names(target) == ["precious"]
    with new_directory(target, holds="precious", force=True) as folder:
        (folder / "new").touch()
    assert names(target) == ["new"]
    assert names(tmp_path) == ["run"]


def test_force_replaces_nothing_of_another_kind_and_not_its_own_source(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter 1").touch()
    with pytest.raises(InputError, match="only replaces a folder that contains arch.json"):
        new_directory(tmp_path / "thesis", holds="arch.json", force=True).__enter__()
    with pytest.raises(InputError, match="lies in it and would be replaced"):
        new_directory(tmp_path, holds="thesis", force=True, source=tmp_path / "thesis").__enter__()
    assert names(tmp_path / "thesis") == ["chapter 1"]


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        new_directory(tmp_path / "file" / "run", holds="file").__enter__()
    assert (tmp_path / "file").read_text() == "x"


def test_a_place_below_a_file_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_new(tmp_path / "new" / "deep", holds="arch.json", force=False)
    with pytest.raises(InputError, match=r"out: cannot be written \(.*file is a file\)"):
        check_new(tmp_path / "file" / "out", holds="arch.json", force=False)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_told_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"cannot be written \(.* is not writable\)"):
        check_new(tmp_path / "out", holds="arch.json", force=False)
