"""The head mesh of the reference warp: made from a face model, written beside the shards, read by training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from personalive.config import FaceMeshConfig
from personalive.data.face_mesh import FILE, load_face_mesh, save_face_mesh
from personalive.errors import InputError, OutputError
from personalive.models.face_mesh import EYE, SKIN, FaceMesh
from personalive.rendering.dense_landmarks import COUNT, dense_landmark_vertices
from personalive.rendering.face_mesh import build_face_mesh, write_face_mesh
from personalive.rendering.face_model import FaceModelError, save_face_model
from personalive.rendering.ground_truth import NECK_PIVOT, TO_IMAGE_AXES
from toy_head import toy_face_model


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return build_face_mesh(toy_face_model())


def test_the_mesh_is_the_face_models(mesh: FaceMesh) -> None:
    model = toy_face_model()
    marks = dense_landmark_vertices(model)
    assert len(set(marks)) >= COUNT - 68  # the toy's usual ones may coincide
    wanted = (model.vertices[marks] - NECK_PIVOT) * TO_IMAGE_AXES
    np.testing.assert_allclose(mesh.mean[mesh.landmarks.long()].numpy(), wanted, atol=1e-5)
    moved = model.expression_deltas[5][marks] * TO_IMAGE_AXES
    step = float(mesh.expression_scale[5])
    np.testing.assert_allclose(mesh.expressions(mesh.landmarks)[5].numpy(), moved, atol=0.51 * step)
    assert len(mesh.identities()) == len(model.identity_deltas)
    assert set(mesh.part.tolist()) >= {SKIN, EYE}
    names = [model.expression_names[place] for place in mesh.blinks.tolist()]
    assert names == ["eyeBlink_L", "eyeBlink_R"]


def test_a_glance_turns_the_eyeballs(mesh: FaceMesh) -> None:
    place = toy_face_model().expression_index["eyeLookOut_L"]
    assert place in mesh.glances.tolist()
    left = (mesh.part == EYE) & (mesh.mean[:, 0] > 0)
    front = left & (mesh.mean[:, 2] < mesh.mean[left][:, 2].quantile(0.3))
    assert float(mesh.expressions()[place][front, 0].mean()) > 0.2  # cm, outwards


def test_it_reads_back(mesh: FaceMesh, tmp_path: Path) -> None:
    path = save_face_mesh(mesh, tmp_path / "data")
    assert path == tmp_path / "data" / FILE
    again = load_face_mesh(tmp_path / "data", mesh.config)
    for name, tensor in mesh.state_dict().items():
        assert tensor.dtype == again.state_dict()[name].dtype, name
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert [file.name for file in (tmp_path / "data").iterdir()] == [FILE]


def test_what_is_missing_or_foreign_is_one_clear_error(mesh: FaceMesh, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"face_mesh.safetensors is missing.*personalive data render"):
        load_face_mesh(tmp_path, mesh.config)
    save_face_mesh(mesh, tmp_path)
    with pytest.raises(InputError, match=r"mean is \d+x3, not \d+x3.*warp\.mesh"):
        load_face_mesh(tmp_path, FaceMeshConfig())
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_face_mesh(tmp_path, mesh.config)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_face_mesh(mesh, tmp_path / "file")


def test_a_face_model_file_becomes_the_data_folders_mesh(mesh: FaceMesh, tmp_path: Path) -> None:
    save_face_model(toy_face_model(), tmp_path / "head.npz")
    write_face_mesh(tmp_path / "head.npz", tmp_path / "data")
    again = load_face_mesh(tmp_path / "data", mesh.config)
    assert torch.allclose(again.mean, mesh.mean, atol=1e-3)
    with pytest.raises(FaceModelError):
        write_face_mesh(tmp_path / "none.npz", tmp_path / "other")
    assert not (tmp_path / "other").exists()
