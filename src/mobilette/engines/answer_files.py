"""Answers to many images, written to a file as they come: JSON lines, CSV or Parquet.

Lines of JSON and CSV are appended one by one, so a job that was stopped, or killed, goes on after
its last whole line. Parquet has its index at the end: it appears whole, or not at all.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from mobilette.engines.answers import Failure, Prediction
from mobilette.errors import InputError, one_of, shown, visible
from mobilette.extras import needs
from mobilette.files import check_new_file, guarded, in_words, new_file

Answer = Prediction | Failure
Key = tuple[str, float | None]
"""What tells an answer from others: its path as the file has it, and the second in a video."""

ROWS = 4096  # of Parquet in memory at once
_COLUMNS = ("path", "seconds", "label", "probability", "answered", "reason", "error")
Write = Callable[[Answer, float | None], None]


@dataclass(frozen=True, kw_only=True)
class Known:
    """An answer in a file: its key, and its best guess with the probability."""

    key: Key
    guess: tuple[str, float] | None


def as_cell(text: str) -> str:
    """Return ``text`` so that no spreadsheet executes it, nor a terminal."""
    return guarded(visible(text))


def record_of(answer: Answer, seconds: float | None) -> dict[str, object]:
    """Return an answer as JSON values; ``seconds`` follows the path of a frame of a video."""
    record = answer.to_json()
    if seconds is None:
        return record
    return {"path": record.pop("path"), "seconds": seconds} | record


class AnswerFile(ABC):
    """A file of answers.

    Args:
        path: its name; the suffix decides: ``.jsonl``, ``.csv`` or ``.parquet``.
        top: how many guesses a row of CSV has.
    """

    resumable = True

    def __init__(self, path: Path, *, top: int) -> None:
        self.path, self.top = path, top

    @abstractmethod
    def writing(self, *, resume: bool) -> AbstractContextManager[Write]:
        """Open the file; yield a function that writes an answer and its second in a video."""

    def shown(self, text: str) -> str:
        """Return a path or a label as this file has it."""
        return text

    def known(self) -> Iterator[Known]:
        """Yield the answers in the file; a half line at its end is cut off.

        Raises:
            InputError: it is not a file of answers, or cannot be read.
        """
        return iter(())


class _Lines(AnswerFile):
    """A file that grows by lines; without a heading they begin with ``begin``."""

    begin = b""

    @abstractmethod
    def line(self, answer: Answer, seconds: float | None) -> str:
        """Return the line of an answer."""

    @abstractmethod
    def read(self, line: str) -> Known:
        """Return the answer in a line; `ValueError` or the like if it is none."""

    def heading(self) -> str:
        """Return the first line, if there is one."""
        return ""

    @contextmanager
    def writing(self, *, resume: bool) -> Iterator[Write]:
        begin = not (resume and self.path.exists() and self.path.stat().st_size)
        try:
            # A line at a time reaches the system: what is killed leaves whole lines.
            with self.path.open(
                "w" if begin else "a",
                buffering=1,
                encoding="utf-8",
                errors="surrogateescape",
                newline="\n",
            ) as file:
                if begin:
                    file.write(self.heading())
                yield lambda answer, seconds: _written(file, self.line(answer, seconds))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({in_words(error)})") from error

    def known(self) -> Iterator[Known]:
        whole = number = 0
        heading = self.heading().encode()
        try:
            with self.path.open("r+b") as file:
                for number, line in enumerate(file, start=1):
                    if number == 1 and not line.startswith((heading or self.begin)[: len(line)]):
                        raise ValueError("another file, or other columns")
                    if not line.endswith(b"\n"):
                        file.truncate(whole)
                        return
                    whole += len(line)
                    if number > 1 or not heading:
                        yield self.read(line.decode(errors="surrogateescape"))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({in_words(error)})") from error
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{self.path}: line {number} is not of 'mobilette predict', or was written with "
                "another --top; give another --out, or --force to replace it"
            ) from error


def _written(file: IO[str], line: str) -> None:
    file.write(line)


class _JsonLines(_Lines):
    begin = b'{"path": "'

    def line(self, answer: Answer, seconds: float | None) -> str:
        return json.dumps(record_of(answer, seconds)) + "\n"

    def read(self, line: str) -> Known:
        record = json.loads(line)
        path, seconds = record["path"], record.get("seconds")
        if not isinstance(path, str) or not isinstance(seconds, float | int | None):
            raise ValueError("not an answer")
        best = record["top"][0] if "top" in record else None
        guess = None if best is None else (str(best["label"]), float(best["probability"]))
        return Known(key=(path, seconds), guess=guess)


class _Csv(_Lines):
    def heading(self) -> str:
        guesses = (f"{what}_{n + 1}" for n in range(self.top) for what in ("guess", "probability"))
        return _csv_line([*_COLUMNS, *guesses])

    def shown(self, text: str) -> str:
        return as_cell(text)

    def line(self, answer: Answer, seconds: float | None) -> str:
        first = [as_cell(answer.path), "" if seconds is None else f"{seconds:.3f}"]
        if isinstance(answer, Failure):
            return _csv_line([*first, "", "", "", "", as_cell(answer.error), *[""] * 2 * self.top])
        given = [as_cell(answer.label), f"{answer.probability:.6g}", str(answer.answered).lower()]
        cells = [*first, *given, answer.reason, ""]
        for guess in answer.top[: self.top]:
            cells += [as_cell(guess.label), f"{guess.probability:.6g}"]
        return _csv_line(cells + [""] * (len(_COLUMNS) + 2 * self.top - len(cells)))

    def read(self, line: str) -> Known:
        (cells,) = csv.reader([line], strict=True)
        if len(cells) != len(_COLUMNS) + 2 * self.top:
            raise ValueError("another number of cells")
        best = cells[len(_COLUMNS) :]
        guess = (best[0], float(best[1])) if best[1] else None
        return Known(key=(cells[0], float(cells[1]) if cells[1] else None), guess=guess)


def _csv_line(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


class _Parquet(AnswerFile):
    resumable = False

    @contextmanager
    def writing(self, *, resume: bool) -> Iterator[Write]:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetWriter

        text, number = arrow.string(), arrow.float64()
        guess = arrow.struct([("id", text), ("label", text), ("probability", number)])
        kinds = (text, number, text, number, arrow.bool_(), text, text)
        named = [*zip(_COLUMNS, kinds, strict=True), ("top", arrow.list_(guess))]
        schema, rows = arrow.schema(named), list[dict[str, Any]]()

        def flush() -> None:
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def write(answer: Answer, seconds: float | None) -> None:
            rows.append(_utf8(record_of(answer, seconds)))
            if len(rows) == ROWS:
                flush()

        with new_file(self.path) as temporary, ParquetWriter(temporary, schema) as writer:
            yield write
            flush()


def _utf8(value: Any) -> Any:
    """Return JSON values with texts that are UTF-8, as Parquet's are."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {name: _utf8(each) for name, each in value.items()}
    return [_utf8(each) for each in value] if isinstance(value, list | tuple) else value


_KINDS: Mapping[str, type[AnswerFile]] = MappingProxyType(
    {".jsonl": _JsonLines, ".csv": _Csv, ".parquet": _Parquet}
)


def answer_file(out: Path, *, top: int, force: bool = False, resume: bool = False) -> AnswerFile:
    """Return the file ``out``, which does not exist yet, or may be replaced or continued.

    Raises:
        InputError: another suffix, a missing package, or it exists or cannot be written.
    """
    kind = _KINDS[one_of(out.suffix, _KINDS, f"{out}: the suffix")]
    file = kind(out, top=top)
    if resume and force:
        raise InputError("--resume goes on with a file and --force replaces it; give one of them")
    if resume and not kind.resumable:
        raise InputError(f"{out}: --resume needs a file that grows: .jsonl or .csv")
    if resume and out.exists() and not out.is_file():
        raise InputError(f"{shown(str(out))}: not a file")
    try:
        check_new_file(out, force=force or resume)
    except InputError as error:
        if out.is_file() and kind.resumable:
            raise InputError(
                f"{out}: exists; --resume goes on with it, --force replaces it"
            ) from error
        raise
    if kind is _Parquet:
        with needs("parquet", f"{out}"):
            import pyarrow  # noqa: F401
    return file
