"""Every option of every verb: a sentence of help, and bad values that end in one line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer

from mobilette.artifact.directory import Artifact
from mobilette.cli.main import app
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.training.recipe import parse_duration
from tests.cli.test_cli import Capture, assert_refused, in_this_process, mobilette
from tests.cli.test_escapes import is_plain
from tests.conftest import write_images

# Twelve: too small, too large, no numbers, and what only Python takes for one.
BAD = (
    *("-1", "0", "-0.0", "9223372036854775807", f"1{'0' * 30}", "9" * 5000, "nan", "inf"),
    *("", "1_0", "\u0661\u0662", "\x1b[2J\udcff[red]"),
)


def verbs(group: typer.Typer = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every verb and its function, of groups too."""
    for command in group.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        yield " ".join((*path, name)), command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from verbs(inner.typer_instance, (*path, str(inner.name)))


VERBS = dict(verbs())


def parameters(verb: str) -> Iterator[tuple[type, Any]]:
    """Yield type and description of every option and argument of a verb."""
    for hint in get_type_hints(VERBS[verb], include_extras=True).values():
        if get_origin(hint) is Annotated:
            kind, described = get_args(hint)
            kinds = [each for each in get_args(kind) if each is not NoneType] or [kind]
            yield kinds[0], described


def name_of(described: Any) -> str:
    """Return how an option is written; typer takes its first name for a default at first."""
    names = (described.default, *(described.param_decls or ()))
    return next(name for name in names if isinstance(name, str) and name.startswith("--"))


def numbers(verb: str) -> Iterator[tuple[type, Any]]:
    return (found for found in parameters(verb) if found[0] in (int, float))


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_whole_sentences(verb: str) -> None:
    summary = inspect.cleandoc(VERBS[verb].__doc__).partition("\n\n")[0]
    names = [name.split()[-1] for name in VERBS if len(name.split()) == len(verb.split())]
    assert 2 + max(map(len, names)) + 2 + len(summary) <= 80  # else it would be cut
    for text in (summary, *(described.help for _, described in parameters(verb))):
        assert text[0].isupper(), text
        assert text.endswith("."), text
        assert not re.search(r"\.\.\.|…", text), text


@pytest.mark.parametrize("arguments", [["--help"], ["weights", "--help"]])
def test_no_summary_is_cut(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = mobilette(*arguments)
    commands = result.stdout.partition("Commands:")[2]
    assert commands.count("\n") > 2
    assert "..." not in commands


def test_every_number_has_a_range() -> None:
    """A new option without one is found here: its callback refuses what no range holds."""
    found = [(verb, described) for verb in VERBS for _, described in numbers(verb)]
    for _, described in found:
        for value in (10**30, -(10**30), float("nan")):
            with pytest.raises(InputError, match=r"^--.* is not .*between"):
                described.callback(value)
    assert len(found) > 40


@pytest.fixture(scope="module")
def subjects(
    tmp_path_factory: pytest.TempPathFactory, trained: Run, exported: Artifact
) -> dict[str, list[str]]:
    """Return, for each verb, arguments with which it would run, on next to nothing."""
    few = str(write_images(tmp_path_factory.mktemp("few") / "set", 2, size=16))
    image = str(next(Path(few).glob("*/*.png")))
    run, artifact = str(trained.path), str(exported.path)
    return {
        "models": [],
        "cost": ["mobilenet_v1"],
        "audit": [few, f"--run={run}"],
        "train": [few, "--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16"],
        "evaluate": [run, few],
        "predict": [run, image],
        "explain": [run, image],
        "embed": [run, image, "--out=features.npz"],
        "export": [run],
        "quantize": [run, few],
        "verify": [artifact],
        "bench": [artifact],
        "prune": [run, few, "--keep=0.5"],
        "fit": [few, "--budget=size<=1MB", "--time=1m"],
        "report": [run, few, "--out=report.html"],
        "serve": [artifact],
        "push": [run, "hf://somebody/colours"],
        "doctor": [],
        "weights list": [],
        "weights import": [image, "--as=mobilenet_v1"],
    }


BAD_TEXTS = ("", "abc", "\x1b[2J\udcff", "a\x00b", "9" * 5000, "cuda:" + "9" * 30)
# Options with text whose every value is refused before any work, with subjects like these.
TEXTS = {
    "train": [
        "--model",
        "--resolution",
        "--form",
        "--preprocess",
        "--resize",
        "--recipe",
        "--time",
        "--set",
        "--from",
        "--teacher",
        "--without",
        "--resume",
        "--device",
        "--holdout",
        "--groups",
    ],
    "audit": ["--run", "--resolution", "--device"],
    "cost": ["--form", "--sort", "--resolution"],
    "models": ["--budget", "--resolution", "--precision"],
    "evaluate": ["--split", "--device", "--out"],
    "predict": ["--device", "--out"],
    "explain": ["--device", "--out", "--label", "--method"],
    "embed": ["--out", "--device"],
    "export": ["--to", "--precision", "--names", "--data"],
    "quantize": ["--to", "--split", "--calibrate"],
    "verify": ["--from"],
    "bench": ["--to", "--data", "--table"],
    "prune": ["--importance", "--recipe", "--time", "--device"],
    "push": ["--card", "--license"],
    "report": ["--out", "--license", "--artifacts", "--audit", "--split", "--device"],
    "fit": ["--budget", "--scene", "--time", "--to", "--precision", "--models", "--resume"],
    "serve": ["--batch-window"],
    "weights import": ["--resolution", "--form", "--preprocess", "--resize"],
}


def _fits(kind: type, described: Any, value: str) -> bool:
    try:
        described.callback(kind(float(value)))  # -0.0 is a whole number for typer
    except (ValueError, OverflowError):  # InputError is a ValueError
        return False
    return True


def bad_values(verb: str) -> Iterator[tuple[str, str]]:
    """Yield every option of a verb with each value that it refuses."""
    for kind, described in numbers(verb):
        for value in BAD:
            if not _fits(kind, described, value):  # else work would begin
                yield name_of(described), value
    yield from product(TEXTS.get(verb, ()), BAD_TEXTS)


@pytest.mark.parametrize("verb", VERBS)
def test_bad_values_end_in_one_line(
    verb: str,
    subjects: dict[str, list[str]],
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for option, value in bad_values(verb):
        result = in_this_process(capsys, *verb.split(), *subjects[verb], option, value)
        assert_refused(result)
        assert is_plain(result.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "option"),
    [(["--time", ""], "--time"), (["--model="], "--model"), ([" "], "an argument")],
)
def test_nothing_where_a_value_belongs(
    arguments: list[str], option: str, subjects: dict[str, list[str]], capsys: Capture
) -> None:
    """As of a shell's variable that is not set: it would mean the default, or this folder."""
    result = in_this_process(capsys, "train", *subjects["train"][:1], *arguments)
    assert_refused(result, f"{option} is empty")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("3 s", 3), (" 2m ", 120)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "'3' has no unit; write 3s, 3m or 3h"),
        ("2.5", "write 2.5s, 2.5m or 2.5h"),
        ("0s", "is not a duration; write 90s, 10m or 2h"),
        ("\u0663s", "is not a duration"),
        ("99999999999999999999h", "'99999999999999999999h' is too long; 27777h is the longest"),
        ("1e5s", "is not a duration"),
        ("9" * 5000 + "s", "is not a duration"),
    ],
)
def test_no_durations(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "address", ["https://host/a.jpg", "s3://bucket/a", "http://h/x", "gs://b/c"]
)
def test_addresses_are_said_not_to_be_read(
    address: str, subjects: dict[str, list[str]], capsys: Capture
) -> None:
    run, few = subjects["evaluate"]
    for arguments in (
        ["predict", run, address],
        ["predict", address, few],
        ["train", address],
        ["evaluate", run, address],
        ["verify", address],
        ["weights", "import", address, "--as=mobilenet_v2", "--out=x"],
    ):
        result = in_this_process(capsys, *arguments)
        assert result.returncode == 2
        line = result.stderr.splitlines()[-1]
        assert address in line
        assert "web addresses are not supported; download it first" in line


def test_an_address_costs_no_answer_of_the_images_beside_it(
    subjects: dict[str, list[str]], capsys: Capture
) -> None:
    run, image = subjects["predict"]
    result = in_this_process(capsys, "predict", run, image, "https://host/a.jpg")
    assert result.returncode == 0
    assert image in result.stdout
    assert "https://host/a.jpg: web addresses are not supported" in result.stderr
