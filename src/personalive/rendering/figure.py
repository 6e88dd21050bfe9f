"""The layers of a person: hair, beard, clothes, hat, scarf, glasses."""

from __future__ import annotations

from personalive.rendering.avatar import Person
from personalive.rendering.beard import grow_beard
from personalive.rendering.clothing import build_glasses, build_shirt
from personalive.rendering.face_model import FloatArray
from personalive.rendering.hair import SkullRadius, grow_hair
from personalive.rendering.headwear import build_headwear, build_scarf
from personalive.rendering.layers import Layer, Part, Strands, Surface, surface_vertices
from personalive.rendering.mesh import HeadMesh

HARD = 4  # the pattern of hard and shiny things


def build_layers(head: HeadMesh, person: Person, neutral: FloatArray, detail: float = 1.0) -> list[Layer]:
    """Everything that a person wears and grows, strands first; `neutral` (V, 3) is the expressionless head.

    `detail`: so many times more strands, and as much finer, for large pictures.
    """
    normals = head.normals(neutral)
    skull = SkullRadius(head, neutral)
    layers: list[Layer] = []
    hooded = person.headwear is not None and person.headwear.style == "headscarf"
    hair = None if hooded else grow_hair(head, person, neutral, normals, skull, detail)
    if hair is not None:
        layers.append(Strands(Part.HAIR, *hair, tint=person.hair))
    beard = grow_beard(head, person, neutral, normals, detail)
    if beard is not None:
        layers.append(beard)
    collar = person.clothes.collar
    layers.append(_shirt(person))
    if person.scarf is not None and not hooded:
        layers += build_scarf(person.scarf, collar, person.seed)
    if person.headwear is not None:
        layers += build_headwear(person.headwear, skull, collar, person.seed)
    if person.glasses:
        landmarks = neutral[head.model.landmark_vertices]
        points, directions, triangles = build_glasses(landmarks, square=person.glasses == 2)
        vertices, colour = surface_vertices(points, directions), person.glasses_colour
        layers.append(Surface(Part.GLASSES, vertices, triangles, colour, colour, HARD, 1.0))
    return layers


def _shirt(person: Person) -> Surface:
    clothes = person.clothes
    points, normals, triangles = build_shirt(clothes.collar, person.seed)
    vertices = surface_vertices(points, normals)
    return Surface(
        Part.CLOTH, vertices, triangles, clothes.colour, clothes.second_colour, clothes.pattern, clothes.stripes
    )
