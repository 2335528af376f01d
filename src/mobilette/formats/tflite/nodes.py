"""Nodes while they are collected: unique names, activations that hide, what nobody reads.

TensorFlow Lite spells some activations as several operators. They are put together here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.graph import ActivationNode, ConvNode, JoinNode, Node

# What a tensor holds, beside the output of a node x as it is.
_FORMS = {
    "plain": "x",
    "plus_3": "x + 3",
    "clipped": "relu6(x + 3)",
    "product": "x times relu6(x + 3)",
    "sixth": "x / 6",
    "softmax": "softmax(x)",
    "sigmoid": "sigmoid(x)",
}
Form = Literal["plain", "plus_3", "clipped", "product", "sixth", "softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """What a tensor holds: the output x of ``node``, or a step from it to an activation."""

    node: str
    form: Form = "plain"

    def plain(self) -> str:
        """Return the node.

        Raises:
            InputError: the tensor holds something that no node stands for.
        """
        if self.form != "plain":
            raise InputError(
                f"it reads {_FORMS[self.form]}; that is read at the network's end (softmax or "
                "sigmoid) or as a part of hard-sigmoid or hard-swish"
            )
        return self.node


class Nodes:
    """The nodes so far, in the order of execution.

    Attributes:
        tensors: by name of a node, the names of the file's tensors that its weights are from.
    """

    def __init__(self, *, taken: Iterable[str]) -> None:
        """Start without nodes; ``taken`` are names that they must not have."""
        self._taken = Counter(taken)
        self._nodes: dict[str, Node] = {}
        self.tensors: dict[str, tuple[str, ...]] = {}

    def unique(self, name: str) -> str:
        """Return ``name``, or one like it if it is taken, and take it."""
        chosen = name
        while chosen in self._taken:
            self._taken[name] += 1
            chosen = f"{name} ({self._taken[name]})"
        self._taken[chosen] += 1
        return chosen

    def add(self, node: Node, *, tensors: tuple[str, ...] = ()) -> Value:
        """Append ``node``, whose name is `unique`, with weights of ``tensors``."""
        self._nodes[node.name] = node
        if tensors:
            self.tensors[node.name] = tensors
        return Value(node=node.name)

    def activated(self, value: Value, function: Activation) -> Value:
        """Apply ``function`` to a plain ``value``; ReLU and ReLU6 once only."""
        if function == "none":
            return value
        source = value.plain()
        last = self._nodes.get(source)
        again = isinstance(last, ActivationNode) and last.function == function
        if again and function in ("relu", "relu6"):
            return value
        name = self.unique(f"{source}/{function}")
        return self.add(ActivationNode(name=name, inputs=(source,), function=function))

    def plus(self, value: Value, number: float) -> Value:
        """Add a constant ``number``: the 3 of hard-sigmoid.

        Raises:
            InputError: it is another number.
        """
        if not np.isclose(number, 3, rtol=1e-3):
            raise InputError(f"adding {number:.6g} is read after the input only, or 3 before ReLU6")
        return Value(node=value.plain(), form="plus_3")

    def clipped(self, value: Value) -> Value:
        """Apply ReLU6 to x or to x + 3."""
        if value.form == "plus_3":
            return replace(value, form="clipped")
        return self.activated(value, "relu6")

    def sixth(self, value: Value, number: float) -> Value:
        """Multiply by a constant ``number``: the 1/6 of hard-sigmoid and hard-swish.

        Raises:
            InputError: it is another number.
        """
        if not np.isclose(number, 1 / 6, rtol=1e-3):
            raise InputError(f"multiplying by {number:.6g} is read after the input only, or by 1/6")
        if value.form == "clipped":
            return self.activated(Value(node=value.node), "hard_sigmoid")
        if value.form == "product":
            return self.activated(Value(node=value.node), "hard_swish")
        shifted = self._shifted(value)
        if shifted is not None:
            return self.activated(shifted, "hard_sigmoid")
        return Value(node=value.plain(), form="sixth")

    def product(self, name: str, first: Value, second: Value, *, factors: bool) -> Value:
        """Multiply two values: the end of hard-swish, or one by a factor for each channel.

        Raises:
            InputError: it is neither; ``factors`` says whether one of them can be factors.
        """
        for x, factor in ((first, second), (second, first)):
            if x.node == factor.node and factor.form == "clipped":
                if x.form == "plain":
                    return Value(node=x.node, form="product")
                if x.form == "sixth":
                    return self.activated(Value(node=x.node), "hard_swish")
            gate = self._nodes.get(factor.node)
            gated = isinstance(gate, ActivationNode) and gate.function == "hard_sigmoid"
            if gated and gate is not None and gate.inputs == (x.node,) and x.form == "plain":
                return self.activated(x, "hard_swish")
        inputs = (first.plain(), second.plain())
        if not factors:
            raise InputError("a product of two maps is read as a part of hard-swish only")
        return self.add(JoinNode(name=self.unique(name), inputs=inputs, function="scale"))

    def leading_to(self, output: str) -> tuple[Node, ...]:
        """Return the nodes that ``output`` needs; steps that became something else are not."""
        needed = {output}
        for node in reversed(self._nodes.values()):
            if node.name in needed:
                needed.update(node.inputs)
        return tuple(node for node in self._nodes.values() if node.name in needed)

    def _shifted(self, value: Value) -> Value | None:
        """Return y where ``value`` is relu6(y + 3) and the 3 is a part of a convolution's bias."""
        last = self._nodes.get(value.node)
        if value.form != "plain" or not isinstance(last, ActivationNode):
            return None
        source = self._nodes.get(last.inputs[0])
        if last.function != "relu6" or not isinstance(source, ConvNode):
            return None
        bias = np.zeros(len(source.weight), np.float32) if source.bias is None else source.bias
        name = self.unique(f"{source.name}/minus 3")
        shifted = replace(source, name=name, bias=bias - np.float32(3))
        return self.add(shifted, tensors=self.tensors[source.name])
