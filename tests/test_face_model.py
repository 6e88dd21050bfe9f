from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalive.rendering.face_model import (
    FaceModelError,
    convert_obj,
    find_face_model,
    load_face_model,
    save_face_model,
)
from toy_head import toy_face_model, write_release


def test_converter_reads_the_release_and_the_file_reads_back(tmp_path: Path) -> None:
    model = toy_face_model()
    triangle = model.faces.copy()
    triangle[5, 3] = -1  # the release mixes triangles and quads
    model = replace(model, faces=triangle, face_uvs=np.where(triangle < 0, -1, model.face_uvs))
    write_release(model, tmp_path / "FaceXModel")
    converted = convert_obj(tmp_path / "FaceXModel", tmp_path / "head.npz")
    loaded = load_face_model(tmp_path / "head.npz")
    for found in (converted, loaded):
        np.testing.assert_allclose(found.vertices, model.vertices, atol=1e-5)
        np.testing.assert_array_equal(found.faces, model.faces)
        np.testing.assert_array_equal(found.face_uvs, model.face_uvs)
        np.testing.assert_array_equal(found.face_material, model.face_material)
        np.testing.assert_allclose(found.identity_deltas, model.identity_deltas, atol=1e-3)
        np.testing.assert_allclose(found.expression_deltas, model.expression_deltas, atol=1e-3)
        np.testing.assert_array_equal(found.landmark_vertices, model.landmark_vertices)
        assert found.materials == model.materials
        assert found.expression_names == model.expression_names


def test_converter_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FaceModelError, match=r"generic_neutral_mesh\.obj"):
        convert_obj(tmp_path, tmp_path / "head.npz")
    folder = tmp_path / "release"
    write_release(toy_face_model(), folder)
    (folder / "jawOpen.obj").write_text("v 0 0 0\n")
    with pytest.raises(FaceModelError, match=r"jawOpen\.obj has 1 vertices"):
        convert_obj(folder, tmp_path / "head.npz")
    (folder / "jawOpen.obj").unlink()
    (folder / "vertex_indices.json").write_text("{}")
    with pytest.raises(FaceModelError, match="idx_to_landmark_verts"):
        convert_obj(folder, tmp_path / "head.npz")
    assert not (tmp_path / "head.npz").exists()


def test_broken_obj_is_one_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    write_release(toy_face_model(), folder)
    (folder / "generic_neutral_mesh.obj").write_text("v 0 0 0\nf 1/1 x/2 3/3\n")
    with pytest.raises(FaceModelError, match="not a readable OBJ"):
        convert_obj(folder, tmp_path / "head.npz")


def test_loading_names_the_fault(tmp_path: Path) -> None:
    with pytest.raises(FaceModelError, match="not found"):
        load_face_model(tmp_path / "none.npz")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(FaceModelError, match=r"not a readable \.npz"):
        load_face_model(broken)
    partial = tmp_path / "partial.npz"
    np.savez(partial, vertices=np.zeros((3, 3)))
    with pytest.raises(FaceModelError, match="lacks uv, faces"):
        load_face_model(partial)
    model = toy_face_model()
    save_face_model(replace(model, landmark_vertices=model.landmark_vertices[:60]), tmp_path / "short.npz")
    with pytest.raises(FaceModelError, match="landmark_vertices has shape"):
        load_face_model(tmp_path / "short.npz")
    save_face_model(replace(model, faces=model.faces + 1_000_000), tmp_path / "wild.npz")
    with pytest.raises(FaceModelError, match="points outside"):
        load_face_model(tmp_path / "wild.npz")


def test_environment_names_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALIVE_FACE_MODEL", "somewhere/head.npz")
    assert find_face_model() == Path("somewhere/head.npz")
