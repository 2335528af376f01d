"""The quota of a container, read from files as the kernel writes them, and from the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilette.artifact.directory import Artifact
from mobilette.data import machine
from mobilette.data.machine import cpu_quota, usable_cores
from mobilette.engines.load import load
from mobilette.engines.onnxruntime import OnnxRuntimePredictor
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.run.directory import Run

V2 = "0::{path}\n"
V1 = "12:memory:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/\n"
MOUNT_V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNT_V1 = (
    "31 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:29 {root} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


def tree(root: Path, own: str, mounts: str, files: Mapping[str, str]) -> Path:
    """Write a file system with what the kernel says of groups; ``files`` by path below them."""
    content = {"proc/self/cgroup": own, "proc/self/mountinfo": mounts}
    content |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v1(quota: int, period: int = 100_000, folder: str = "") -> dict[str, str]:
    return {
        f"cpu,cpuacct/{folder}cpu.cfs_quota_us": f"{quota}\n",
        f"cpu,cpuacct/{folder}cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("own", "mounts", "files", "expected"),
    [
        # Version 2: a container that sees its group as the topmost one.
        (V2.format(path="/"), MOUNT_V2.format(root="/"), {"cpu.max": "150000 100000\n"}, 1.5),
        (V2.format(path="/"), MOUNT_V2.format(root="/"), {"cpu.max": "max 100000\n"}, None),
        (V2.format(path="/"), MOUNT_V2.format(root="/"), {"cpu.max": "max\n"}, None),
        (V2.format(path="/"), MOUNT_V2.format(root="/"), {"cpu.max": ""}, None),
        # A service: the smallest of all around it counts.
        (
            V2.format(path="/a.slice/b.slice/c.service"),
            MOUNT_V2.format(root="/"),
            {
                "a.slice/cpu.max": "200000 100000\n",
                "a.slice/b.slice/cpu.max": "max 100000\n",
                "a.slice/b.slice/c.service/cpu.max": "300000 100000\n",
                "other.slice/cpu.max": "10000 100000\n",
            },
            2.0,
        ),
        # Paths of the host in a container: not there, or above what is mounted.
        (
            V2.format(path="/docker/0123"),
            MOUNT_V2.format(root="/"),
            {"cpu.max": "50000 100000\n"},
            0.5,
        ),
        (
            V2.format(path="/../../pod/0123"),
            MOUNT_V2.format(root="/../.."),
            {"cpu.max": "100000 50000\n"},
            2.0,
        ),
        (
            V2.format(path="/../x"),
            MOUNT_V2.format(root="/"),
            {"cpu.max": "100000 100000\n"},
            1.0,
        ),
        # Version 1.
        (V1.format(path="/"), MOUNT_V1.format(root="/"), v1(-1), None),
        (V1.format(path="/"), MOUNT_V1.format(root="/"), v1(250_000), 2.5),
        (
            V1.format(path="/docker/0123"),
            MOUNT_V1.format(root="/docker/0123"),
            v1(100_000, 50_000),
            2.0,
        ),
        (V1.format(path="/docker/0123"), MOUNT_V1.format(root="/"), v1(300_000), 3.0),
        (
            V1.format(path="/pods/pod1/box"),
            MOUNT_V1.format(root="/"),
            v1(-1)
            | v1(150_000, folder="pods/pod1/")
            | v1(-1, folder="pods/pod1/box/")
            | v1(900_000, folder="pods/"),
            1.5,
        ),
        # Both: the processor's controller is of version 1.
        (
            V1.format(path="/box"),
            MOUNT_V1.format(root="/") + MOUNT_V2.format(root="/").replace("group ", "group/u "),
            v1(400_000, folder="box/") | {"u/cgroup.procs": ""},
            4.0,
        ),
        (
            V2.format(path="/"),
            MOUNT_V2.format(root="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/my\\040own"),
            {"my own/cpu.max": "100000 100000\n"},
            1.0,
        ),
        # No groups, or something else entirely.
        ("", "", {}, None),
        ("nonsense\n", "a b c - d\n\n - \n", {"cpu.max": "1 2\n"}, None),
        (V2.format(path="/"), MOUNT_V2.format(root="/"), {"cpu.max": "0 0\n"}, None),
    ],
)
def test_the_smallest_quota_of_all_groups(
    own: str, mounts: str, files: Mapping[str, str], expected: float | None, tmp_path: Path
) -> None:
    assert cpu_quota(tree(tmp_path, own, mounts, files)) == expected


def test_no_proc_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@given(own=st.text(), mounts=st.text(), limit=st.text())
def test_reading_never_raises(
    own: str, mounts: str, limit: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "groups"
    for name, text in (
        ("proc/self/cgroup", V2.format(path="/") + own),
        ("proc/self/mountinfo", MOUNT_V2.format(root="/") + mounts),
        ("sys/fs/cgroup/cpu.max", limit),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode(errors="replace"))
    quota = cpu_quota(root)
    assert quota is None or quota > 0


@pytest.mark.parametrize(
    ("limit", "here", "processes", "expected"),
    [
        ("150000 100000", 8, 1, 2),
        ("50000 100000", 8, 1, 1),
        ("400000 100000", 8, 1, 4),
        ("400000 100000", 2, 1, 2),
        ("max 100000", 8, 1, 8),
        ("400000 100000", 8, 2, 2),
        ("100000 100000", 8, 4, 1),
    ],
)
def test_cores_are_those_of_the_quota_and_of_the_affinity(
    limit: str,
    here: int,
    processes: int,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree(tmp_path, V2.format(path="/"), MOUNT_V2.format(root="/"), {"cpu.max": limit})
    quota = cpu_quota(tmp_path)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    monkeypatch.setattr(machine, "_own_cores", lambda: here)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert usable_cores() == expected
    assert machine.threads_by_quota() == (0 if quota is None or quota >= here else expected)


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group with a quota of half a core; skip where that is not allowed."""
    above = [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct"), Path("/sys/fs/cgroup")]
    folder = next(each for each in above if each.is_dir() or each is above[-1])
    made = folder / f"mobilette-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if (made / "cpu.cfs_quota_us").exists():
            (made / "cpu.cfs_quota_us").write_text("50000")
        elif (made / "cpu.max").exists():
            (made / "cpu.max").write_text("50000 100000")
        else:
            pytest.skip(f"{made} has no controller of processor time")
        yield made
    except OSError as error:
        pytest.skip(f"{made} cannot be limited: {error}")
    finally:
        made.rmdir()


def test_a_process_in_a_group_of_the_kernel(group: Path) -> None:
    code = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()));"
    code += "from mobilette.cli.main import main; sys.argv[1:] = ['doctor', '--json']; main()"
    environment = dict(os.environ)
    del environment["OMP_NUM_THREADS"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(group / "cgroup.procs")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["quota"], found["cores"], found["threads"]) == (0.5, 1, 1)


def test_engines_get_the_threads_of_the_quota(
    exported: Artifact, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cast(OnnxRuntimePredictor, load(exported.path)).threads == 0
    monkeypatch.setattr(machine, "cpu_quota", lambda: 2.5)
    monkeypatch.setattr(machine, "_own_cores", lambda: 64)
    onnx = cast(OnnxRuntimePredictor, load(exported.path))
    with onnx.session() as session:
        assert session.get_session_options().intra_op_num_threads == 3
    assert cast(OnnxRuntimePredictor, load(exported.path, threads=5)).threads == 5
    checkpoint = cast(CheckpointPredictor, load(trained.path))
    assert checkpoint.threads == min(3, torch.get_num_threads())
