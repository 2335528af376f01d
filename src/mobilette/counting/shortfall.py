"""Why nothing fits a budget, in one line."""

from __future__ import annotations

from mobilette.arch.scale import resolution_text
from mobilette.counting.amounts import in_unit
from mobilette.counting.candidates import Candidate, Precision, Shortfall


def why_nothing_fits(short: Shortfall, budget: str, precision: Precision) -> str:
    """Return the tightest limit of ``budget``, and the networks nearest to it."""
    quantity = short.tightest.quantity

    def described(candidate: Candidate) -> str:
        amount = in_unit(quantity, candidate.needs(short.tightest, precision))
        if quantity == "latency":
            amount += f" on {short.tightest.device}, predicted"
        elif quantity in ("size", "ram"):
            amount += f" in {precision}"
        point = f"width {candidate.width_mult:g} and {resolution_text(candidate.resolution)} pixels"
        return f"{candidate.name} at {point} ({quantity} {amount})"

    text = (
        f"no network fits the budget {budget!r}; its tightest limit is {short.tightest.text}, and "
        f"the smallest of these networks there is {described(short.smallest)}"
    )
    if short.nearest != short.smallest:
        text += f"; the nearest to the whole budget is {described(short.nearest)}"
    return text
