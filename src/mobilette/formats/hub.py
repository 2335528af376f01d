"""Models on Hugging Face's hub: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME@REVISION``.

What `mobilette push` uploads has a ``mobilette.json`` with the SHA-256 of every file of the model.
Only these files are fetched, into the cache, and each is checked; what reads them trusts them no
more than any other file. Environment variables: ``HF_ENDPOINT``, another hub; ``HF_TOKEN``;
``MOBILETTE_CACHE``; and ``MOBILETTE_OFFLINE``, with which only a commit in the cache is found.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from mobilette.errors import InputError, shown
from mobilette.extras import needs
from mobilette.files import LARGEST_FILE, cache_root, read_bytes, read_record
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
# Files whose usual readers execute what is in them, and folders that a program looks for code in.
_PICKLES = frozenset((".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy"))
_CODE = "node_modules"


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
            outside = any(step in ("", ".", "..") for step in steps)
            if outside or any(sign in name for sign in '\\:"\0'):
                raise InputError(f"file name {shown(name)} would lie outside the model")
            if PurePosixPath(name).suffix.lower() in _PICKLES or _CODE in steps:
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
    if _COMMIT.fullmatch(address.revision) and (above / address.revision / INDEX).is_file():
        return above / address.revision / MODEL
    if os.environ.get("MOBILETTE_OFFLINE", "0") not in ("", "0"):
        known = sorted(each.name for each in above.iterdir()) if above.is_dir() else []
        hint = f"; hf://{address.repo}@{known[-1]} is in the cache" if known else ""
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
    return place / MODEL


def _fetch(api: Any, address: HubAddress, commit: str, folder: Path, reporter: Reporter) -> None:
    def download(name: str) -> Path:
        return Path(api.hf_hub_download(address.repo, name, revision=commit, local_dir=str(folder)))

    sizes = {
        each.path: each.size
        for each in api.list_repo_tree(address.repo, recursive=True, revision=commit)
        if hasattr(each, "size")
    }
    if INDEX not in sizes:
        raise InputError(
            f"{address}: has no {INDEX}, so it is no model that 'mobilette push' has put there"
        )
    index = read_record(download(INDEX), HubIndex)
    names = {f"{MODEL}/{name}": digest for name, digest in index.files.items()}
    total = sum(sizes.get(name, 0) for name in names)
    if total > LARGEST_FILE:
        raise InputError(f"{address}: {total:,} bytes, more than the {LARGEST_FILE:,} allowed")
    done = 0
    for name, digest in names.items():
        path = download(name)
        if hashlib.sha256(read_bytes(path)).hexdigest() != digest:
            raise InputError(f"{address}: {name} is not the file that {INDEX} names (its hash)")
        done += sizes.get(name, 0)
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
