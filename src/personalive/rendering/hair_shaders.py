"""GLSL of lashes and strands of hair."""

from __future__ import annotations

from personalive.rendering.shaders import HEADER, LIGHT, POSE

LASH_VERTEX = (
    HEADER
    + POSE
    + """
in vec3 position;
in vec2 uv;
in float weight;
out vec2 along;
void main() {
    along = uv;
    gl_Position = view_projection * vec4(posed(position, weight), 1.0);
}
"""
)
# The face model's lashes are six strips one above the other in uv: three of the lower lid, then three of the upper lid,
# each with its tips at the lower v.
LASH_FRAGMENT = (
    HEADER
    + """
in vec2 along;
out vec4 pixel;
uniform vec3 tint;
uniform float strength;
void main() {
    float strip = (along.y - 0.012) / 0.1668;
    float from_tip = clamp(fract(strip) / 0.84, 0.0, 1.0);
    bool upper = strip > 3.0;
    float place = along.x * (upper ? 62.0 : 44.0) + 0.37 * floor(strip);
    float chance = fract(sin(floor(place) * 12.9898 + floor(strip) * 78.233) * 43758.5453);
    float root = clamp((from_tip - 0.45 * chance) / (1.0 - 0.45 * chance), 0.0, 1.0);  // some are shorter
    float aside = abs(fract(place) - 0.5 + 0.5 * (chance - 0.5) * (1.0 - from_tip)) * 2.0;
    float width = 0.9 * sqrt(root);  // pointed
    float hair = smoothstep(width, width - 0.45, aside) * smoothstep(0.0, 0.25, root);
    hair = max(hair, 0.8 * smoothstep(0.8, 1.0, from_tip));  // roots stand close
    pixel = vec4(tint, strength * hair * (upper ? 0.8 : 0.22));
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
