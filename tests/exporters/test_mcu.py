"""The C++ is compiled where there is a compiler; models are executed by tflite-micro itself."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilette.artifact.cpp import METHODS, resolver_header
from mobilette.artifact.directory import Artifact
from mobilette.artifact.tflite import ask_tflite_micro
from mobilette.compression.folding import fold
from mobilette.data.normalise import Normalise
from mobilette.engines.load import load
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, export_calibrated
from mobilette.exporters.integer_network import IntegerNetwork
from mobilette.exporters.litert import convert
from mobilette.exporters.readme import readme
from mobilette.formats.importing import import_weights
from mobilette.model.answering import Known, Promise
from mobilette.model.classes import ClassLabel
from mobilette.run.directory import Run, open_run
from mobilette.run.metrics import log_sum_exp, softmax
from mobilette.verification.diagnosis import check_exact
from mobilette.verification.gate import compare, judge_golden
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.artifact.forging import forge
from tests.exporters.small_runs import small_calibration, small_run

pytest.importorskip("litert_torch")
pytest.importorskip("torchao")
pytest.importorskip("tflite_micro")

COMPILER = shutil.which("g++") or shutil.which("c++")
compiled = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def mcu(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="mcu", out=tmp_path_factory.mktemp("mcu"))


@pytest.fixture
def copied(mcu: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mcu.path, tmp_path / "mcu-int8"))


def build(source: Path, *arguments: str | Path) -> None:
    assert COMPILER is not None
    command = [COMPILER, "-std=c++17", "-Wall", "-Wextra", "-Werror", str(source)]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_written_and_measured(mcu: Artifact) -> None:
    assert mcu.path.name == "mcu-int8"
    contract = mcu.contract
    assert contract.parts == ("model.cc", "model.h", "resolver.h")
    assert contract.measured is not None
    assert {"QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D"} <= set(contract.measured.operators)
    arena = contract.measured.arena_bytes
    assert arena is not None
    assert f"kArenaBytes = {arena};" in (mcu.path / "model.h").read_text()
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    ask_tflite_micro(mcu.read_model(), pixels, arena_bytes=arena)
    with pytest.raises(InputError, match="cannot run it"):
        ask_tflite_micro(mcu.read_model(), pixels, arena_bytes=arena - 16)


def test_tflite_micro_answers_to_the_bit_as_litert(mcu: Artifact) -> None:
    assert mcu.golden.exact is not None
    assert check_exact(mcu) == []
    logits = load(mcu.path).logits(mcu.golden.inputs)
    assert judge_golden(compare(logits, mcu.golden.logits), "int8") == []


@compiled
def test_the_c_array_is_the_model(mcu: Artifact, tmp_path: Path) -> None:
    main = tmp_path / "main.cc"
    main.write_text(
        '#include <cstdio>\n#include <cstdint>\n#include "model.h"\n#include "model.h"\n'
        "int main() {\n"
        "  if (reinterpret_cast<uintptr_t>(g_model) % 16) return 1;\n"
        '  for (int i = 0; i < kLabels; ++i) fprintf(stderr, "%s\\n", g_labels[i]);\n'
        "  return fwrite(g_model, 1, g_model_len, stdout) == g_model_len ? 0 : 1;\n}\n"
    )
    build(main, mcu.path / "model.cc", f"-I{mcu.path}", "-o", tmp_path / "main")
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert done.stdout == mcu.read_model()
    assert done.stderr.decode().split() == [label.name for label in mcu.contract.classes]


@compiled
def test_the_resolver_adds_just_what_the_model_needs(mcu: Artifact, tmp_path: Path) -> None:
    # tflite-micro's package has no headers: this is as much of its interface as is called
    header = tmp_path / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    header.parent.mkdir(parents=True)
    methods = "".join(
        f'  TfLiteStatus {method}() {{ puts("{name}"); return kTfLiteOk; }}\n'
        for name, method in METHODS.items()
    )
    header.write_text(
        "#include <cstdio>\nenum TfLiteStatus { kTfLiteOk, kTfLiteError };\n"
        f"namespace tflite {{\ntemplate <unsigned N> struct MicroMutableOpResolver {{\n{methods}"
        "};\n}\n"
    )
    main = tmp_path / "main.cc"
    main.write_text(
        '#include "resolver.h"\n#include "resolver.h"\n'
        "int main() {\n  tflite::MicroMutableOpResolver<kOperators> resolver;\n"
        "  return AddOperators(resolver);\n}\n"
    )
    build(main, f"-I{mcu.path}", f"-I{tmp_path}", "-o", tmp_path / "main")
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True, text=True)
    assert mcu.contract.measured is not None
    assert tuple(done.stdout.split()) == mcu.contract.measured.operators


def test_an_operator_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="TANH is not supported by mcu; use --to litert"):
        resolver_header(("CONV_2D", "TANH"))


def test_the_readmes_python_runs_as_printed_and_gives_predicts_answer(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(copied / "image.jpg")
    monkeypatch.chdir(copied)
    text = (copied / "README.md").read_text()
    assert '#include "resolver.h"' in text
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    prediction = load(copied).predict(["image.jpg"])[0]
    assert names["labels"][names["logits"].argmax()].partition("\t")[2] == prediction.label
    assert softmax(names["logits"][None]).max() == pytest.approx(prediction.probability, abs=1e-6)


def test_another_model_or_other_labels_in_the_c_array_are_found(copied: Path) -> None:
    source, header = (copied / "model.cc").read_text(), (copied / "model.h").read_bytes()
    last = source.rindex("0x")
    byte = source[last : last + 4]
    other = "0x00" if byte != "0x00" else "0x01"
    model = source[:last] + other + source[last + 4 :]
    labels = source.replace('"red"', '"tmp"').replace('"blue"', '"red"').replace('"tmp"', '"blue"')
    assert labels != source
    for forged in (model, labels):
        artifact = forge(copied, {"model.cc": forged.encode()})
        with pytest.raises(InputError, match=r"model\.cc: does not match model\.tflite and"):
            open_engine(artifact)
    artifact = forge(
        copied, {"model.cc": source.encode(), "model.h": b"constexpr int kLabels = 9;"}
    )
    with pytest.raises(InputError, match=r"model\.h: does not match model\.tflite and"):
        open_engine(artifact)
    artifact = forge(copied, {"model.h": header, "resolver.h": b"constexpr int kOperators = 1;"})
    with pytest.raises(InputError, match=r"resolver\.h: does not match model\.tflite and"):
        open_engine(artifact)


def test_other_exact_answers_are_found(mcu: Artifact, copied: Path) -> None:
    golden = mcu.golden
    assert golden.exact is not None
    changed = replace(golden, exact=golden.exact ^ np.int8(1))
    artifact = forge(copied, {"golden.npz": changed.to_bytes()})
    assert "by up to 1 steps" in check_exact(artifact)[0]
    artifact = forge(copied, {"golden.npz": replace(golden, exact=None).to_bytes()})
    assert "no exact int8 answers" in check_exact(artifact)[0]


def known_bad(run: Run, folder: Path) -> bytes:
    """Return ai-edge-quantizer's int8 of a run: its constants lie behind the flatbuffer."""
    quantizer = pytest.importorskip("ai_edge_quantizer.quantizer")
    recipe = pytest.importorskip("ai_edge_quantizer.recipe")
    model, calibration = fold(run.model), small_calibration()
    network = IntegerNetwork(model.network, Normalise(model.preprocess)).eval()
    values = network.values(torch.from_numpy(calibration.pixels))
    (folder / "float.tflite").write_bytes(convert(network, values[:1]))
    quantiser = quantizer.Quantizer(str(folder / "float.tflite"))
    quantiser.load_quantization_recipe(recipe.static_wi8_ai8())
    samples = [{"args_0": value[None].numpy()} for value in values]
    statistics = quantiser.calibrate({"serving_default": samples})
    return bytes(quantiser.quantize(statistics).quantized_model)


@pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`")
def test_a_known_bad_export_is_caught(copied: Path, tmp_path: Path) -> None:
    """LiteRT runs it and is right; tflite-micro finds no constants and answers one all the same."""
    runtime = pytest.importorskip("tflite_micro").runtime
    content = known_bad(small_run(tmp_path / "run", "mobilenet_v2"), tmp_path)
    kernels = runtime.Interpreter.from_bytes(content, arena_size=2**24)
    answers = []
    for value in (-100, 0, 100):
        kernels.set_input(np.full((1, 32, 32, 3), value, np.int8), 0)
        kernels.invoke()
        answers.append(kernels.get_output(0).copy())
    assert (answers[0] == answers[1]).all()
    assert (answers[0] == answers[2]).all()
    forge(copied, {"model.tflite": content}, parts=())
    with pytest.raises(InputError, match=r"model\.tflite: .* lies outside of the flatbuffer"):
        verify(copied)


def test_visual_wake_words_fits_a_microcontroller(shared: Path, tmp_path: Path) -> None:
    """MLPerf Tiny's published V1 x0.25 at 96x96: 85.25% of these images in fp32."""
    weights = shared / "weights" / "mobilenet_v1_0.25_96_vww_mlperf_tiny_float.tflite"
    images = shared / "data" / "vww400"
    classes = [ClassLabel(id=each.name, name=each.name) for each in sorted(images.iterdir())]
    model = import_weights(
        weights,
        model="mobilenet_v1",
        width_mult=0.25,
        classes=classes,
        preprocess="unit",
        resize="squash",
    )
    run = open_run(model.save(tmp_path / "vww"))
    artifact = export(run, to="mcu", data=images, out=tmp_path)
    measured = artifact.contract.measured
    assert measured is not None
    assert measured.size_bytes < 350_000
    assert measured.arena_bytes is not None
    assert measured.arena_bytes < 110_000
    verdict = verify(artifact.path, images, max_drop=2.0, checkpoint=run.path)
    assert verdict.passed, verdict.failures
    assert verdict.accuracy_artifact is not None
    assert verdict.accuracy_artifact > 0.83


@compiled
@pytest.mark.parametrize("known", [False, True])
def test_the_readmes_cpp_says_unknown_where_predict_does(
    known: bool, mcu: Artifact, tmp_path: Path
) -> None:
    """With as much of tflite-micro's interface as it calls, and given answers."""
    answers, scale, zero_point = [3, 100, 71], 0.05, -7
    logits = scale * (np.array([answers], np.float32) - zero_point)
    found = softmax(logits, temperature=1.7).max(), log_sum_exp(logits)[0]
    for below, expected in ((0.001, "1"), (-0.001, "-1")):
        promise = Promise(
            error=0.1,
            confidence=0.95,
            threshold=0.0 if known else float(found[0]) - below,
            coverage=1.0,
            pictures=100,
            split="val",
        )
        like = Known(
            score="energy", threshold=float(found[1]) - below, kept=0.9, pictures=100, split="val"
        )
        contract = replace(
            mcu.contract, temperature=1.7, promise=promise, known=like if known else None
        )
        code = readme(contract, TARGETS["mcu"]).partition("```cpp\n")[2].partition("```")[0]
        micro = tmp_path / "tensorflow/lite/micro/micro_interpreter.h"
        micro.parent.mkdir(parents=True, exist_ok=True)
        values = ", ".join(map(str, answers))
        micro.write_text(
            "#pragma once\n#include <cstdint>\nenum TfLiteStatus { kTfLiteOk, kTfLiteError };\n"
            "struct TfLiteQuantizationParams { float scale; int32_t zero_point; };\n"
            f"static uint8_t pixels_[16 * 16 * 3];\nstatic int8_t answers_[] = {{{values}}};\n"
            "struct TfLiteTensor { struct { uint8_t* uint8; int8_t* int8; } data;\n"
            "  TfLiteQuantizationParams params; };\n"
            "namespace tflite {\nstruct Model {};\n"
            "inline const Model* GetModel(const void*) { return nullptr; }\n"
            "template <unsigned N> struct MicroMutableOpResolver {};\n"
            "struct MicroInterpreter {\n"
            "  template <class R> MicroInterpreter(const Model*, R&, uint8_t*, int) {}\n"
            "  TfLiteStatus AllocateTensors() { return kTfLiteOk; }\n"
            "  TfLiteStatus Invoke() { return kTfLiteOk; }\n"
            f"  TfLiteTensor tensor{{{{pixels_, answers_}}, {{{scale}f, {zero_point}}}}};\n"
            "  TfLiteTensor* input(int) { return &tensor; }\n"
            "  TfLiteTensor* output(int) { return &tensor; }\n};\n}\n"
        )
        (tmp_path / "resolver.h").write_text(
            '#include "tensorflow/lite/micro/micro_interpreter.h"\nconstexpr int kOperators = 1;\n'
            "inline TfLiteStatus AddOperators(tflite::MicroMutableOpResolver<1>&) "
            "{ return kTfLiteOk; }\n"
        )
        (tmp_path / "model.h").write_text((mcu.path / "model.h").read_text())
        (tmp_path / "main.cc").write_text(
            f"#include <cstdio>\n{code}\nconst unsigned char g_model[] = {{0}};\n"
            'int main() { printf("%d", Classify(pixels_)); }\n'
        )
        build(tmp_path / "main.cc", f"-I{tmp_path}", "-o", tmp_path / "main")
        done = subprocess.run([tmp_path / "main"], capture_output=True, check=True, text=True)
        assert done.stdout == expected


def test_a_sigmoid_has_the_scale_that_its_operator_is_specified_for(tmp_path: Path) -> None:
    """tflite-micro refuses LOGISTIC with another; MnasNet's squeeze-and-excite has it."""
    run = small_run(tmp_path / "run", "mnasnet_a1", (0, 3))
    artifact = export_calibrated(
        run, to="mcu", calibration=small_calibration(), out=tmp_path / "exports"
    )
    assert artifact.contract.measured is not None
    assert "LOGISTIC" in artifact.contract.measured.operators
    verdict = verify(artifact.path)
    assert verdict.signal_to_noise_db > 15, verdict.failures
