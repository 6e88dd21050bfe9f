"""What people wear and grow: surfaces and strands fitted to the head, by seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from personalive.rendering.avatar import GLASSES_SHARE, Person, sample_person
from personalive.rendering.beard import beard_mask
from personalive.rendering.face_model import FaceModel, FloatArray, find_face_model, load_face_model
from personalive.rendering.figure import build_layers
from personalive.rendering.layers import Part, Strands, Surface
from personalive.rendering.looks import HAT_STYLES, Fabric, FacialHair, Headwear, Proportions
from personalive.rendering.mesh import HeadMesh, build_head_mesh
from personalive.rendering.motion import EXPRESSIONS
from personalive.rendering.textures import SIDE, TEXTURES

CLOTH = Fabric(np.full(3, 0.5), np.full(3, 0.2), 0, 1.0)


@pytest.fixture(scope="module")
def head() -> HeadMesh:
    path = find_face_model()
    if path is None or not path.exists():
        pytest.skip("no face model (set PERSONALIVE_FACE_MODEL)")
    return build_head_mesh(load_face_model(path))


def bare(model: FaceModel) -> Person:
    """A person who wears and grows nothing but a shirt."""
    return replace(
        sample_person(model, 900_020),
        hair_style="bald",
        facial_hair=FacialHair("none", 0.0, 0.0),
        headwear=None,
        scarf=None,
        glasses=0,
        proportions=Proportions(),
    )


def test_people_differ_in_what_they_wear(head: HeadMesh) -> None:
    people = [sample_person(head.model, 100_000 + number) for number in range(300)]
    shares = {
        "glasses": np.mean([person.glasses > 0 for person in people]),
        "hats": np.mean([person.headwear is not None for person in people]),
        "scarves": np.mean([person.scarf is not None for person in people]),
        "beards": np.mean([person.facial_hair.style != "none" for person in people]),
        "grown": np.mean([person.facial_hair.length > 0 for person in people]),
        "children": np.mean([person.proportions.jaw > 0.16 for person in people]),
        "loose": np.mean([person.hair_style == "loose" for person in people]),
    }
    assert shares["glasses"] == pytest.approx(GLASSES_SHARE, abs=0.07)
    for name in ("hats", "scarves", "beards", "grown", "children", "loose"):
        assert 0.04 < shares[name] < 0.35, (name, shares[name])
    assert all(person.facial_hair.style == "none" for person in people if person.feminine)


@pytest.mark.parametrize("style", HAT_STYLES)
def test_hats_lie_over_the_head_and_leave_the_face_free(head: HeadMesh, style: str) -> None:
    (known,) = (each for each in HAT_STYLES if each == style)
    person = replace(bare(head.model), headwear=Headwear(known, CLOTH, 0.0, 0.3))
    layers = [layer for layer in build_layers(head, person, head.model.vertices) if layer.part == Part.HAT]
    assert layers
    points = np.concatenate([layer.vertices[:, :3] for layer in layers])
    assert points[:, 1].max() > head.model.vertices[:, 1].max()
    before_face = (np.abs(points[:, 0]) < 4) & (points[:, 1] < 5) & (points[:, 1] > -6) & (points[:, 2] > 6)
    assert not before_face.any()
    for layer in layers:
        assert isinstance(layer, Surface)
        assert np.isfinite(layer.vertices).all()
        assert layer.triangles.max() < len(layer.vertices)


def test_a_beard_moves_with_the_jaw_and_a_moustache_less(head: HeadMesh) -> None:
    jaw = head.model.expression_deltas[EXPRESSIONS.index("jawOpen")]

    def drop(style: str) -> FloatArray:
        (beard,) = (FacialHair(each, 1.0, 0.8) for each in ("full", "moustache") if each == style)
        layers = build_layers(head, replace(bare(head.model), facial_hair=beard), head.model.vertices)
        (strands,) = (layer for layer in layers if layer.part == Part.BEARD)
        assert isinstance(strands, Strands)
        assert strands.anchors is not None
        offsets = strands.anchors.offsets(jaw)
        assert offsets.shape == (len(strands.vertices), 3)
        return offsets[:, 1]

    assert drop("full").min() < -1.5
    assert abs(drop("moustache")).mean() < 0.5
    assert abs(drop("moustache")).mean() < 0.5 * abs(drop("full")).mean()


def test_beards_leave_lips_and_cheeks_free() -> None:
    across, height = np.array([0.0, 0.0, 5.8, 0.0]), np.array([-3.4, -6.5, 1.5, -1.85])  # mouth, chin, cheek, lip
    for style, expected in (("full", (0, 1, 0, 1)), ("goatee", (0, 1, 0, 1)), ("moustache", (0, 0, 0, 1))):
        (known,) = (each for each in ("full", "goatee", "moustache") if each == style)
        np.testing.assert_allclose(beard_mask(across, height, known), expected, atol=0.3)
    assert not beard_mask(across, height, "none").any()


def test_proportions_move_eyes_and_nose(head: HeadMesh) -> None:
    model = head.model
    same = Proportions().apply(model, model.vertices)
    np.testing.assert_allclose(same, model.vertices, atol=1e-5)
    marks = model.landmark_vertices
    child = Proportions(eyes=0.26, nose=0.34, jaw=0.34, cheeks=0.5).apply(model, model.vertices)[marks]
    adult = model.vertices[marks]

    def across(points: FloatArray, one: int, other: int) -> float:
        return float(np.linalg.norm(points[one] - points[other]))

    assert across(child, 36, 39) > 1.15 * across(adult, 36, 39)  # an eye
    assert across(child, 27, 33) < across(adult, 27, 33)  # the nose
    assert across(child, 57, 8) < 0.95 * across(adult, 57, 8)  # the chin
    np.testing.assert_allclose(child[42:46, 0], -child[[39, 38, 37, 36], 0], atol=0.05)


def test_textures_are_pictures_and_differ() -> None:
    base, other = np.array([0.5, 0.45, 0.4]), np.array([0.2, 0.3, 0.35])
    seen = []
    for texture in TEXTURES:
        picture = texture(np.random.default_rng(0), base, other)
        assert picture.shape == (SIDE, SIDE, 3)
        assert picture.std() > 0.01
        seen.append(picture.mean((0, 1)))
    assert len(np.unique(np.round(seen, 6), axis=0)) == len(TEXTURES)
