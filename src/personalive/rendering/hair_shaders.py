"""GLSL of lashes and strands of hair."""

from __future__ import annotations

from personalive.rendering.shaders import HEADER, LIGHT, POSE

LASH_VERTEX = (
    HEADER
    + POSE
    + """
in vec3 position;
in vec2 uv;
in vec3 rest;
in float weight;
out vec2 along;
out float lower;
void main() {
    along = uv;
    lower = step(rest.y, 3.35);
    gl_Position = view_projection * vec4(posed(position, weight), 1.0);
}
"""
)
LASH_FRAGMENT = (
    HEADER
    + """
in vec2 along;
in float lower;
out vec4 pixel;
uniform vec3 tint;
uniform float strength;
void main() {
    float hair = fract(along.x * 58.0 + 0.3 * sin(along.y * 5.0));
    pixel = vec4(tint, strength * (hair > 0.5 ? 0.25 : 0.85) * mix(1.0, 0.12, lower));
}
"""
)

# Hair is shaded per vertex: ribbons are thin, and this halves its cost. Two highlights of a strand (Kajiya and Kay).
HAIR_VERTEX = (
    HEADER
    + POSE
    + LIGHT
    + """
in vec3 position;
in vec3 offset;  // of strands that move with the expression; else zero
in vec3 strand;
in vec3 outward;
in float half_width;
in float shade;
in float occlusion;
in float weight;
uniform vec3 tint;
out vec3 shaded;
void main() {
    vec3 point = posed(position + offset, weight);
    vec3 tangent = normalize(turned(strand, weight));
    vec3 normal = normalize(turned(outward, weight));
    vec3 view = normalize(camera - point);
    vec3 albedo = linear(tint) * shade * shade;
    vec3 colour = 1.2 * albedo * sky(normal) * occlusion;
    for (int i = 0; i < 3; i++) {
        vec3 towards = light_direction[i];
        float along = dot(tangent, towards);
        float wrap = clamp((dot(normal, towards) + 0.45) / 1.45, 0.0, 1.0);
        float diffuse = sqrt(max(1.0 - along * along, 0.0)) * wrap;
        vec3 halfway = normalize(towards + view);
        float first = dot(normalize(tangent + normal * 0.36 * (shade - 0.9)), halfway);
        float second = dot(normalize(tangent - normal * 0.12), halfway);
        float sharp = pow(max(1.0 - first * first, 0.0), 60.0);
        float broad = pow(max(1.0 - second * second, 0.0), 18.0);
        float reached = clamp((dot(normal, towards) + 0.2) * 1.2, 0.0, 1.0);
        vec3 glints = reached * (0.045 * sharp * shade + 0.5 * broad * albedo);
        colour += light_colour[i] * occlusion * (1.1 * albedo * diffuse + glints);
    }
    shaded = film(colour);
    point += normalize(cross(tangent, view) + 1e-4) * half_width;
    gl_Position = view_projection * vec4(point, 1.0);
}
"""
)
HAIR_FRAGMENT = HEADER + "in vec3 shaded;\nout vec4 pixel;\nvoid main() { pixel = vec4(shaded, 1.0); }\n"
