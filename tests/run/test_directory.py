from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mobilette.errors import InputError
from mobilette.run.directory import Run, open_run


def test_a_run_holds_what_the_contract_says(trained: Run) -> None:
    assert {file.name for file in trained.path.iterdir()} == {
        "arch.json",
        "recipe.toml",
        "classes.txt",
        "preprocess.json",
        "dataset.json",
        "environment.json",
        "metrics.csv",
        "last.pt",
        "best.safetensors",
        "answering.json",
    }
    assert [label.id for label in trained.classes] == ["blue", "green", "red"]
    assert len(trained.history()) == 12


def test_the_network_has_the_best_weights(trained: Run) -> None:
    saved = load_file(trained.weights_path)
    state = open_run(trained.path).network.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name]) for name in saved)


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.witness,)


def test_a_pickle_in_place_of_the_weights_is_not_executed(run_copy: Path, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    (run_copy / "best.safetensors").write_bytes(pickle.dumps(_Hostile(witness)))
    with pytest.raises(InputError, match=r"best\.safetensors: not a complete safetensors file"):
        _ = open_run(run_copy).network
    assert not witness.exists()


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.999])
def test_weights_that_are_cut_short(run_copy: Path, part: float) -> None:
    path = run_copy / "best.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        _ = open_run(run_copy).network


def test_weights_of_another_network_are_named(run_copy: Path) -> None:
    path = run_copy / "best.safetensors"
    tensors = load_file(path)
    tensors["head.classifier.weight"] = torch.zeros(5, 5)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"'head\.classifier\.weight' is \(5, 5\), but"):
        _ = open_run(run_copy).network
    del tensors["head.classifier.weight"]
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"'head\.classifier\.weight' of mobilenet_v1 is missing"):
        _ = open_run(run_copy).network
    tensors["head.classifier.weight"] = load_file_weight(tensors)
    tensors["surplus"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(InputError, match="'surplus'"):
        _ = open_run(run_copy).network


def load_file_weight(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.zeros(3, tensors["rows.12.pointwise.conv.weight"].shape[0])


def test_missing_weights_say_how_to_go_on(run_copy: Path) -> None:
    (run_copy / "best.safetensors").unlink()
    with pytest.raises(InputError, match="missing; .mobilette train --resume .* trained again"):
        _ = open_run(run_copy).network


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_weights_that_are_no_file_are_not_called_missing(run_copy: Path) -> None:
    weights = run_copy / "best.safetensors"
    weights.unlink()
    weights.symlink_to("elsewhere")
    with pytest.raises(InputError, match="a link to 'elsewhere', where no file is"):
        _ = open_run(run_copy).network
    weights.unlink()
    weights.mkdir()
    named = run_copy.rename(run_copy.with_name("my run"))
    with pytest.raises(InputError, match=r"a folder, not a file; .* --resume '.*/my run'' makes"):
        _ = open_run(named).network


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(run_copy: Path, value: float) -> None:
    weights = load_file(run_copy / "best.safetensors")
    weights["stem.conv.weight"][0, 0, 0, 0] = value
    save_file(weights, run_copy / "best.safetensors")
    with pytest.raises(InputError, match=r"tensor 'stem.conv.weight' has values that are not fin"):
        _ = open_run(run_copy).model


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory .no arch.json"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="not a run directory .no such folder"):
        open_run(tmp_path / "nothing")


def test_files_that_disagree(run_copy: Path) -> None:
    (run_copy / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="2 classes, but the network has 3"):
        open_run(run_copy)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("arch.json", "resolution", 5, "resolution 5 is not between"),
        ("arch.json", "rows", [{"kind": "fire"}], "rows.0.kind is 'fire'"),
        ("preprocess.json", "std", [1, 1], "std has 2 values"),
        ("preprocess.json", "resize", "stretch", "resize is 'stretch', not one of"),
    ],
)
def test_files_edited_into_nonsense(
    run_copy: Path, file: str, key: str, value: object, message: str
) -> None:
    content = json.loads((run_copy / file).read_text())
    (run_copy / file).write_text(json.dumps(content | {key: value}))
    with pytest.raises(InputError, match=message) as caught:
        open_run(run_copy)
    assert file in str(caught.value)


def test_the_best_line_is_that_of_the_best_weights(run_copy: Path) -> None:
    assert open_run(run_copy).best() == max(
        open_run(run_copy).history(), key=lambda row: (row["top1"], -row["epoch"])
    )
    header = "epoch,step,seconds,lr,train_loss,val_loss,top1,top5,images_per_second"
    lines = [f"{n},1,1,0,1,1,{top1},1,9,{ap}" for n, top1, ap in ((1, 0.9, 0.4), (2, 0.8, 0.7))]
    text = "\n".join([f"{header},mean_average_precision", *lines])
    (run_copy / "metrics.csv").write_text(text)
    recorded = json.loads((run_copy / "dataset.json").read_text())
    (run_copy / "dataset.json").write_text(json.dumps(recorded | {"multi_label": True}))
    best = open_run(run_copy).best()
    assert best is not None
    assert (best["epoch"], best["mean_average_precision"]) == (2, 0.7)


def test_damaged_metrics(run_copy: Path) -> None:
    (run_copy / "metrics.csv").write_text("epoch\n1,2,x\n")
    with pytest.raises(InputError, match=r"metrics\.csv: damaged"):
        open_run(run_copy).history()
