"""What the outputs of a published network answer: classes that exclude each other, or each its own.

One output is the probability of the second of two classes (a sigmoid), or no classifier at all.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mobilette.arch.rows import PoolLinear
from mobilette.errors import InputError
from mobilette.formats.graph import Ending
from mobilette.formats.imported import Imported

CLASSIFIER = "head.classifier."
TWO = "one output through a sigmoid became two classes, the second of them its probability"
SEVERAL = "sigmoids over the classes: each is answered for by itself (multi-label)"


def interpret_outputs(
    imported: Imported, ending: Ending, *, num_classes: int | None, where: str
) -> Imported:
    """Return the network with a logit for each class.

    Args:
        imported: the network, whose outputs are what the file applies ``ending`` to.
        ending: what the file applies, as far as it tells.
        num_classes: how many classes there are, if somebody says so.
        where: the file, for messages.

    Raises:
        InputError: the only output is no probability of two classes.
    """
    if not imported.has_classifier:
        return imported
    if imported.arch.num_classes > 1:
        if ending != "sigmoid":
            return imported
        return replace(imported, multi_label=True, remarks=(*imported.remarks, SEVERAL))
    if ending == "softmax":
        raise InputError(f"{where}: a softmax over one output is always 1: it tells nothing")
    if ending == "logits" and num_classes != 2:
        raise InputError(
            f"{where}: one output without a sigmoid: a regression, which is not read, or the logit "
            "of the second of two classes; if it is that, name both with --classes FILE"
        )
    return _two_classes(imported, where)


def _two_classes(imported: Imported, where: str) -> Imported:
    """Return the network with the logits -z/2 and z/2: their softmax is the sigmoid of z."""
    if not isinstance(imported.arch.head, PoolLinear):
        raise InputError(f"{where}: one output, and no linear layer that could become two of it")
    weights = {
        name: torch.cat([-tensor / 2, tensor / 2]) if name.startswith(CLASSIFIER) else tensor
        for name, tensor in imported.weights.items()
    }
    return replace(
        imported,
        arch=imported.arch.with_classes(2),
        weights=weights,
        remarks=(*imported.remarks, TWO),
    )
