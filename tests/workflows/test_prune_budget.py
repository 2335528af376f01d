"""A run is pruned to a budget, by NetAdapt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mobilette.arch.arch import Arch
from mobilette.cli.main import run as command
from mobilette.counting.budget import parse_budget
from mobilette.counting.cost import cost
from mobilette.counting.fused_layers import fused_layers
from mobilette.counting.latency import write_latency_table
from mobilette.data.reading import Reading
from mobilette.errors import InputError
from mobilette.files import read_record
from mobilette.model.model import Model
from mobilette.run.directory import Run, open_run
from mobilette.search.limits_of_budget import Limits, limits_of
from mobilette.search.netadapt_record import RECORD, Adaptation
from mobilette.search.practice import Judgement, Practice
from mobilette.search.proposals import narrowest
from mobilette.training.events import Sitting
from mobilette.training.recipe import SLICED, load_recipe
from mobilette.workflows.prune import prune, run_prune
from mobilette.workflows.prune_budget import BUDGET, read_budget
from mobilette.workflows.prune_record import read_pruning
from tests.latency import device_table
from tests.training.runs import Ticks

LIMIT = 60.0  # seconds
Capture = pytest.CaptureFixture[str]


def table_of(arch: Arch, path: Path) -> Path:
    """Write a device's table."""
    write_latency_table(device_table(step.layer for step in fused_layers(arch)), path)
    return path


def test_both_terms_are_met(trained: Run, images: Path, tmp_path: Path, capsys: Capture) -> None:
    before = cost(trained.arch)
    budget = f"madds<={int(0.7 * before.madds)},size<={before.size_bytes.fp32 - 4000}"
    out = tmp_path / "narrow"
    arguments = [f"--budget={budget}", "--steps=2", "--short-steps=1", "--epochs=1"]
    arguments += ["--workers=0", f"--out={out}", "--json"]
    assert command(["prune", str(trained.path), str(images), *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    after = cost(open_run(out).arch)
    assert after.madds == answer["madds"] <= 0.7 * before.madds
    assert after.size_bytes.fp32 <= before.size_bytes.fp32 - 4000
    assert answer["met"]
    assert [term["amount"] for term in answer["terms"]] == [after.madds, after.size_bytes.fp32]
    assert not any(term["measured"] for term in answer["terms"])
    record = read_record(out / RECORD, Adaptation)
    assert record.iterations[-1].madds == after.madds
    pruning = read_pruning(out)
    assert pruning.source == str(trained.path.resolve())
    assert pruning.steps[0].cut == read_budget(out).cut
    assert (out / "pruning.png").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["narrow"]  # the work is tidied up


def test_a_devices_table(trained: Run, images: Path, tmp_path: Path) -> None:
    table = table_of(trained.arch, tmp_path / "pi4.json")
    whole = limits_of(f"latency<=9ms@{table}", trained.arch)
    need = whole.need(trained.arch, whole.terms[0])
    budget = f"latency<={0.9 * need:.6f}ms@{table}"
    options: dict[str, Any] = {"steps": 1, "short_steps": 0, "epochs": 1, "workers": 0}
    run = prune(trained, images, budget=budget, out=tmp_path / "run", **options)
    (term,) = read_budget(run.path).terms
    assert term.met
    assert not term.measured
    assert term.before == pytest.approx(need)
    assert term.amount <= 0.9 * need


def test_predictions_are_corrected_by_what_is_measured(trained: Run, tmp_path: Path) -> None:
    table = table_of(trained.arch, tmp_path / "pi4.json")
    limits = limits_of(f"latency<=9ms@{table}", trained.arch)
    (term,) = limits.terms
    need = limits.need(trained.arch, term)
    twice = limits.corrected(trained.arch, {term: 2 * need})
    assert twice.need(trained.arch, term) == pytest.approx(2 * need)
    thrice = twice.corrected(trained.arch, {term: 3 * need})
    assert thrice.need(trained.arch, term) == pytest.approx(3 * need)
    narrow = narrowest(trained.arch)
    assert thrice.excess(narrow) == pytest.approx(3 * limits.excess(narrow))


def test_a_miss_is_status_1_and_kept(
    trained: Run, images: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the engine takes longer than predicted, channels are cut once more."""
    table = table_of(trained.arch, tmp_path / "table.json")
    whole = limits_of(f"latency<=9ms@{table}", trained.arch)
    (of_table,) = whole.terms
    uncut = whole.need(trained.arch, of_table)
    limit = (whole.need(narrowest(trained.arch), of_table) + uncut) / 2
    budget = f"latency<={limit:.4f}ms@onnx"
    (term,) = parse_budget(budget)
    assert term.device is not None
    assert of_table.device is not None
    here = Limits(terms=(term,), tables={term.device: whole.tables[of_table.device]})
    measured = iter([uncut, *[1.01 * limit] * 3])
    monkeypatch.setattr("mobilette.workflows.prune.limits_of", lambda *_, **__: here)
    monkeypatch.setattr(
        "mobilette.search.limits_of_budget.measured_latency", lambda *_: next(measured)
    )
    monkeypatch.setattr("mobilette.workflows.prune_budget.CORRECTIONS", 1)
    out = tmp_path / "out"
    arguments = [f"--budget={budget}", "--steps=1", "--short-steps=0", "--epochs=1"]
    arguments += ["--workers=0", f"--out={out}"]
    assert command(["prune", str(trained.path), str(images), *arguments]) == 1
    printed = capsys.readouterr()
    assert f"FAIL {budget}: {1.01 * limit:.3g} ms on onnx, measured" in printed.err
    assert "cuts again" in printed.err
    assert not read_budget(out).met
    assert open_run(out).weights_path.is_file()


def test_a_killed_pruning_goes_on(
    trained: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = f"madds<={int(0.6 * cost(trained.arch).madds)}"
    out = tmp_path / "narrow"
    real, calls = Practice.judged, 0

    def killed(self: Practice, model: Model) -> Judgement:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        return real(self, model)

    monkeypatch.setattr(Practice, "judged", killed)

    def go() -> Run:
        options: dict[str, Any] = {"steps": 4, "short_steps": 0, "epochs": 1, "workers": 0}
        return prune(trained, images, budget=budget, out=out, **options)

    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        go()
    begun = read_record(tmp_path / "narrow-netadapt" / RECORD, Adaptation).iterations
    assert begun
    assert not out.exists()
    run = go()
    record = read_record(out / RECORD, Adaptation)
    assert record.iterations[: len(begun)] == begun
    assert cost(run.arch).madds <= 0.6 * cost(trained.arch).madds
    assert not (tmp_path / "narrow-netadapt").exists()


def test_within_a_time_there_are_fewer_iterations_and_fine_tuning_has_the_rest(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    """By a clock that only trials of cuts move: what is slow is done in fewer, larger steps."""
    now = Ticks(0.1)
    real, spent = Practice.judged, list[float]()

    def slow(self: Practice, model: Model) -> Judgement:
        now.time += 1.0
        spent.append(now.time)
        return real(self, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Practice, "judged", slow)
        run = run_prune(
            trained,
            images,
            budget=f"madds<={int(0.6 * cost(trained.arch).madds)}",
            steps=12,
            short_steps=0,
            recipe=load_recipe(SLICED, overrides={"batch_size": 16, "time_limit": LIMIT}),
            limits_all=True,
            out=tmp_path / "run",
            reading=Reading(workers=0),
            sitting=Sitting(now=now),
        )
    record = read_record(run.path / RECORD, Adaptation)
    assert 1 <= len(record.iterations) < 12
    assert read_budget(run.path).met
    # A network that no single cut brings within the budget needs more iterations than there is
    # time for: they train one proposal each, and fine-tuning has the rest.
    late = [each.trained for each in record.iterations[1:] if each.trained < each.proposals]
    assert set(late) <= {1}
    tuning = load_recipe(run.path / "recipe.toml").time_limit
    assert LIMIT - spent[-1] - 5.0 < tuning <= LIMIT - spent[-1]
    assert tuning > LIMIT / 4
    assert open_run(run.path).history()[-1]["seconds"] <= tuning + 1e-6  # of sums of ticks
    assert now.time <= 1.05 * LIMIT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --keep, a part of the mult-adds, or --budget"),
        (["--keep=0.5", "--budget=madds<=1M"], "give either --keep"),
        (["--budget=madds<=1K"], "is the smallest that can be reached"),
        (["--budget=madds<=900G"], "is within the budget already"),
        (["--budget=top1>=90%"], "is no upper limit"),
        (["--budget=weight<=1M"], "budget quantity"),
        (["--budget=latency<=1ms"], "does not say where"),
        (["--budget=latency<=1ms@nothing.json"], "nothing.json"),
        (["--budget=latency<=1ms@openvino"], "engine of a latency table"),
        (["--budget=madds<=1M", "--importance=norm"], "goes with --keep"),
        (["--keep=0.5", "--short-steps=3"], "--short-steps goes with --budget"),
    ],
)
def test_bad_requests(
    trained: Run,
    images: Path,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    out = tmp_path / "out"
    assert command(["prune", str(trained.path), str(images), *arguments, f"--out={out}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert message in printed.err
    assert not list(tmp_path.iterdir())


def test_the_smallest_is_named_and_can_be_reached(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    least = int(cost(narrowest(trained.arch)).madds)
    with pytest.raises(InputError, match=f"{least:,} madds is the smallest"):
        prune(trained, images, budget=f"madds<={least - 1}", out=tmp_path / "out")
    limits_of(f"madds<={least}", trained.arch).check_reachable(trained.arch)


def test_a_record_without_terms_is_none(tmp_path: Path) -> None:
    (tmp_path / BUDGET).write_text('{"budget": "madds<=1M", "terms": [], "cut": 0.5}')
    with pytest.raises(InputError, match="at least one is needed"):
        read_budget(tmp_path)
