"""The layers of a person: hair, clothes, glasses."""

from __future__ import annotations

from personalive.rendering.avatar import Person
from personalive.rendering.clothing import build_glasses, build_shirt
from personalive.rendering.face_model import FloatArray
from personalive.rendering.hair import grow_hair
from personalive.rendering.layers import Layer, Part, Strands, Surface, surface_vertices
from personalive.rendering.mesh import HeadMesh

HARD = 4  # the pattern of hard and shiny things


def build_layers(head: HeadMesh, person: Person, neutral: FloatArray, detail: float = 1.0) -> list[Layer]:
    """Everything that a person wears and grows, strands first; `neutral` (V, 3) is the expressionless head.

    `detail`: so many times more strands, and as much finer, for large pictures.
    """
    layers: list[Layer] = []
    hair = grow_hair(head, person, neutral, head.normals(neutral), detail)
    if hair is not None:
        layers.append(Strands(Part.HAIR, *hair, tint=person.hair))
    clothes = person.clothes
    points, normals, triangles = build_shirt(clothes.collar, person.seed)
    layers.append(
        Surface(
            Part.CLOTH,
            surface_vertices(points, normals),
            triangles,
            clothes.colour,
            clothes.second_colour,
            clothes.pattern,
            clothes.stripes,
        )
    )
    if person.glasses:
        landmarks = neutral[head.model.landmark_vertices]
        points, normals, triangles = build_glasses(landmarks, square=person.glasses == 2)
        vertices, colour = surface_vertices(points, normals), person.glasses_colour
        layers.append(Surface(Part.GLASSES, vertices, triangles, colour, colour, HARD, 1.0))
    return layers
