"""The valid range of every number from users, files and callers.

The command line, the fields of records (``Annotated[int, RESOLUTION]``) and Python functions check
numbers by these.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from mobilette.errors import InputError, shown


@dataclass(frozen=True)
class Range:
    """The numbers from ``lowest`` to ``highest``, both included; whole numbers if both are ``int``.

    ``hint`` is appended to the message.
    """

    lowest: float
    highest: float
    hint: str = ""

    def check(self, what: str, value: object) -> None:
        """Raise `InputError` unless ``value``, called ``what``, is a number in the range."""
        whole = isinstance(self.lowest, int) and isinstance(self.highest, int)
        number: Any = value
        # numpy's numbers are these kinds, too; asking for the usual type first is much quicker.
        if type(value) is not int and (
            isinstance(value, bool) or not isinstance(value, Integral if whole else Real)
        ):
            kind = "whole number" if whole else "number"
            raise InputError(f"{what} {shown(value)} is not a {kind} {self.bounds}")
        if not self.lowest <= number <= self.highest:  # so written, NaN is outside
            raise InputError(f"{what} {shown(value)} is not {self.bounds}{self.hint}")

    @property
    def bounds(self) -> str:
        """The range in words."""
        return f"between {self.lowest} and {self.highest}"


# Networks.
WIDTH_MULT = Range(0.001, 10.0, "; published widths are 0.25 to 1.4")
RESOLUTION = Range(16, 4096)
IN_CHANNELS = Range(1, 256)
CHANNELS = Range(1, 65_536)
CLASSES = Range(1, 65_536)
KERNEL = Range(1, 31)
STRIDE = Range(1, 8)
SIDE = Range(1, 4096)

# Images.
MEAN = Range(-1e6, 1e6)
STD = Range(1e-6, 1e6)
CROP_FRACTION = Range(0.1, 1.0)

HOLDOUT = Range(0.01, 0.5, "; it is a part of the images, such as 20% or 0.2")
FOLDS = Range(2, 100)

# Training.
EPOCHS = Range(1, 1_000_000)
BATCH_SIZE = Range(2, 65_536)  # batch norm needs two images
LEARNING_RATE = Range(0.0, 1_000.0)
SEED = Range(0, 2**31 - 1)
SECONDS = Range(0.0, 1e8)  # three years
PRUNED_PART = Range(0.0001, 0.9999, "; it is a part of the mult-adds, such as 0.7")
PRUNING_STEPS = Range(1, 100)
SHORT_STEPS = Range(0, 1_000_000)

# Answers.
TEMPERATURE = Range(0.1, 10.0)
GUESSES = Range(1, 65_536)
EVERY = Range(0.001, 86_400.0, "; it is in seconds")
CAMERA = Range(0, 99)
SCORE = Range(-1e30, 1e30)  # of logits

# Measurements.
AMOUNT = Range(0, 2**63 - 1)  # of bytes, images, steps, parameters
DIFFERENCE = Range(-1.0, 1.0)  # of two accuracies
MILLISECONDS = Range(0.0, 1e9)
RATE = Range(0.0, 1e12)  # per second

# Machines and measuring.
THREADS = Range(1, 512)
WORKERS = Range(0, 256)
ROUNDS = Range(1, 1_000)
BATCH = Range(1, 65_536)  # images in one call
ROWS = Range(1, 1_000_000)
DROP = Range(0.0, 100.0, "; they are percentage points")
FRACTION = Range(0.0, 1.0)

# Serving.
PORT = Range(0, 65_535)
CALLS = Range(1, 256)
MAX_BATCH = Range(1, 256)
MEBIBYTES = Range(1, 512)
MEGAPIXELS = Range(1, 178)
FILES = Range(1, 1024)
QUEUE = Range(1, 65_536)
CONNECTIONS = Range(1, 65_536)
REQUEST_SECONDS = Range(0.1, 3600.0)
