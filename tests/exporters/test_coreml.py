from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilette.artifact.directory import Artifact
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.silence import silence
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.exporters.networks import untrained

pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def artifact(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="coreml", out=tmp_path_factory.mktemp("coreml"))


def read_spec(folder: Path) -> Any:
    with silence():
        import coremltools

        return coremltools.models.MLModel(
            str(folder / "model.mlpackage"), skip_model_load=True
        ).get_spec()


def test_the_input_is_an_image_and_the_contract_is_in_the_metadata(artifact: Artifact) -> None:
    spec = read_spec(artifact.path)
    (pixels,), (logits,) = spec.description.input, spec.description.output
    assert (pixels.name, logits.name) == ("pixels", "logits")
    image = pixels.type.imageType
    assert (image.width, image.height) == (16, 16)
    assert image.colorSpace == image.ColorSpace.Value("RGB")
    assert list(logits.type.multiArrayType.shape) == [1, 3]
    assert spec.WhichOneof("Type") == "mlProgram"
    assert not spec.description.predictedFeatureName  # logits, no classifier
    inside = json.loads(spec.description.metadata.userDefined["mobilette.contract"])
    beside = json.loads(artifact.contract.published().to_text())
    assert all(beside[key] == value for key, value in inside.items())
    assert inside["verifiable"] is False


def test_weights_and_arithmetic_are_float32(artifact: Artifact) -> None:
    spec = read_spec(artifact.path)
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    kinds = [operation.type for operation in block.operations]
    assert kinds.count("conv") == 28  # the normalisation's, the stem's, 13 blocks of two
    assert "cast" not in kinds
    types = {output.type.tensorType.dataType for op in block.operations for output in op.outputs}
    float16 = 10  # MIL.proto: DataType.FLOAT16
    assert float16 not in types
    size = (artifact.path / artifact.contract.parts[0]).stat().st_size
    assert size > 4 * 200_000


def test_grey_images_are_grey_images(tmp_path: Path) -> None:
    run = untrained("resnet20", tmp_path / "run", in_channels=1)
    spec = read_spec(export(run, to="coreml", out=tmp_path).path)
    image = spec.description.input[0].type.imageType
    assert image.colorSpace == image.ColorSpace.Value("GRAYSCALE")


def test_verify_says_that_nothing_here_executes_it(artifact: Artifact) -> None:
    with pytest.raises(InputError, match="nothing here executes 'coreml' artifacts"):
        verify(artifact.path)
    readme = (artifact.path / "README.md").read_text()
    assert "coremltools.models.MLModel" in readme


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac executes it")
def test_the_script_for_a_mac_checks_files_and_says_where_it_ends(
    artifact: Artifact, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(artifact.path, tmp_path / "coreml"))

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, folder / "verify_on_mac.py"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    status, said = run()
    assert status == 2
    assert "cannot execute Core ML models" in said
    (folder / "labels.txt").write_text("a\ta\n")
    status, said = run()
    assert status == 1
    assert said == "FAIL: labels.txt is missing or was changed since the export\n"


def test_the_golden_vectors_are_those_of_every_target(
    artifact: Artifact, exported: Artifact
) -> None:
    np.testing.assert_array_equal(artifact.golden.logits, exported.golden.logits)
