"""`push`: a run or an artifact to Hugging Face's hub, with its model card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilette.artifact.directory import CONTRACT, Artifact, is_artifact, open_artifact
from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.files import read_bytes, read_json
from mobilette.formats.hub import (
    INDEX,
    MODEL,
    HubIndex,
    endpoint,
    explained,
    offline,
    parse_address,
)
from mobilette.model.directory import (
    ANSWERING,
    ARCH,
    CLASSES,
    DATASET,
    ENVIRONMENT,
    PREPROCESS,
    WEIGHTS,
)
from mobilette.places import named_values
from mobilette.run.directory import METRICS, RECIPE, Run, is_run, open_run
from mobilette.run.tested import TEST
from mobilette.training.recipe import named_recipe

CARD = "README.md"
# Without last.pt, which only goes on with a training, and without what others write into a run.
RUN_FILES = (
    ARCH,
    CLASSES,
    PREPROCESS,
    DATASET,
    ENVIRONMENT,
    ANSWERING,
    RECIPE,
    METRICS,
    TEST,
    WEIGHTS,
)
# A key of environment.json that tells about this machine alone.
_PRIVATE = ("launch",)
_CUT = (DATASET, ENVIRONMENT, RECIPE)  # which may name folders of this machine


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was uploaded: the address that `mobilette.load` takes, and the files' names."""

    address: str
    url: str
    commit: str
    files: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the content as JSON values."""
        return asdict(self)


def content_of(subject: Path) -> tuple[HubIndex, dict[str, bytes | Path]]:
    """Return what is uploaded of a run or an artifact: its index, and its files.

    Folders of this machine are cut to their names.

    Raises:
        InputError: it is neither, or one of its files is damaged.
    """
    if is_artifact(subject):
        artifact: Artifact = open_artifact(subject)
        names = artifact.contract.files or {}
        files: dict[str, bytes | Path] = {name: subject / name for name in names}
        files[CONTRACT] = artifact.contract.published().to_text().encode()
        kind = "artifact"
    elif is_run(subject):
        run: Run = open_run(subject)
        run.model.check_classifier()
        files = {name: subject / name for name in RUN_FILES if (subject / name).is_file()}
        files |= {name: _public(subject / name) for name in _CUT if name in files}
        kind = "run"
    else:
        raise InputError(f"{subject}: neither a run nor an artifact; give the folder of one")
    digests = {name: hashlib.sha256(_bytes(one)).hexdigest() for name, one in files.items()}
    index = HubIndex(kind="run" if kind == "run" else "artifact", files=digests)
    return index, files


def _bytes(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else read_bytes(content)


def _public(path: Path) -> bytes:
    """Return a run's record with the folders of this machine cut to their names."""
    if path.name == RECIPE:
        return named_recipe(path).encode()
    found = read_json(path)
    if isinstance(found, dict):
        found = {key: value for key, value in found.items() if key not in _PRIVATE}
    return (json.dumps(named_values(found, kept=("classes",)), indent=1) + "\n").encode()


def make_model(to: str, *, private: bool = False) -> None:
    """Make the model at the address ``to`` on the hub unless it is there; arguments as for `push`.

    Raises:
        InputError: ``MOBILETTE_OFFLINE`` is set; else as for `push`.
    """
    address = parse_address(to)
    if offline():
        raise InputError(f"{address}: MOBILETTE_OFFLINE is set; push needs the hub")
    with needs("hub", f"push to {address}"), explained(address):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint(), library_name="mobilette")
        api.create_repo(address.repo, private=private, exist_ok=True)


def push(subject: Path, to: str, *, card: str, private: bool = False) -> Pushed:
    """Upload a run or an artifact and its card as one commit; what was there before goes.

    Args:
        subject: the folder.
        to: ``hf://OWNER/NAME``; the model is made on the hub if it is not there.
        card: the text of the card.
        private: for a model that is made.

    Raises:
        InputError: the address or the folder is wrong, the extra ``hub`` is not installed, or the
            hub refuses.
    """
    address = parse_address(to)
    index, files = content_of(subject)
    make_model(to, private=private)
    with explained(address):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi(endpoint=endpoint(), library_name="mobilette")
        there = set(api.list_repo_files(address.repo, revision=address.revision))
        record = (json.dumps(asdict(index), indent=1) + "\n").encode()
        every: dict[str, bytes | Path] = {f"{MODEL}/{name}": one for name, one in files.items()}
        every |= {INDEX: record, CARD: card.encode(errors="backslashreplace")}
        gone = sorted(name for name in there if name.startswith(f"{MODEL}/") and name not in every)
        done = api.create_commit(
            address.repo,
            operations=[
                *(CommitOperationAdd(name, one) for name, one in every.items()),
                *(CommitOperationDelete(name) for name in gone),
            ],
            commit_message=f"{index.kind} by mobilette push",
            revision=address.revision,
        )
    return Pushed(
        address=str(address), url=str(done.commit_url), commit=str(done.oid), files=tuple(every)
    )
