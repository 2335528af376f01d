"""Reads pickles without executing them.

A pickle is a program that may call any function of any module. Here nothing is imported or called:
plain values are built, and everything else becomes an `Inert` with its name and arguments. Memory
and time are thus bounded by the pickle's length.

The instructions are those of Python's ``pickletools``.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
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
            if opcode.name in VALUES:
                machine.stack.append(argument)
            else:
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
        """Execute an instruction that does more than push its argument."""
        stack = self.stack
        match name:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.remember(argument)
            case "MEMOIZE":
                self.remember(len(self.memo))
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NEWTRUE": True, "NEWFALSE": False}.get(name))
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(Inert("builtins.set"))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                if len(stack) < size:
                    raise LookupError("a pickle pops more values than it pushed")
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                made = tuple(self.pop_marked())
                self.stack.append(made)
            case "LIST":
                values = self.pop_marked()
                self.stack.append(values)
            case "DICT":
                pairs, table = self.pop_marked(), dict[str, object]()
                _set(table, pairs)
                self.stack.append(table)
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], [value])
            case "APPENDS":
                values = self.pop_marked()
                _extend(self.stack[-1], values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, value])
            case "SETITEMS":
                values = self.pop_marked()
                _set(self.stack[-1], values)
            case "ADDITEMS" | "POP_MARK":  # sets are not needed
                self.pop_marked()
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self.pop_marked()
            case "DUP":
                stack.append(stack[-1])
            case "PERSID":
                stack.append(self.find(argument))
            case "BINPERSID":
                stack.append(self.find(stack.pop()))
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                self.do_with_object(name, argument)

    def do_with_object(self, name: str, argument: object) -> None:
        """Execute an instruction that names, makes or changes an object."""
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(self.named(str(argument).replace(" ", ".")))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not (isinstance(attribute, str) and isinstance(module, str)):
                    raise TypeError("a pickle with a class name that is not text")
                stack.append(self.named(f"{module}.{attribute}"))
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                if name == "NEWOBJ_EX":
                    stack.pop()  # keywords
                args, what = stack.pop(), stack.pop()
                stack.append(self.call(what, args))
            case "OBJ":
                what, *values = self.pop_marked()
                self.stack.append(self.call(what, tuple(values)))
            case "INST":
                what, values = self.named(str(argument).replace(" ", ".")), self.pop_marked()
                self.stack.append(self.call(what, tuple(values)))
            case "FROZENSET":
                self.pop_marked()
                self.stack.append(Inert("builtins.frozenset"))
            case "BUILD":
                state = stack.pop()
                made = stack[-1]
                if isinstance(made, Inert):
                    made.state = state
            case _:
                raise ValueError(
                    f"a pickle with the instruction {name}, which no file of weights has"
                )

    def remember(self, key: object) -> None:
        if not (isinstance(key, int) and 0 <= key < 2**32):  # longer ones can be made to collide
            raise ValueError("a pickle with an impossible memo index")
        self.memo[key] = self.stack[-1]

    def pop_marked(self) -> list[object]:
        """Return the values above the last mark."""
        above = self.stack
        self.stack = self.below.pop()
        return above

    def named(self, name: str) -> Named:
        self.names[name] = None
        return Named(name)

    def call(self, what: object, args: object) -> object:
        name = what.name if isinstance(what, Named) else "something that was called"
        args = args if isinstance(args, tuple) else ()
        if name in RECONSTRUCTORS and args and isinstance(args[0], Named):
            name, args = args[0].name, ()
        if name not in MAPPINGS:
            made = self.rebuild(name, args)
            return Inert(name) if made is None else made
        table: dict[str, object] = {}
        if args and isinstance(args[0], list):  # pairs, as written by Python 2
            self.copied += len(args[0])
            if self.copied > MOST_INSTRUCTIONS:
                raise ValueError("a pickle that copies too much")
            for pair in args[0]:
                if not (isinstance(pair, list | tuple) and len(pair) == 2):
                    raise TypeError(
                        "a pickle that makes a dictionary of something other than pairs"
                    )
                _set(table, list(pair))
        return table


def _extend(made: object, values: list[object]) -> None:
    if isinstance(made, list):  # others are inert
        made.extend(values)


def _set(made: object, pairs: list[object]) -> None:
    table = made.items if isinstance(made, Inert) else made
    if not isinstance(table, dict):
        raise TypeError("a pickle that sets items of something other than a dictionary")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if isinstance(key, str):
            table[key] = value
