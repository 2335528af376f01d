"""An example of every verb, which its help begins with, and what to do first."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import typer

# What `mobilette` alone prints.
FIRST = """\
mobilette fit IMAGES --budget "size<=1MB" --time 9m   IMAGES: a folder per class
mobilette train IMAGES --time 5m --out runs/mine      a network of your choice
mobilette export runs/mine --to web                   a page to try it
mobilette --help                                      all verbs, each with help"""

# By verb; "" is the example of `mobilette --help`.
EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "": "train path/to/images --time 5m --out runs/mine",
        "models": 'models --budget "size<=1MB, madds<=60M" --num-classes 10',
        "cost": "cost mobilenet_v2 --width-mult 0.5 --resolution 160",
        "audit": "audit path/to/images",
        "train": "train path/to/images --model mobilenet_v2 --time 5m",
        "evaluate": "evaluate runs/mine path/to/images",
        "predict": "predict exports/mine/onnx some/image.jpg another/folder",
        "embed": "embed runs/mine path/to/images --out features.npz",
        "export": "export runs/mine --to onnx,web",
        "quantize": "quantize runs/mine path/to/images --to onnx",
        "verify": "verify exports/mine/onnx path/to/images",
        "bench": "bench runs/mine --to all --data path/to/images",
        "prune": "prune runs/mine path/to/images --keep 0.5",
        "fit": 'fit path/to/images --budget "size<=500KB" --time 20m',
        "doctor": "doctor",
        "explain": "explain runs/mine some/image.jpg",
        "report": "report runs/mine",
        "push": "push runs/mine hf://owner/name",
        "serve": "serve exports/mine/onnx",
        "weights": "weights list",
        "weights list": "weights list",
        "weights import": "weights import file.pth --as mobilenet_v2 --out runs/imported",
    }
)


class ExampleCommand(typer.core.TyperCommand):
    """A verb whose help begins with its example, and has its options by their panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the example, then the help."""
        _write_example(ctx, formatter)
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options; those of a panel under its name, after the others."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for each in self.get_params(ctx):
            if (record := each.get_help_record(ctx)) is not None:
                kind = "Arguments" if each.param_type_name == "argument" else "Options"
                name = getattr(each, "rich_help_panel", None) or kind
                sections.setdefault(name, []).append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


class ExampleGroup(typer.core.TyperGroup):
    """A group of verbs whose help begins with an example."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the example, then the help."""
        _write_example(ctx, formatter)
        super().format_help(ctx, formatter)


def _write_example(ctx: Any, formatter: Any) -> None:
    program, _, verb = ctx.command_path.partition(" ")
    if verb in EXAMPLES:
        formatter.write(f"Example: {program} {EXAMPLES[verb]}\n\n")
