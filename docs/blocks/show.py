"""The command line of the modules here: all their tables, or the one that is named."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def show(*tables: Callable[[], str]) -> None:
    """Print what each function returns, or only the one whose name is the argument."""
    named = {table.__name__: table for table in tables}
    parser = argparse.ArgumentParser()
    parser.add_argument("table", nargs="?", choices=list(named), help="default: all")
    name = parser.parse_args().table
    print("\n\n".join(table() for table in ([named[name]] if name else tables)))
