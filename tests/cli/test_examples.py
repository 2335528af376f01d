"""Help begins with an example that the verb accepts; `mobilette` alone says what to do first."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from mobilette.cli.examples import EXAMPLES, FIRST
from mobilette.cli.main import app
from tests.cli.test_cli import Capture, in_this_process
from tests.cli.test_options import VERBS
from tests.cli.test_streams import posix_only, shell

GROUPS = {verb.rpartition(" ")[0] for verb in VERBS}


def test_every_verb_has_an_example_and_every_example_a_verb() -> None:
    assert set(EXAMPLES) == set(VERBS) | GROUPS


@pytest.mark.parametrize("verb", EXAMPLES)
def test_help_begins_with_the_example(verb: str, capsys: Capture) -> None:
    result = in_this_process(capsys, *verb.split(), "--help")
    assert result.returncode == 0
    first, empty, usage, *_ = result.stdout.splitlines()
    assert first == f"Example: mobilette {EXAMPLES[verb]}"
    assert len(first) <= 80
    assert empty == ""
    assert usage.startswith(f"Usage: mobilette {verb}".rstrip())


def test_options_of_a_kind_stand_together(capsys: Capture) -> None:
    """Every option is there once, those of a panel under its name."""
    text = in_this_process(capsys, "serve", "--help").stdout
    _, _, rest = text.partition("Options:\n")
    options, _, rest = rest.partition("\nWork:\n")
    work, _, limits = rest.partition("\nLimits:\n")
    for name, part in (("--port", options), ("--max-batch", work), ("--max-files", limits)):
        assert f"  {name} <int>" in part
        assert text.count(f"  {name} <") == 1


def parse(line: str) -> None:
    """Let a verb parse its arguments, without running it."""
    command: Any = typer.main.get_command(app)
    program, *words = shlex.split(line)
    assert program == "mobilette"
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("verb", words)


@pytest.mark.parametrize("line", [f"mobilette {each}" for each in EXAMPLES.values()])
def test_an_example_is_accepted(line: str) -> None:
    parse(line)


def test_mobilette_alone_says_what_to_do_first(capsys: Capture) -> None:
    result = in_this_process(capsys)
    assert (result.returncode, result.stdout, result.stderr) == (0, FIRST + "\n", "")
    lines = FIRST.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    for line in lines[:3]:
        parse(line.partition("   ")[0])


@posix_only
@pytest.mark.parametrize(
    ("words", "number", "found"),
    [
        ("mobilette ex", 1, "export"),
        ("mobilette export --bun", 2, "--bundle"),
        ("mobilette weights l", 2, "list"),
    ],
)
def test_a_shell_completes(words: str, number: int, found: str) -> None:
    asked = f"_MOBILETTE_COMPLETE=complete_bash COMP_WORDS='{words}' COMP_CWORD={number}"
    assert found in shell(f"{asked} mobilette").stdout.split()


@posix_only
def test_the_line_that_installs_completion(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "`mobilette --install-completion`" in readme
    environment = f"HOME={shlex.quote(str(tmp_path))} SHELL=/bin/bash"
    done = shell(f"{environment} mobilette --install-completion bash")
    assert done.returncode == 0, done.stderr
    (script,) = tmp_path.glob(".bash_completions/*")
    assert "_MOBILETTE_COMPLETE=complete_bash" in script.read_text()


def test_every_verb_has_json() -> None:
    for verb, function in VERBS.items():
        assert "as_json" in function.__annotations__, verb
