"""An artifact is all in its folder: nothing in it makes an engine read another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from mobilette.artifact.directory import check_whole, open_artifact
from mobilette.engines.load import load
from mobilette.engines.openvino import check_ir
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from tests.artifact.forging import forge
from tests.verification.forged_models import forge_model

OUTSIDE = "secret.bin"
NAME = "normalise.weight"


def outside(tensor: TensorProto, location: str = OUTSIDE) -> TensorProto:
    """Return the tensor with its values in a file."""
    moved = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    moved.data_location = TensorProto.EXTERNAL
    moved.external_data.add(key="location", value=location)
    return moved


@pytest.mark.parametrize("target", ["onnx", "web"])
@pytest.mark.parametrize("where", ["beside", "above", "absolute", "linked", "missing", "memory"])
def test_values_in_another_file_are_refused_wherever_it_is(
    where: str,
    target: str,
    artifact_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx.load(artifact_copy / "model.onnx")
    (tensor,) = (each for each in model.graph.initializer if each.name == NAME)
    folder = tmp_path / "working" / "directory"
    folder.mkdir(parents=True)
    values = numpy_helper.to_array(tensor).tobytes()
    for place in (tmp_path / "working", folder, artifact_copy):
        (place / OUTSIDE).write_bytes(values)
    (folder / "link.bin").symlink_to(tmp_path / "working" / OUTSIDE)
    location = {
        "beside": OUTSIDE,
        "above": f"../{OUTSIDE}",
        "absolute": str(folder / OUTSIDE),
        "linked": "link.bin",
        "missing": "nothing.bin",
        "memory": "*/_ORT_MEM_ADDR_/*",  # to ONNX Runtime the offset is an address then
    }[where]

    def change(model: ModelProto) -> None:
        (tensor,) = (each for each in model.graph.initializer if each.name == NAME)
        tensor.CopyFrom(outside(tensor, location))

    artifact = forge_model(artifact_copy, change, target=target)
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=f"the values of '{NAME}' lie in another file") as caught:
        open_engine(artifact)
    assert location[:60] in str(caught.value)


def in_initialiser(graph: GraphProto, tensor: TensorProto) -> None:
    graph.initializer.append(tensor)


def in_sparse_values(graph: GraphProto, tensor: TensorProto) -> None:
    graph.sparse_initializer.add(values=tensor)


def in_sparse_indices(graph: GraphProto, tensor: TensorProto) -> None:
    graph.sparse_initializer.add(indices=tensor)


def in_attribute(graph: GraphProto, tensor: TensorProto) -> None:
    graph.node.add(op_type="Constant").attribute.add(name="value", t=tensor)


def in_list_of_tensors(graph: GraphProto, tensor: TensorProto) -> None:
    graph.node.add(op_type="Any").attribute.add(name="values", tensors=[tensor])


def in_sparse_attribute(graph: GraphProto, tensor: TensorProto) -> None:
    sparse = onnx.SparseTensorProto(values=tensor)
    graph.node.add(op_type="Constant").attribute.add(name="sparse_value", sparse_tensor=sparse)


def in_branch(graph: GraphProto, tensor: TensorProto) -> None:
    branch = graph.node.add(op_type="If").attribute.add(name="then_branch").g
    in_attribute(branch, tensor)


def in_loop_in_branch(graph: GraphProto, tensor: TensorProto) -> None:
    branch = graph.node.add(op_type="If").attribute.add(name="else_branch").g
    body = branch.node.add(op_type="Loop").attribute.add(name="body").g
    body.initializer.append(tensor)


PLACES = (
    *(in_initialiser, in_sparse_values, in_sparse_indices, in_attribute, in_list_of_tensors),
    *(in_sparse_attribute, in_branch, in_loop_in_branch),
)
TENSOR = numpy_helper.from_array(np.ones(3, np.float32), "w")
ONLY_NAMED = TensorProto(name="w", data_type=1, dims=[3], float_data=[1, 2, 3])
ONLY_NAMED.external_data.add(key="location", value=OUTSIDE)


@pytest.mark.parametrize("tensor", [outside(TENSOR), ONLY_NAMED], ids=["outside", "both"])
@pytest.mark.parametrize("put", PLACES)
def test_tensors_are_found_wherever_they_stand(
    put: Callable[[GraphProto, TensorProto], None], tensor: TensorProto
) -> None:
    model = ModelProto(ir_version=9)
    put(model.graph, TENSOR)
    check_whole(model.SerializeToString(), where="model.onnx")
    put(model.graph, tensor)
    with pytest.raises(InputError, match="the values of 'w' lie in another file, 'secret.bin'"):
        check_whole(model.SerializeToString(), where="model.onnx")


def test_functions_and_training_graphs() -> None:
    function = onnx.FunctionProto(name="f")
    function.node.add(op_type="Constant").attribute.add(name="value", t=outside(TENSOR))
    model = ModelProto(ir_version=9, functions=[function])
    with pytest.raises(InputError, match="lie in another file"):
        check_whole(model.SerializeToString(), where="model.onnx")
    model = ModelProto(ir_version=9)
    in_initialiser(model.training_info.add().initialization, outside(TENSOR))
    with pytest.raises(InputError, match="lie in another file"):
        check_whole(model.SerializeToString(), where="model.onnx")


def test_what_is_no_onnx_file(artifact_copy: Path) -> None:
    content = (artifact_copy / "model.onnx").read_bytes()
    for broken in (content[:-7], b"\0" + content, b"ORTM" * 9):
        with pytest.raises(InputError, match="not a complete ONNX file"):
            open_engine(forge(artifact_copy, {"model.onnx": broken}))


@pytest.mark.parametrize("name", ["labels.txt", "model.onnx", "golden.npz", "contract.json"])
def test_a_link_that_leads_out_is_refused(name: str, artifact_copy: Path, tmp_path: Path) -> None:
    """Whatever the file there is: it can be another one when it is read again."""
    (artifact_copy / name).rename(tmp_path / name)
    (artifact_copy / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: a link to .*, outside the artifact"):
        open_artifact(artifact_copy)


def test_links_that_stay_inside_or_lead_to_the_whole(artifact_copy: Path, tmp_path: Path) -> None:
    (artifact_copy / "model.onnx").rename(artifact_copy / "other.onnx")
    (artifact_copy / "model.onnx").symlink_to("other.onnx")
    (tmp_path / "link").symlink_to(artifact_copy, target_is_directory=True)
    assert load(tmp_path / "link").logits(np.zeros((1, 3, 16, 16), np.uint8)).shape == (1, 3)
    (artifact_copy / "README.md").unlink()
    (artifact_copy / "README.md").symlink_to("README.md")
    with pytest.raises(InputError, match=r"README\.md"):
        open_artifact(artifact_copy)


def test_openvinos_constants_lie_in_its_own_weights(tmp_path: Path) -> None:
    constant = '<layer type="Const"><data offset="{}" size="8"/></layer>'
    network = (
        '<net><layers>{}<layer type="If"><body><layers>{}</layers></body></layer></layers>{}</net>'
    )
    good = network.format(constant.format(0), constant.format(8), "")
    check_ir(good.encode(), 16, where="model.xml")
    for bad, part in (
        (network.format(constant.format(0), constant.format(9), ""), "a constant lies at 9 to 17"),
        (good.replace("</net>", '<rt_info><__weights_path value="x"/></rt_info></net>'), "another"),
    ):
        with pytest.raises(InputError, match=part):
            check_ir(bad.encode(), 16, where="model.xml")
