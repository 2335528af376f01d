"""Print how large the source is: python docs/size.py [CHECKOUT]."""

from __future__ import annotations

import ast
import sys
from pathlib import Path


def report(checkout: Path) -> str:
    """Return lines, files and the longest function of a checkout's ``src``."""
    source = checkout / "src"
    files = [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path)
    ]
    python = [path for path in files if path.suffix == ".py"]
    length, name = max(found for path in python for found in functions(path, source))
    return (
        f"src: {lines(files):,} lines in {len(files)} files\n"
        f"Python: {lines(python):,} lines in {len(python)} files\n"
        f"longest function: {name}, {length} lines"
    )


def lines(files: list[Path]) -> int:
    """Return the number of lines in ``files``."""
    return sum(path.read_bytes().count(b"\n") for path in files)


def functions(path: Path, source: Path) -> list[tuple[int, str]]:
    """Return length, including decorators and docstring, and name of each function in a file."""
    module = ".".join(path.relative_to(source).with_suffix("").parts)
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            found.append(((node.end_lineno or first) - first + 1, f"{module}.{node.name}"))
    return found or [(0, module)]


if __name__ == "__main__":
    print(report(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])))
