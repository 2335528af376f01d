"""Locates a network in a file of weights: its prefix and its classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.rows import PoolLinear
from mobilette.errors import InputError
from mobilette.formats.imported import NO_CLASSIFIER
from mobilette.formats.torch.checkpoint import SAYS_AVERAGED
from mobilette.formats.torch.name_tables import COUNTER, Source, first_weights, tensor_names

HIDDEN, CLASSIFIER = "head.hidden.", "head.classifier."
# If there are more candidate prefixes, only the shortest are tried.
MOST_PREFIXES, LONGEST_PREFIX = 50, 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """The tensors of a file that belong to the network.

    Attributes:
        source: the project whose names they have.
        tensors: by these names, without the prefix and with the classifier at its usual place.
        outside: the names of the file's other tensors.
        hidden: whether the head has its hidden layers.
        has_classifier: otherwise the returned classifier is one class of zeros.
        remarks: what was inferred, one line each.
    """

    source: Source
    tensors: dict[str, Tensor]
    outside: tuple[str, ...] = ()
    hidden: bool = True
    has_classifier: bool = True
    remarks: tuple[str, ...] = ()

    def adapt(self, arch: Arch) -> Arch:
        """Return ``arch`` with the file's head."""
        if self.hidden or not isinstance(arch.head, PoolLinear):
            return arch
        pool = arch.head.pool if self.has_classifier else 1
        return replace(arch, head=replace(arch.head, hidden=(), pool=pool))


def place(
    where: str, tensors: Mapping[str, Tensor], arch: Arch, sources: Iterable[Source]
) -> Placed | None:
    """Return the tensors of the network; ``None`` if no project's names occur in the file.

    The prefix is the one that most names have. A classifier under another name is recognised if the
    rest of the network is complete and one layer is left over; with none left over, the file has no
    classifier. The width of ``arch`` does not matter.
    """
    found = _find(where, tensors, arch, sources)
    if found is None:
        return None
    source, prefix, twins = found
    named = {f"{twin}{name}" for twin in twins for name in tensor_names(arch, source).values()}
    ahead = tuple(twin for twin in twins if twin and not prefix.startswith(twin))
    own = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in named and not name.startswith(ahead)
    }
    inside = {n.removeprefix(prefix): t for n, t in own.items() if n.startswith(prefix)}
    strange = {n: t for n, t in own.items() if not n.startswith(prefix)}
    placed = Placed(
        source=source,
        tensors=inside,
        outside=tuple(n for n in tensors if n not in own or n in strange),
        remarks=(f"removed the prefix {prefix!r}",) if prefix else (),
    )
    return _with_classifier(where, placed, arch, strange)


def _find(
    where: str, tensors: Mapping[str, Tensor], arch: Arch, sources: Iterable[Source]
) -> tuple[Source, str, list[str]] | None:
    """Return the project, the prefix, and the prefixes of other copies of the network."""
    most, prefixes = 0, [""]
    best: Source | None = None
    for source in sources:
        if arch.name not in source.tables:
            continue
        names = tensor_names(arch, source)
        first = names[first_weights(arch)[0]]
        ends = (name.removesuffix(first) for name in tensors if name.endswith(first))
        likely = {"", *(end for end in ends if end.endswith(".") and len(end) <= LONGEST_PREFIX)}
        known = [name for name in names.values() if not name.endswith(COUNTER)]
        for prefix in sorted(likely, key=len)[:MOST_PREFIXES]:
            count = sum(f"{prefix}{name}" in tensors for name in known)
            if prefix and count < len(known) / 2:
                continue  # another network with similar names
            if count > most:
                most, best, prefixes = count, source, [prefix]
            elif count == most and source is best:
                prefixes.append(prefix)
    if best is None:
        return None
    averaged = [prefix for prefix in prefixes if SAYS_AVERAGED.search(prefix)]
    chosen = averaged if len(averaged) == 1 else prefixes
    if len(chosen) > 1:
        raise InputError(
            f"{where}: {arch.name} is in it several times, as "
            f"{' and '.join(map(repr, chosen[:4]))}; save the state dict of the one you mean"
        )
    return best, chosen[0], [prefix for prefix in prefixes if prefix != chosen[0]]


def _with_classifier(where: str, placed: Placed, arch: Arch, strange: dict[str, Tensor]) -> Placed:
    """Return ``placed`` with its classifier at the usual name, unless other tensors are missing.

    ``strange`` are tensors outside the network.
    """
    inside, names = placed.tensors, tensor_names(arch, placed.source)
    missing = [
        ours for ours, name in names.items() if name not in inside and not name.endswith(COUNTER)
    ]
    usual = next(name for ours, name in names.items() if ours.startswith(CLASSIFIER))
    bare = [ours for ours in missing if ours.startswith(HIDDEN)]
    hidden = not bare
    if not all(ours.startswith((HIDDEN, CLASSIFIER)) for ours in missing) or (
        bare and len(bare) < sum(ours.startswith(HIDDEN) for ours in names)
    ):
        return placed
    known = set(names.values())
    if not missing:
        head = f"{usual.partition('.')[0]}."
        more = {n: t for n, t in inside.items() if n.startswith(head) and n not in known} | strange
        _check_head(where, arch, [usual, *_layers(more)])
        return placed
    rest = {n: t for n, t in inside.items() if n not in known or n == usual} | strange
    layers = _layers(rest)
    _check_head(where, arch, layers)
    if not layers:
        return replace(
            placed, hidden=hidden, has_classifier=False, remarks=(*placed.remarks, NO_CLASSIFIER)
        )
    module = layers[0].removesuffix(".weight")
    weight, bias = rest[layers[0]], rest.get(f"{module}.bias")
    if not layers[0].endswith(".weight") or weight.shape[2:] not in ((), (1, 1)):
        raise InputError(
            f"{where}: has all of {arch.name} but the classifier; the remaining {layers[0]!r:.80} "
            f"of shape {tuple(weight.shape)} is not one"
        )
    moved = {name: tensor for name, tensor in inside.items() if not name.startswith(f"{module}.")}
    moved[usual] = weight
    moved[f"{usual.removesuffix('.weight')}.bias"] = (
        torch.zeros(len(weight)) if bias is None else bias
    )
    outside = tuple(name for name in placed.outside if not name.startswith(f"{module}."))
    remark = f"the classifier is called {module!r}" + " without a bias" * (bias is None)
    return replace(
        placed,
        tensors=moved,
        outside=outside,
        hidden=hidden,
        remarks=(*placed.remarks, remark),
    )


def _layers(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of layers' weights, excluding one-dimensional weights of a loss."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and not name.endswith((".bias", ".running_mean", ".running_var"))
        and (tensor.ndim > 1 or f"{name.rpartition('.')[0]}.bias" in tensors)
    ]


def _check_head(where: str, arch: Arch, layers: list[str]) -> None:
    if len(layers) > 1:
        names = ", ".join(f"{name!r:.60}" for name in layers[:4])
        raise InputError(
            f"{where}: its head has {len(layers)} layers with weights, {names}; "
            f"{arch.name} has one. Without them, the file is a start for 'mobilette "
            "train --from'"
        )
