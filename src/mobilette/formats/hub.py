"""Models on Hugging Face's hub: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME@REVISION``.

What `mobilette push` uploads has a ``mobilette.json`` with the SHA-256 of every file of the model.
Only these files are fetched, into the cache, and each is checked; what reads them trusts them no
more than any other file. Environment variables: ``HF_ENDPOINT``, another hub; ``HF_TOKEN``;
``MOBILETTE_CACHE``; and ``MOBILETTE_OFFLINE``, with which only what the cache has is found.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from mobilette.errors import InputError, shown
from mobilette.extras import needs
from mobilette.files import (
    LARGEST_FILE,
    LARGEST_RECORD,
    cache_root,
    read_bytes,
    read_record,
    write_text,
)
from mobilette.folders import new_directory
from mobilette.progress import SILENT, Reporter
from mobilette.records import Ranged

INDEX, MODEL = "mobilette.json", "model"
ENDPOINT = "HF_ENDPOINT"
# As `Path` shortens it, too.
_BEGINNING = re.compile(r"hf:/{1,2}")
_ADDRESS = re.compile(
    r"hf:/{1,2}([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,200}))?"
)
_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
# The files that artifacts and runs have: no pickles, and no code but a web page's.
_KINDS = re.compile(
    r"\.(bin|cc|css|csv|h|html|js|json|keras|md|mjs|mlmodel|npz|onnx|param|pte|safetensors|tflite|"
    r"toml|txt|wasm|xml)"
)
_SCRIPT = "verify_on_mac.py"  # of Core ML's artifacts
_STEP = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,200}[\w-])?", re.ASCII)
# A folder that a program looks for code in, and names that are devices on Windows.
_NEVER = re.compile(r"node_modules|(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")


class HubAddress(NamedTuple):
    """A model on the hub; ``revision`` is a branch, a tag or a commit."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision != "main" else "")


@dataclass(frozen=True, kw_only=True)
class HubIndex(Ranged):
    """The content of mobilette.json: what the folder ``model`` beside it holds.

    Attributes:
        kind: ``run`` or ``artifact``.
        files: name to SHA-256, in hex, of every file.
    """

    kind: Literal["run", "artifact"]
    files: Mapping[str, str]
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, digest in self.files.items():
            steps = name.split("/")
            if any(step in ("", ".", "..") for step in steps):
                raise InputError(f"file name {shown(name)} would lie outside the model")
            if not all(map(_STEP.fullmatch, steps)):
                raise InputError(f"file name {shown(name)} is not plain: letters, digits, '_-./'")
            known = _KINDS.fullmatch(PurePosixPath(name).suffix) or name == _SCRIPT
            if not known or any(_NEVER.fullmatch(step.casefold()) for step in steps):
                raise InputError(f"file {shown(name)} is of a kind that is never fetched")
            if not _SHA256.fullmatch(digest):
                raise InputError(f"the hash of {shown(name)} is no SHA-256")


def is_hub_address(text: str) -> bool:
    """Whether ``text`` begins with ``hf://``, perhaps as ``Path`` shortens it."""
    return _BEGINNING.match(text) is not None


def parse_address(text: str) -> HubAddress:
    """Return the address in ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.

    Raises:
        InputError: it is neither.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or ".." in text:
        raise InputError(
            f"{shown(text)}: no address of the hub; write hf://OWNER/NAME or "
            "hf://OWNER/NAME@REVISION"
        )
    return HubAddress(repo=f"{match[1]}/{match[2]}", revision=match[3] or "main")


def endpoint() -> str | None:
    """Return the hub that ``HF_ENDPOINT`` names, if it does."""
    return os.environ.get(ENDPOINT) or None


def fetch_model(text: str, *, reporter: Reporter = SILENT) -> Path:
    """Return the folder of the model at an address, fetched unless the cache has this commit.

    Raises:
        InputError: the address or the record is wrong, the extra ``hub`` is not installed, the
            model cannot be fetched, or a file is not what its hash says.
    """
    address = parse_address(text)
    above = cache_root() / "hub" / address.repo.replace("/", "--")
    named = above / "refs" / quote(address.revision, safe="")  # the commit that it was last
    if _COMMIT.fullmatch(address.revision) and (above / address.revision / INDEX).is_file():
        return above / address.revision / MODEL
    if offline():
        commit = _read_ref(named)
        if (above / commit / INDEX).is_file():
            return above / commit / MODEL
        known = [each.parent.name for each in above.glob(f"*/{INDEX}")]
        hint = f"; hf://{address.repo}@{known[0]} is in the cache" if known else ""
        raise InputError(f"{address}: MOBILETTE_OFFLINE is set{hint}")
    with needs("hub", f"{address}"), explained(address):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint())
        commit = str(api.model_info(address.repo, revision=address.revision).sha)
        if not _COMMIT.fullmatch(commit):
            raise InputError(f"{address}: the hub names no commit")
        place = above / commit
        if not (place / INDEX).is_file():
            with new_directory(place, holds=INDEX) as unfinished:
                _fetch(api, address, commit, unfinished, reporter)
    if _read_ref(named) != commit:
        with suppress(OSError, InputError):  # a cache that may only be read
            named.parent.mkdir(exist_ok=True)
            write_text(named, commit)
    return place / MODEL


def offline() -> bool:
    """Whether ``MOBILETTE_OFFLINE`` forbids to ask a hub."""
    return os.environ.get("MOBILETTE_OFFLINE", "0") not in ("", "0")


def _read_ref(path: Path) -> str:
    """Return the commit in the file ``path``; 40 zeros if there is none."""
    try:
        text = read_bytes(path, limit=40).decode()
    except (InputError, ValueError):
        text = ""
    return text if _COMMIT.fullmatch(text) else "0" * 40


def _fetch(api: Any, address: HubAddress, commit: str, folder: Path, reporter: Reporter) -> None:
    def download(name: str) -> Path:
        return Path(api.hf_hub_download(address.repo, name, revision=commit, local_dir=str(folder)))

    sizes = {
        each.path: int(each.size)
        for each in api.list_repo_tree(address.repo, recursive=True, revision=commit)
        if hasattr(each, "size")
    }
    if INDEX not in sizes:
        raise InputError(
            f"{address}: has no {INDEX}, so it is no model that 'mobilette push' has put there"
        )
    if sizes[INDEX] > LARGEST_RECORD:
        raise InputError(
            f"{address}: {INDEX} has {sizes[INDEX]:,} bytes, more than the {LARGEST_RECORD:,} "
            "allowed"
        )
    index = read_record(download(INDEX), HubIndex)
    names = {f"{MODEL}/{name}": digest for name, digest in index.files.items()}
    if missing := [name for name in names if name not in sizes]:
        raise InputError(f"{address}: {missing[0]}, which {INDEX} names, is not there")
    total = sum(sizes[name] for name in names)
    if total > LARGEST_FILE:
        raise InputError(f"{address}: {total:,} bytes, more than the {LARGEST_FILE:,} allowed")
    done = 0
    for name, digest in names.items():
        path = download(name)
        if hashlib.sha256(read_bytes(path)).hexdigest() != digest:
            raise InputError(f"{address}: {name} is not the file that {INDEX} names (its hash)")
        done += sizes[name]
        reporter.download(done, total)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's notes


@contextmanager
def explained(address: HubAddress) -> Iterator[None]:
    """Turn what the library raises into one line; its progress bars are not shown."""
    from huggingface_hub import errors
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown_before = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{address}: there is no such model, or HF_TOKEN does not open it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{address}: the model has no such revision") from error
    except errors.HfHubHTTPError as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", "an error")
        hint = "; set HF_TOKEN to a token that may write" if status in (401, 403) else ""
        raise InputError(f"{address}: the hub answers {status}{hint}") from error
    except Exception as error:
        # Of httpx or httpx2, whichever the library's version is built on.
        of_network = type(error).__module__.startswith("httpx")
        if not (of_network or isinstance(error, OSError | errors.HFValidationError)):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{address}: {reason:.200}") from error
    finally:
        if shown_before:
            enable_progress_bars()
