"""Write docs/deviations.md: networks whose counts differ from the published ones.

`published.csv` lists the counts in papers and authors' repositories, one network per line, with
sources. A published number agrees with ours if ours, rounded or truncated to the same digits, is
equal to it. Lines that disagree name one of the reasons below; lines that agree have none.

    python docs/make_deviations.py            write the page
    python docs/make_deviations.py --print    print it instead
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.counting.cost import cost

DOCS = Path(__file__).parent
PAGE = DOCS / "deviations.md"
UNITS = {"M": 1_000_000, "G": 1_000_000_000}
REASONS = {
    "three_numbers": (
        "The printed parameters fit three numbers per channel of a batch norm (4.243M at width 1, "
        "1.337M at 0.5); we count the two that are trained, scale and shift."
    ),
    "slim_v1": (
        "The table disagrees with the paper, which prints 325M at width 0.75, as we count; we "
        "found no reading of the architecture that gives the table's number."
    ),
    "without_classifier": (
        "Printed without the classifier's 1.024M mult-adds; the paper's other rows include them."
    ),
    "without_norm": (
        "Printed without the scale and shift of batch norm: 3,504,872 - 34,112 = 3,470,760 at "
        "width 1, which the paper truncates to 3.4M."
    ),
    "v2_140": (
        "6.9M parameters do not fit the paper's own architecture; the authors' repository prints "
        "6.06M (without batch norm) and 582M mult-adds, as we count."
    ),
    "v3": (
        "Off by at most 1.2M mult-adds and 0.07M parameters; the paper does not say how it rounds "
        "channels, and the other rows of the table agree (docs/decisions/0003)."
    ),
    "scaled_head": (
        "3.6M parameters fit a last hidden layer scaled by the width (3,644,912, as torchvision "
        "builds it); the printed mult-adds fit an unscaled one, as in the other rows."
    ),
    "first_version": (
        "From the paper's first version. The fifth, which all published weights follow, prints "
        "2.5M and 57M, and 2.0M and 44M at width 0.75."
    ),
    "minimalistic": (
        "The parameters agree, but the printed mult-adds do not follow from them; timm's port of "
        "the authors' weights also has 52.3M."
    ),
    "mnasnet": (
        "Printed 1% to 3% above ours, by 0.6 to 0.7 for each output of a convolution; the authors "
        "do not say what they count besides multiply-accumulates."
    ),
    "lite": (
        "Printed 3% to 6% above ours, by 3.0 to 3.2 for each output of a convolution, as if batch "
        "norms and activations were counted; the authors do not say."
    ),
    "shuffle_v1": ("Within 2%; the paper rounds the number that it chose the channels for."),
    "shuffle_quarter": (
        "The paper prints the same number for all numbers of groups; its channels, scaled with the "
        "stem, give 11.0M to 11.6M (12.4M where channels are rounded up to 4 or 8 groups)."
    ),
    "groups": (
        "A quarter of the channels, or the first unit's new channels, is not a multiple of the "
        "groups, as a grouped convolution requires. We round up and widen the stem, as the "
        "authors' code does for 8 groups (40M there)."
    ),
    "shuffle_v2": (
        "Up to 1.4% above; the authors do not say what they count. torchvision's network, whose "
        "parameters and logits equal ours, has the mult-adds that we count."
    ),
    "squeezenet": ("Half of the FLOPS in the authors' repository, which does not define them."),
    "statistics": (
        "Printed with the running statistics of batch norms, 480 numbers that are not trained."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of `published.csv` and our counts of its network."""

    published: dict[str, str]
    params: int
    madds: int

    @property
    def agrees(self) -> bool:
        """Whether every printed number agrees with ours."""
        printed = (self.published["params"], self.published["madds"])
        return all(
            not text or agrees(text, count)
            for text, count in zip(printed, (self.params, self.madds), strict=True)
        )


def agrees(printed: str, count: int) -> bool:
    """Whether ``count``, rounded or truncated to the digits of ``printed`` ("3.4M"), equals it."""
    unit = UNITS.get(printed[-1], 1)
    number = Decimal(printed.rstrip("MG"))
    exact = Decimal(count) / unit
    return number in (exact.quantize(number, how) for how in (ROUND_HALF_UP, ROUND_DOWN))


def read() -> list[Line]:
    """Return every line of `published.csv` with our counts."""
    lines = []
    with (DOCS / "published.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            settings = Settings(
                width_mult=float(row["width_mult"]),
                resolution=int(row["resolution"]),
                num_classes=int(row["classes"]),
            )
            counted = cost(get_arch(row["model"], settings))
            lines.append(Line(published=row, params=counted.params, madds=counted.madds))
    return lines


def page(lines: list[Line]) -> str:
    """Return the page as Markdown."""
    different = [line for line in lines if not line.agrees]
    used = [reason for reason in REASONS if any(x.published["reason"] == reason for x in different)]
    numbers = {reason: number for number, reason in enumerate(used, start=1)}
    table = "\n".join(_row(line, numbers[line.published["reason"]]) for line in different)
    reasons = "\n".join(f"{number}. {REASONS[reason]}" for reason, number in numbers.items())
    return f"""# Where our counts differ from published ones

Generated by `python docs/make_deviations.py` from `docs/published.csv`; do not edit by hand.

Papers and their authors' repositories print parameters or mult-adds of {len(lines)} networks. For
{len(lines) - len(different)} of them ours agree to the last printed digit, rounded or truncated;
the others are listed here. One multiply-accumulate is one mult-add; parameters are the trained
ones. The networks themselves are the published ones: with the same weights they give the same
logits as torchvision's and timm's (`tests/parity`), and their exact counts are tested
(`tests/arch/test_published.py`).

| network | width | pixels | params printed | ours | mult-adds printed | ours | source | why |
|---|--:|--:|--:|--:|--:|--:|---|--:|
{table}

{reasons}
"""


def _row(line: Line, reason: int) -> str:
    row = line.published
    cells = (
        f"`{row['model']}`",
        row["width_mult"],
        row["resolution"],
        row["params"] or "-",
        f"{line.params:,}",
        row["madds"] or "-",
        f"{line.madds:,}",
        row["source"],
        str(reason),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the page, or print it."""
    text = page(read())
    if "--print" in sys.argv[1:]:
        print(text, end="")
    else:
        PAGE.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
