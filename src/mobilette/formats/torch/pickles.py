"""Reads pickles without executing them.

A pickle is a program that may call any function of any module. Here nothing is imported or called:
plain values are built, and everything else becomes an `Inert` with its name and arguments. Memory
and time are thus bounded by the pickle's length.

The instructions are those of Python's ``pickletools``.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import BinaryIO

MOST_INSTRUCTIONS = 2_000_000
RECONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__")
MAPPINGS = ("collections.OrderedDict", "builtins.dict", "__builtin__.dict")
VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
    )
)
CONSTANTS: Mapping[str, object] = MappingProxyType(
    {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
)
IGNORED = frozenset(("PROTO", "FRAME", "STOP"))


@dataclass(frozen=True)
class Named:
    """A class or function named by a pickle; it is not looked up."""

    name: str


@dataclass(eq=False)
class Inert:
    """An object that the pickle would have made by running code.

    Attributes:
        name: the class or function, with its module.
        items: its items as a mapping; text keys only.
        state: the state for its attributes.
    """

    name: str
    items: dict[str, object] = field(default_factory=dict)
    state: object = None


Rebuild = Callable[[str, tuple[object, ...]], object]
"""Returns what a call with this name and arguments stands for; ``None`` if unknown."""


def read_pickle(
    stream: BinaryIO, *, rebuild: Rebuild, find: Callable[[object], object], names: dict[str, None]
) -> object:
    """Return the value of the pickle that begins at the position of ``stream``.

    Tables keep entries with text keys only: comparing other keys can be made to take forever.

    Args:
        stream: bytes in memory.
        rebuild: gives meaning to the calls it knows.
        find: returns what a persistent id stands for.
        names: collects the names of all classes and functions.

    Raises:
        ValueError: it is damaged or has too many instructions.
        LookupError: it reads a value that does not exist.
        TypeError: it uses a value as another type.
    """
    machine = _Machine(rebuild, find, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for damaged text
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == MOST_INSTRUCTIONS:
                raise ValueError(f"a pickle of more than {count:,} instructions")
            machine.do(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    def __init__(
        self, rebuild: Rebuild, find: Callable[[object], object], names: dict[str, None]
    ) -> None:
        self.rebuild, self.find, self.names = rebuild, find, names
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[object, object] = {}
        self.copied = 0

    def do(self, name: str, argument: object) -> None:
        """Execute one instruction."""
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name not in IGNORED:
            act = _ACTS.get(name)
            if act is None:
                raise ValueError(f"a pickle with {name}, which no file of weights has")
            act(self, argument)

    def put(self, value: object) -> None:
        self.stack.append(value)

    def pop_marked(self) -> list[object]:
        """Return the values above the last mark."""
        above = self.stack
        self.stack = self.below.pop()
        return above

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def put_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise LookupError("a pickle takes what was not put there")
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def push_named(self, name: object) -> None:
        if not isinstance(name, str):
            raise TypeError("a pickle names a class by something else than text")
        self.names[name] = None
        self.stack.append(Named(name))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError("a pickle names a class by something else than text")
        self.push_named(f"{module}.{name}")

    def call(self, what: object, args: object) -> None:
        name = what.name if isinstance(what, Named) else "something that was called"
        args = args if isinstance(args, tuple) else ()
        if name in RECONSTRUCTORS and args and isinstance(args[0], Named):
            name, args = args[0].name, ()
        if name in MAPPINGS:
            made: object = {}
            if args and isinstance(args[0], list):  # pairs, as written by Python 2
                self.copied += len(args[0])
                if self.copied > MOST_INSTRUCTIONS:
                    raise ValueError("a pickle that copies without end")
                _set(made, [part for pair in args[0] for part in _pair(pair)])
        else:
            made = self.rebuild(name, args)
        self.stack.append(Inert(name) if made is None else made)

    def reduce(self) -> None:
        args, what = self.stack.pop(), self.stack.pop()
        self.call(what, args)

    def new_with_keywords(self) -> None:
        self.stack.pop()
        self.reduce()

    def call_marked(self, name: object = None) -> None:
        given = self.pop_marked()
        what = given.pop(0) if name is None else Named(str(name))
        if name is not None:
            self.names[str(name)] = None
        self.call(what, tuple(given))

    def build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Inert):
            made.state = state

    def set_items(self, pairs: list[object]) -> None:
        _set(self.stack[-1], pairs)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set(self.stack[-1], [key, value])

    def push_table(self) -> None:
        made: dict[str, object] = {}
        _set(made, self.pop_marked())
        self.stack.append(made)

    def extend(self, values: list[object]) -> None:
        made = self.stack[-1]
        if isinstance(made, list):
            made.extend(values)

    def remember(self, key: object) -> None:
        if not (isinstance(key, int) and 0 <= key < 2**32):  # longer ones can be made to collide
            raise ValueError("a pickle that remembers under an impossible number")
        self.memo[key] = self.stack[-1]

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_marked()


def _set(made: object, pairs: list[object]) -> None:
    table = made.items if isinstance(made, Inert) else made
    if not isinstance(table, dict):
        raise TypeError("a pickle puts entries into what is no table")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if isinstance(key, str):
            table[key] = value


def _drop(values: list[object]) -> None:
    """Ignore the values of sets, which are not needed."""


def _pair(pair: object) -> list[object] | tuple[object, ...]:
    if isinstance(pair, list | tuple) and len(pair) == 2:
        return pair
    raise TypeError("a pickle makes a table of what are no pairs")


_ACTS: Mapping[str, Callable[[_Machine, object], None]] = MappingProxyType(
    {
        "MARK": lambda m, _: m.mark(),
        "POP": lambda m, _: m.pop(),
        "POP_MARK": lambda m, _: _drop(m.pop_marked()),
        "DUP": lambda m, _: m.put(m.stack[-1]),
        "PUT": lambda m, key: m.remember(key),
        "BINPUT": lambda m, key: m.remember(key),
        "LONG_BINPUT": lambda m, key: m.remember(key),
        "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
        "GET": lambda m, key: m.put(m.memo[key]),
        "BINGET": lambda m, key: m.put(m.memo[key]),
        "LONG_BINGET": lambda m, key: m.put(m.memo[key]),
        "EMPTY_LIST": lambda m, _: m.put([]),
        "EMPTY_DICT": lambda m, _: m.put({}),
        "EMPTY_SET": lambda m, _: m.put(Inert("builtins.set")),
        "LIST": lambda m, _: m.put(m.pop_marked()),
        "TUPLE": lambda m, _: m.put(tuple(m.pop_marked())),
        "TUPLE1": lambda m, _: m.put_tuple(1),
        "TUPLE2": lambda m, _: m.put_tuple(2),
        "TUPLE3": lambda m, _: m.put_tuple(3),
        "DICT": lambda m, _: m.push_table(),
        "FROZENSET": lambda m, _: m.call(Named("builtins.frozenset"), tuple(m.pop_marked())),
        "APPEND": lambda m, _: m.extend([m.stack.pop()]),
        "APPENDS": lambda m, _: m.extend(m.pop_marked()),
        "ADDITEMS": lambda m, _: _drop(m.pop_marked()),
        "SETITEM": lambda m, _: m.set_item(),
        "SETITEMS": lambda m, _: m.set_items(m.pop_marked()),
        "GLOBAL": lambda m, name: m.push_named(str(name).replace(" ", ".")),
        "STACK_GLOBAL": lambda m, _: m.stack_global(),
        "REDUCE": lambda m, _: m.reduce(),
        "NEWOBJ": lambda m, _: m.reduce(),
        "NEWOBJ_EX": lambda m, _: m.new_with_keywords(),
        "OBJ": lambda m, _: m.call_marked(),
        "INST": lambda m, name: m.call_marked(str(name).replace(" ", ".")),
        "BUILD": lambda m, _: m.build(),
        "PERSID": lambda m, key: m.put(m.find(key)),
        "BINPERSID": lambda m, _: m.put(m.find(m.stack.pop())),
    }
)
