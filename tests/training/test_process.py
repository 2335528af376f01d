from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, sys, torch
from mobilette.training.process import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64, 256, 1024)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_freed_memory_is_kept_so_the_kernel_maps_it_once() -> None:
    """Page faults of the thirtieth 64 MB tensor: thousands by default, almost none when kept."""
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", CODE, mode]))
        for mode in ("default", "keep")
    }
    assert faults["default"] > 10 * max(1, faults["keep"])


LARGE = """
import sys, torch
from pathlib import Path
from mobilette.training.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
tensor = torch.ones(64, 256, 1024)
place = tensor.data_ptr() + tensor.nbytes // 2
for line in Path("/proc/self/smaps").read_text().splitlines():
    first, _, rest = line.partition(" ")
    if "-" in first:
        begin, end = (int(each, 16) for each in first.split("-"))
        is_here = begin <= place < end
    elif first == "VmFlags:" and is_here:
        print("hg" in rest.split())
"""


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists() or platform.libc_ver()[0] != "glibc",
    reason="glibc's allocator, and a kernel with pages of 2 MiB",
)
@pytest.mark.parametrize(("mode", "advised"), [("default", b"False"), ("keep", b"True")])
def test_kept_memory_may_be_in_large_pages(mode: str, advised: bytes) -> None:
    """By the kernel's own flags (man 5 proc): whether it finds such pages is luck."""
    assert subprocess.check_output([sys.executable, "-c", LARGE, mode]).strip() == advised


def test_nothing_is_set_by_an_import() -> None:
    code = (
        "import torch; before = torch.get_num_threads()\n"
        "import mobilette.workflows.train, mobilette.cli.train, mobilette\n"
        "mobilette.create_model('mobilenet_v1', width_mult=0.25)\n"
        "assert torch.get_num_threads() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
