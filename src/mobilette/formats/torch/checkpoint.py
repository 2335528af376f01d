"""Finds the table of weights in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mobilette.errors import InputError
from mobilette.formats.torch.other_files import SAVE_STATE_DICT
from mobilette.formats.torch.pickles import Inert, Named
from mobilette.formats.torch.stored_tensors import StoredTensor
from mobilette.formats.torch.torch_files import TorchFile

# Keys that training scripts use, averaged weights first; the first one present is taken.
AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model"),
    *("params_ema", "shadow", "ema"),
)
WRAPPERS = (
    *AVERAGED,
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights"),
    *("params", "net_state_dict", "module", "state"),
)
SAYS_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?|shadow)($|[._])", re.IGNORECASE)
# Tables of tensors other than weights.
OTHERS = re.compile(r"opt|.*optim|.*sched|.*scaler|rng|callbacks|loops", re.IGNORECASE)
DEPTH = 4
LONGEST_KEY = 100
# A table with a smaller fraction of the largest one's tensors holds no weights.
LEAST = 0.25
# Names in every file of weights; others are mentioned in a remark.
USUAL = re.compile(
    r"(collections\.OrderedDict|torch\.(cuda\.)?\w*Storage|torch\._\w+\._rebuild\w*|torch\.Size"
    r"|torch\.nn\.parameter\.\w+|(builtins|__builtin__|typing|_codecs|copyreg|copy_reg)\.\w+)$"
)
REMARKED = 4
# Unsupported tensors, by the function that rebuilds them.
_NOT_READ = {
    "qtensor": "of a quantised module",
    "meta_tensor_no_storage": "without values, on the device 'meta'",
}
PLAIN_NAME = re.compile(r"[\w.]{1,80}")

Table = Mapping[str, object]


def find_weights(path: Path, file: TorchFile) -> tuple[dict[str, StoredTensor], list[str]]:
    """Return the weights, wherever a training script put them, and remarks on where that was.

    They are at the top or in a table under one of `WRAPPERS`, averaged ones first; else in the
    table with the most tensors. Averages of parameters alone are completed from a table that has
    the rest.
    """
    top = _table(file.content)
    if top is None or _is_module(file.content):
        _check_no_module(path, "", file.content)
        raise InputError(f"{path}: holds a {_kind(file.content)}, not tensors by name")
    tables = _tables(top)
    tensors = {key: found for key, table in tables.items() if (found := _tensors(table))}
    if not any(len(each.shape) > 1 for found in tensors.values() for each in found.values()):
        for key, table in tables.items():
            for name, value in table.items():
                _check_no_module(path, f"{key}.{name}".strip("."), value)
    if not tensors:
        for table in tables.values():
            _check_plain(path, table)
        raise InputError(
            f"{path}: no tensors in it, neither at the top nor under {', '.join(WRAPPERS)}"
            f"{_kinds(top)}"
        )
    key = _choose(path, {key: len(each) for key, each in tensors.items()})
    _check_plain(path, tables[key])
    weights = tensors[key]
    remarks = [f"took the weights under {key!r}"] if key else []
    whole = [each for each in tensors if tensors[each].keys() > weights.keys()]
    if whole and SAYS_AVERAGED.search(key):
        remarks.append(f"took tensors without an average from {whole[0]!r}")
        weights = tensors[whole[0]] | weights
    unusual = [_shown(name) for name in file.names if not USUAL.match(name)]
    if unusual:
        more = ", ..." * (len(unusual) > REMARKED)
        remarks.append(f"also in the file, not executed: {', '.join(unusual[:REMARKED])}{more}")
    return weights, remarks


def _table(value: object) -> Table | None:
    """Return a table, or the items of an inert mapping object; else ``None``."""
    if isinstance(value, Inert):
        return value.items
    return value if isinstance(value, dict) else None


def _tables(top: Table) -> dict[str, Table]:
    """Return the tables in a file by path, each once."""
    found: dict[str, Table] = {"": top}
    seen = {id(top)}
    level = dict(found)
    for _ in range(DEPTH):
        below: dict[str, Table] = {}
        for way, table in level.items():
            for key, value in table.items():
                inside = _table(value)
                if not inside or id(inside) in seen or _is_module(value):
                    continue
                if len(key) <= LONGEST_KEY and not OTHERS.match(key):
                    seen.add(id(inside))
                    below[f"{way}.{key}".strip(".")] = inside
        found |= below
        level = below
    return found


def _tensors(table: Table) -> dict[str, StoredTensor]:
    return {name: value for name, value in table.items() if isinstance(value, StoredTensor)}


def _choose(path: Path, sizes: Mapping[str, int]) -> str:
    """Return the path of the table of weights, given each table's number of tensors."""
    largest = max(sizes.values())
    likely = [way for way, size in sizes.items() if size >= LEAST * largest]
    for wrapper in WRAPPERS:
        for way in likely:
            if way.rpartition(".")[2] == wrapper:
                return way
    most = [way for way in likely if sizes[way] == largest]
    averaged = [way for way in most if SAYS_AVERAGED.search(way)]
    most = averaged if len(averaged) == 1 else most
    if len(most) > 1:
        raise InputError(
            f"{path}: weights under {', '.join(map(repr, most[:5]))}; save the ones you "
            f"mean on their own: {SAVE_STATE_DICT}"
        )
    return most[0]


def _is_module(value: object) -> bool:
    state = value.state if isinstance(value, Inert) else None
    return isinstance(state, dict) and "_modules" in state and "_parameters" in state


def _check_no_module(path: Path, way: str, value: object) -> None:
    if isinstance(value, Inert) and _is_module(value):
        where = f"under {way!r:.60} " if way else ""
        raise InputError(
            f"{path}: {where}a pickled module, names {value.name!r:.80}, whose code is not "
            f"executed; where it can be loaded, save its state dict alone: {SAVE_STATE_DICT}"
        )


def _check_plain(path: Path, table: Table) -> None:
    """Raise `InputError` if a table has a tensor of an unsupported kind."""
    for name, value in table.items():
        if isinstance(value, Inert) and value.name.startswith("torch._utils._rebuild"):
            what = value.name.rpartition("_rebuild_")[2]
            why = _NOT_READ.get(what, "of an unsupported kind")
            raise InputError(
                f"{path}: tensor {name!r:.80} is {why} ({what}); save the float network's state "
                f"dict: {SAVE_STATE_DICT}"
            )
        if name.endswith("_packed_params"):
            raise InputError(
                f"{path}: {name!r:.80} is packed by a quantised module; save the state dict of the "
                f"float network, before it is converted: {SAVE_STATE_DICT}"
            )


def _kind(value: object) -> str:
    if isinstance(value, StoredTensor):
        return "tensor"
    return _shown(value.name) if isinstance(value, Inert | Named) else type(value).__name__


def _shown(name: str) -> str:
    """Return a class name for display, quoted unless it looks like one: files are not trusted."""
    return name if PLAIN_NAME.fullmatch(name) else f"{name!r:.80}"


def _kinds(table: Table) -> str:
    if any("numpy" in _kind(value) for value in table.values()):
        return f"; it holds NumPy arrays: save tensors, {SAVE_STATE_DICT}"
    return ""
