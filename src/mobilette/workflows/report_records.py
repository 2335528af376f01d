"""What a report takes from files: a run's records, an audit, artifacts and their benchmarks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilette.arch.catalogue import list_models
from mobilette.arch.scale import resolution_text
from mobilette.artifact.directory import Artifact, find_artifacts, is_artifact, open_artifact
from mobilette.data.division import WHOLE, Division
from mobilette.data.findings import KINDS
from mobilette.errors import InputError
from mobilette.files import read_json, read_record
from mobilette.model.directory import DATASET, ENVIRONMENT, imported_from
from mobilette.model.model import Model
from mobilette.places import named, named_in
from mobilette.records import parse
from mobilette.run.directory import RECIPE, Run
from mobilette.training.recipe import named_recipe
from mobilette.verification.benchmark import BENCH, Benchmark, Row
from mobilette.workflows.fit_record import PROOF
from mobilette.workflows.report_values import ArtifactRecord, AuditRecord, DataRecord, Origin

AUDIT = "audit.json"
_SUREST = 3  # findings of a kind, of an audit
_FACTS = ("device", "device_name", "precision", "threads", "processes", "python", "system")


def read_data(run: Run) -> DataRecord | None:
    """Return what dataset.json says; ``None`` if there is none, as of an imported run.

    Raises:
        InputError: it is damaged.
    """
    path = run.path / DATASET
    found: Any = read_json(path) if path.is_file() else None
    if found is None:
        return None
    try:
        counts = {
            str(split): {str(name): int(count) for name, count in one["per_class"].items()}
            for split, one in found["splits"].items()
        }
        images = {str(split): int(one["pictures"]) for split, one in found["splits"].items()}
        duplicates = found.get("duplicates")
        return DataRecord(
            source=named(str(found["source"])),
            fingerprint=str(found["fingerprint"]),
            counts=counts,
            images=images,
            rule=named_in(str(found.get("split_rule", ""))),
            left_out=tuple(
                (named_in(str(one["path"])), named_in(str(one["reason"])))
                for one in found["unusable"]
            ),
            ignored=int(found.get("ignored", 0)),
            duplicates=None if duplicates is None else int(duplicates),
            remarks=tuple(named_in(str(line)) for line in found.get("remarks", ())),
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r:.80})") from error


def find_audit(folder: Path | None, data: str) -> AuditRecord | None:
    """Return the audit in ``folder`` or, without one, of ``data`` where `audit` puts it by default.

    Raises:
        InputError: ``folder`` has none, or it is damaged.
    """
    place = folder or Path("audits") / Path(data).name
    path = place / AUDIT
    if folder is None and not path.is_file():
        return None
    found: Any = read_json(path)
    by_kind: dict[str, list[str]] = {}
    try:
        for finding in sorted(found["findings"], key=lambda each: -float(each["sure"])):
            by_kind.setdefault(str(finding["what"]), []).append(_in_words(finding))
        source = str(found["source"])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the result of 'mobilette audit'") from error
    kinds = [kind for kind in KINDS if kind in by_kind]
    return AuditRecord(
        folder=named(str(place)),
        source=named(source),
        counts={kind: len(by_kind[kind]) for kind in kinds},
        surest={kind: tuple(by_kind[kind][:_SUREST]) for kind in kinds},
    )


def _in_words(finding: Mapping[str, Any]) -> str:
    """Return an audit's finding as a line: the image, its class, and what is wrong with it."""
    what = finding["detail"]
    if finding["suggestion"]:
        what = f"rather {finding['suggestion']}?"
    elif finding["other"]:
        what = f"as {named(str(finding['other']))}"
    label = f" ({finding['class']})" if finding["class"] else ""
    return f"{named(str(finding['path']))}{label}{f', {what}' if what else ''}"


def origin_of(run: Run | None, model: Model | None, artifact: Artifact | None) -> Origin:
    """Return how the model of a run, or else of an artifact, came to be."""
    if run is None:
        assert artifact is not None
        contract = artifact.contract
        return Origin(
            command="",
            recipe="",
            start="not known: the run that it was exported from is not here",
            facts={},
            versions={str(name): str(text) for name, text in contract.versions.items()},
            weights_sha256=contract.source.weights_sha256,
        )
    path = run.path / ENVIRONMENT
    found = read_json(path) if path.is_file() else {}
    environment: Mapping[str, Any] = found if isinstance(found, dict) else {}
    versions = environment.get("versions")
    imported = imported_from(run.path)
    start = named(str(environment.get("start", "")))
    start = start if imported is None else f"imported from {named(imported)}"
    recipe = run.path / RECIPE
    return Origin(
        command="" if model is None or imported is not None else _command(run, model, start),
        recipe=named_recipe(recipe) if recipe.is_file() else "",
        start=start,
        facts={name: str(environment[name]) for name in _FACTS if name in environment},
        versions={str(name): str(one) for name, one in versions.items()}
        if isinstance(versions, dict)
        else {},
        weights_sha256=(model.origin.sha256 or "") if model is not None else "",
    )


def _command(run: Run, model: Model, start: str) -> str:
    """Return the command that trains a run again; empty where no options describe its network."""
    origin, arch = model.origin, run.arch
    if origin.width_mult is None or origin.name not in list_models():
        return ""
    found: Any = read_json(run.path / DATASET)
    source = str(found.get("source", "DATA")) if isinstance(found, dict) else "DATA"
    words = ["mobilette", "train", named(source), "--model", origin.name]
    words += ["--width-mult", f"{origin.width_mult:g}"]
    words += ["--resolution", resolution_text(arch.resolution)]
    words += [] if origin.form is None else ["--form", origin.form]
    words += [] if arch.in_channels == 3 else ["--in-channels", str(arch.in_channels)]
    words += ["--from", start] if start else []
    division = _division(found, where=run.path / DATASET)
    words += [] if division.holdout is None else ["--holdout", f"{100 * division.holdout:g}%"]
    words += [] if division.groups is None else ["--groups", named(division.groups)]
    return shlex.join([*words, "--recipe", RECIPE])


def _division(found: Any, *, where: Path) -> Division:
    recorded = found.get("division") if isinstance(found, dict) else None
    return WHOLE if recorded is None else parse(Division, recorded, where=f"{where}: division")


def artifact_records(
    given: Iterable[Path], found: Iterable[Path], *, weights_sha256: str, notes: list[str]
) -> tuple[ArtifactRecord, ...]:
    """Return the artifacts in folders that were ``given``, and in those where they usually are.

    Of the latter only those made from the weights with this hash are returned; what is damaged
    there is noted.

    Raises:
        InputError: one that was given is damaged, or has no artifact.
    """
    records: dict[Path, ArtifactRecord] = {}
    for folder in given:
        inside = (folder,) if is_artifact(folder) else find_artifacts(folder)
        if not inside:
            raise InputError(f"{folder}: neither an artifact nor a folder of artifacts")
        for path in inside:
            records.setdefault(path.resolve(), _record(open_artifact(path), weights_sha256))
    for folder in found:
        for path in (folder,) if is_artifact(folder) else find_artifacts(folder):
            if path.resolve() in records:
                continue
            try:
                record = _record(open_artifact(path), weights_sha256)
            except InputError as error:
                notes.append(f"left out: {error}")
                continue
            if record.own:
                records[path.resolve()] = record
    return tuple(records[path] for path in sorted(records))


def _record(artifact: Artifact, weights_sha256: str) -> ArtifactRecord:
    contract = artifact.contract
    measured = contract.measured
    record = ArtifactRecord(
        path=str(artifact.path),
        target=contract.target,
        precision=contract.precision,
        sha256=contract.sha256,
        size_bytes=0 if measured is None else measured.size_bytes,
        own=contract.source.weights_sha256 == weights_sha256,
    )
    if row := _benchmark_row(artifact.path, contract.sha256):
        latency = row.latency_ms
        return replace(
            record,
            verified=row.verified,
            by=BENCH,
            reasons=row.reasons,
            top1=row.top1,
            images=row.images,
            latency_ms=None if latency is None else latency.median,
            spread_ms=None if latency is None else (latency.p10, latency.p90),
        )
    if (proof := artifact.path.parent / PROOF).is_file():
        return _with_proof(record, proof)
    if measured is not None and measured.chosen is not None:
        rung = measured.rungs[measured.chosen]
        return replace(record, by="quantize", top1=rung.top1, latency_ms=rung.latency_ms)
    return record


def _benchmark_row(path: Path, sha256: str) -> Row | None:
    """Return the artifact's row in the bench.json beside or in it, if that is about this file."""
    for place in (path.parent / BENCH, path / BENCH):
        if place.is_file():
            rows = read_record(place, Benchmark).rows
            return next((row for row in rows if row.sha256 == sha256), None)
    return None


def _with_proof(record: ArtifactRecord, path: Path) -> ArtifactRecord:
    """Return ``record`` with what a fit measured of it."""
    found: Any = read_json(path)
    try:
        latencies = [t["measured"] for t in found["terms"] if t["quantity"] == "latency"]
        return replace(
            record,
            verified=bool(found["verified"]),
            by="fit",
            reasons=tuple(map(str, found["failures"])),
            top1=float(found["top1"]),
            images=int(found["images"]),
            latency_ms=float(latencies[0]) if latencies else None,
        )
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r:.80})") from error


def usual_places(run: Run | None, artifact: Artifact | None) -> Iterator[Path]:
    """Yield the folders where a run's artifacts usually are."""
    if artifact is not None:
        yield artifact.path
        yield artifact.path.parent
    if run is not None:
        path = run.path.resolve()
        yield Path("exports") / path.name
        yield path.parent.parent / "exports" / path.name
