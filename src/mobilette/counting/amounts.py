"""Amounts in the units that people read: 1.50 MB, 60.00 M, 2.10 ms, 91.2%."""

from __future__ import annotations


def human_bytes(size: int) -> str:
    """Return ``size`` with a unit: 1,536 becomes 1.54 kB (1 kB is 1,000 bytes)."""
    for unit, factor in (("MB", 1_000_000), ("kB", 1_000)):
        if size >= factor:
            return f"{size / factor:,.2f} {unit}"
    return f"{size} B"


def human_count(count: int) -> str:
    """Return ``count`` with a suffix: 300,774,272 becomes 300.77 M."""
    for suffix, factor in (("G", 1_000_000_000), ("M", 1_000_000), ("K", 1_000)):
        if count >= factor:
            return f"{count / factor:,.2f} {suffix}"
    return str(count)


def in_unit(quantity: str, amount: float) -> str:
    """Return the amount of a budget's quantity, with its unit."""
    if quantity == "latency":
        return f"{amount:.3g} ms"
    if quantity == "top1":
        return f"{amount:.2%}"
    return human_bytes(round(amount)) if quantity in ("size", "ram") else human_count(round(amount))
