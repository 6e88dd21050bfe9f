"""GLSL that draws, instead of colours, where in another frame of the same person each pixel is seen."""

from __future__ import annotations

from personalive.rendering.shaders import POSE, UNDER_SHIRT

_VERTEX = (
    "#version 330\n"
    + POSE
    + """
uniform mat3 reference_rotation;
uniform vec3 reference_shift;
in vec3 position;
in float weight;
out vec3 there;  // the same point of the person in the reference frame, world cm
out vec3 rest_point;
vec3 turned_there(vec3 direction, float weight) { return mix(direction, reference_rotation * direction, weight); }
vec3 posed_there(vec3 point, float weight) {
    return turned_there(point - neck_pivot, weight) + neck_pivot + reference_shift * mix(shoulder_share, 1.0, weight);
}
"""
)
HEAD_VERTEX = (
    _VERTEX
    + """
in vec3 position_there;
in vec3 rest;
void main() {
    rest_point = rest;
    there = posed_there(position_there, weight);
    gl_Position = view_projection * vec4(posed(position, weight), 1.0);
}
"""
)
EYE_VERTEX = (
    _VERTEX
    + """
in vec3 position_there;
in vec3 rest;
in float side;
uniform vec3 eye_centre[2];
uniform mat3 carry[2];  // from where an iris is in this frame to where it is in the reference
uniform float eye_scale;  // of this person's eyes, over the mean head's
uniform float pushed_back[2];
uniform float pushed_back_there[2];
void main() {
    int eye = int(side + 0.5);
    rest_point = rest;
    vec3 offset = rest - eye_centre[eye];
    vec3 moved = offset.z > 0.6 ? carry[eye] * offset - offset : vec3(0.0);  // the ball's back is never seen
    there = posed_there(position_there + eye_scale * moved - vec3(0.0, 0.0, pushed_back_there[eye]), weight);
    gl_Position = view_projection * vec4(posed(position - vec3(0.0, 0.0, pushed_back[eye]), weight), 1.0);
}
"""
)
SURFACE_VERTEX = (
    _VERTEX
    + """
void main() {
    rest_point = position;
    there = posed_there(position, weight);
    gl_Position = view_projection * vec4(posed(position, weight), 1.0);
}
"""
)
STRANDS_VERTEX = (
    _VERTEX
    + """
in vec3 offset;
in vec3 offset_there;
in vec3 strand;
in float half_width;
uniform vec3 camera;
vec3 sideways(vec3 tangent, vec3 point) {
    return normalize(cross(normalize(tangent), normalize(camera - point)) + 1e-4) * half_width;
}
void main() {
    rest_point = vec3(0.0);
    vec3 point = posed(position + offset, weight);
    there = posed_there(position + offset_there, weight);
    there += sideways(turned_there(strand, weight), there);
    gl_Position = view_projection * vec4(point + sideways(turned(strand, weight), point), 1.0);
}
"""
)
FRAGMENT = (
    "#version 330\n"
    + UNDER_SHIRT
    + """
in vec3 there;
in vec3 rest_point;
uniform mat4 view_projection;
uniform vec3 camera;
uniform float part;
uniform bool skin;
uniform float mouth_part;
out vec4 value;
void main() {
    if (skin && under_shirt(rest_point)) discard;
    bool inside_mouth = skin && rest_point.z < 9.65 && abs(rest_point.x) < 2.7 && rest_point.y < -2.5
                     && rest_point.y > -4.7;
    vec4 clip = view_projection * vec4(there, 1.0);
    value = vec4(clip.x / clip.w, -clip.y / clip.w, camera.z - there.z, inside_mouth ? mouth_part : part);
}
"""
)
