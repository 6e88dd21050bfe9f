"""GLSL of the renderer. Colours arrive in sRGB and are shaded in linear light; distances are centimetres."""

from __future__ import annotations

HEADER = "#version 330\n"

# Same arithmetic as ground_truth.apply_pose.
POSE = """
uniform mat4 view_projection;
uniform mat3 head_rotation;
uniform vec3 neck_pivot;
uniform vec3 head_shift;
uniform float shoulder_share;
vec3 posed(vec3 point, float weight) {
    vec3 offset = point - neck_pivot;
    return mix(offset, head_rotation * offset, weight) + neck_pivot + head_shift * mix(shoulder_share, 1.0, weight);
}
vec3 turned(vec3 direction, float weight) { return mix(direction, head_rotation * direction, weight); }
"""

LIGHT = """
uniform vec3 light_direction[3];
uniform vec3 light_colour[3];
uniform vec3 sky_above;
uniform vec3 sky_below;
uniform vec3 camera;
uniform mat4 light_view;
uniform sampler2DShadow shadow_map;
vec3 linear(vec3 srgb) { return srgb * srgb; }
vec3 sky(vec3 normal) { return mix(sky_below, sky_above, normal.y * 0.5 + 0.5); }
float key_visibility(vec3 point, vec3 normal) {
    vec3 place = (light_view * vec4(point + normal * 0.13, 1.0)).xyz * 0.5 + 0.5;
    place.z -= 0.0025;
    return 0.5 * texture(shadow_map, place + vec3(0.0022, 0.0011, 0.0))
         + 0.5 * texture(shadow_map, place - vec3(0.0022, 0.0011, 0.0));
}
vec3 film(vec3 light) {  // soft shoulder above 0.75, then display gamma 2
    light = light / (1.0 + max(light - 0.75, 0.0) * 0.65);
    return sqrt(clamp(light, 0.0, 1.0));
}
"""

SHADOW_VERTEX = (
    HEADER
    + POSE
    + """
in vec3 position;
in float weight;
void main() { gl_Position = view_projection * vec4(posed(position, weight), 1.0); }
"""
)
SHADOW_FRAGMENT = HEADER + "void main() {}\n"

OCCLUSION_VERTEX = (
    HEADER
    + """
in vec3 position;
uniform mat4 view;
void main() { gl_Position = view * vec4(position, 1.0); }
"""
)

SURFACE_VERTEX = (
    HEADER
    + POSE
    + """
in vec3 position;
in vec3 normal;
in vec3 rest;
in float weight;
in float occlusion;
out vec3 world_point, world_normal, rest_point;
out float open_sky;
void main() {
    rest_point = rest;
    open_sky = occlusion;
    world_point = posed(position, weight);
    world_normal = turned(normal, weight);
    gl_Position = view_projection * vec4(world_point, 1.0);
}
"""
)

UNDER_SHIRT = """
uniform float collar;
bool under_shirt(vec3 rest) {
    vec2 around = vec2(rest.x, rest.z + 0.8);
    float front = around.y / max(length(around), 0.01);
    float edge = collar - 1.5 * front - 0.7 * max(front, 0.0) * max(front, 0.0);
    return rest.y < edge - 1.0 || (rest.y < edge + 1.0 && length(around) > 6.2);
}
"""

SKIN_FRAGMENT = (
    HEADER
    + LIGHT
    + UNDER_SHIRT
    + """
in vec3 world_point, world_normal, rest_point;
in float open_sky;
out vec4 pixel;
uniform sampler2D paint;
uniform float paint_level;
uniform float bump_strength;
uniform float gloss;
const vec3 SCATTER = vec3(0.36, 0.19, 0.14);  // how far light bleeds past the shadow edge, per channel

vec2 wrapped(vec3 rest) { return vec2(atan(rest.x, rest.z + 2.0) / 6.2831853 + 0.5, (15.0 - rest.y) / 35.0); }

void main() {
    if (under_shirt(rest_point)) discard;
    vec2 place = wrapped(rest_point);
    vec4 texel = textureLod(paint, place, paint_level);
    vec3 albedo = linear(texel.rgb);
    vec3 smooth_normal = normalize(world_normal);
    vec3 view = normalize(camera - world_point);
    float texel_size = exp2(paint_level) / 1024.0;
    float slope_x = textureLod(paint, place + vec2(texel_size, 0.0), paint_level).a - texel.a;
    float slope_y = textureLod(paint, place + vec2(0.0, texel_size), paint_level).a - texel.a;
    vec3 tangent = normalize(cross(vec3(0.0, 1.0, 0.0), smooth_normal) + vec3(1e-4, 0.0, 0.0));
    vec3 normal = normalize(smooth_normal - bump_strength * (tangent * slope_x - vec3(0.0, 1.0, 0.0) * slope_y));
    float lit = key_visibility(world_point, smooth_normal);
    float sheltered = mix(1.0, open_sky, 0.85);

    // light that found its way into a crease is red
    vec3 colour = albedo * sky(normal) * pow(vec3(open_sky), vec3(0.85, 1.05, 1.1));
    for (int i = 0; i < 3; i++) {
        float facing = dot(normal, light_direction[i]);
        vec3 diffuse = clamp((facing + SCATTER) / (1.0 + SCATTER), 0.0, 1.0);
        diffuse *= 0.65 + 0.35 * diffuse;
        vec3 seen = vec3(i == 0 ? lit : sheltered);
        if (i == 0) seen = mix(vec3(0.11, 0.035, 0.02) * clamp(facing + 0.6, 0.0, 1.0), vec3(1.0), lit);
        colour += albedo * light_colour[i] * diffuse * seen * mix(1.0, open_sky, 0.5);
        vec3 halfway = normalize(light_direction[i] + view);
        float aligned = max(dot(normal, halfway), 0.0);
        float fresnel = 0.028 + 0.5 * pow(1.0 - max(dot(view, halfway), 0.0), 5.0);
        float sheen = 1.5 * pow(aligned, 14.0) + 1.9 * pow(aligned, 50.0);
        colour += light_colour[i] * seen * open_sky * gloss * fresnel * sheen * clamp(facing * 3.0, 0.0, 1.0);
    }
    float grazing = pow(1.0 - max(dot(normal, view), 0.0), 4.0);
    colour += albedo * sky_above * 0.12 * grazing * open_sky;
    // the inside of the mouth: behind the lips, between the corners
    float mouth = smoothstep(10.3, 9.0, rest_point.z) * step(abs(rest_point.x), 2.7)
                * step(rest_point.y, -2.5) * step(-4.7, rest_point.y);
    colour = mix(colour, colour * vec3(0.22, 0.10, 0.09), mouth);
    pixel = vec4(film(colour), 1.0);
}
"""
)

EYE_VERTEX = (
    HEADER
    + POSE
    + """
in vec3 position;
in vec3 normal;
in vec3 rest;
in float weight;
in float occlusion;
in float side;
uniform float pushed_back[2];
out vec3 world_point, world_normal, rest_point;
out float open_sky;
flat out int eye;
void main() {
    eye = int(side + 0.5);
    rest_point = rest;
    open_sky = occlusion;
    world_point = posed(position - vec3(0.0, 0.0, pushed_back[eye]), weight);
    world_normal = turned(normal, weight);
    gl_Position = view_projection * vec4(world_point, 1.0);
}
"""
)

EYE_FRAGMENT = (
    HEADER
    + LIGHT
    + """
in vec3 world_point, world_normal, rest_point;
in float open_sky;
flat in int eye;
out vec4 pixel;
uniform vec3 eye_centre[2];
uniform mat3 gaze_left;   // world to eye: takes the looking direction to +z
uniform mat3 gaze_right;
uniform vec3 iris_colour;
uniform float iris_radius;
uniform float pupil_radius;

void main() {
    vec3 offset = rest_point - eye_centre[eye];
    vec3 local = (eye == 0 ? gaze_left : gaze_right) * offset;
    float radius = local.z < 0.0 ? 2.0 : length(local.xy);
    float around = atan(local.y, local.x);
    vec3 normal = normalize(world_normal);
    vec3 view = normalize(camera - world_point);

    float fibres = 0.5 + 0.25 * sin(around * 41.0 + 2.5 * sin(around * 6.0)) + 0.25 * sin(around * 67.0 + radius * 8.0);
    vec3 iris = linear(iris_colour) * (0.8 + 0.8 * fibres * smoothstep(pupil_radius, iris_radius, radius));
    iris *= mix(1.5, 1.0, smoothstep(pupil_radius, iris_radius * 0.8, radius));
    iris *= 1.0 - 0.8 * smoothstep(iris_radius * 0.72, iris_radius, radius);  // limbus, the dark outer ring
    iris *= 1.0 + 0.7 * clamp(-dot(normalize(local.xy + 1e-4), normalize(light_direction[0].xy)), 0.0, 1.0);
    vec3 white = vec3(0.78, 0.755, 0.735) * mix(vec3(1.0), vec3(0.95, 0.74, 0.70), smoothstep(0.8, 1.35, abs(local.x)));
    vec3 albedo = mix(iris, white * white, smoothstep(iris_radius - 0.05, iris_radius + 0.07, radius));
    albedo = mix(vec3(0.004), albedo, smoothstep(pupil_radius - 0.03, pupil_radius + 0.03, radius));

    float lit = mix(0.35, 1.0, key_visibility(world_point, normal));
    float lid_shadow = mix(0.55, 1.0, smoothstep(0.75, 0.15, offset.y));
    vec3 colour = albedo * sky(normal) * 1.1;
    for (int i = 0; i < 2; i++) {
        float seen = i == 0 ? lit : 1.0;
        float facing = clamp((dot(normal, light_direction[i]) + 0.35) / 1.35, 0.0, 1.0);
        colour += 0.95 * albedo * light_colour[i] * facing * seen;
    }
    colour *= 0.88 * lid_shadow * mix(open_sky, 1.0, 0.25);
    // the line of tears along the lower lid, and the window that every wet eye mirrors
    colour += 0.10 * sky_above * smoothstep(-0.35, -0.6, offset.y) * (1.0 - smoothstep(0.9, 1.4, abs(local.x)));
    vec3 mirrored = reflect(-view, normal);
    vec2 window = abs(mirrored.xy - vec2(0.22 * sign(light_direction[0].x), 0.42)) - vec2(0.08, 0.11);
    float pane = 1.0 - smoothstep(-0.02, 0.03, max(window.x, window.y));
    colour += sky_above * (0.05 * max(mirrored.y, 0.0) + 0.16 * pane * step(0.0, mirrored.z));
    for (int i = 0; i < 2; i++) {
        float aligned = max(dot(normal, normalize(light_direction[i] + view)), 0.0);
        float glint = 1.8 * smoothstep(0.9915, 0.9965, aligned) + 0.04 * pow(aligned, 40.0);
        colour += light_colour[i] * glint * (i == 0 ? lit : 0.15);
    }
    pixel = vec4(film(colour), 1.0);
}
"""
)

MOUTH_FRAGMENT = (
    HEADER
    + LIGHT
    + """
in vec3 world_point, world_normal, rest_point;
in float open_sky;
out vec4 pixel;
uniform vec3 tint;
uniform float shine;
uniform float teeth;  // 1 for teeth, 0 for gums and tongue
uniform float mouth_gap;  // cm between the lips
void main() {
    vec3 normal = normalize(world_normal);
    vec3 view = normalize(camera - world_point);
    vec3 albedo = linear(tint);
    if (teeth > 0.5) {  // gaps between neighbours, yellower and pinker towards the gums
        float arc = atan(rest_point.x, rest_point.z - 6.5) * 3.6;
        float gap = abs(fract(arc / 0.8) - 0.5) * 0.8;
        albedo *= mix(0.35, 1.0, smoothstep(0.0, 0.07, gap));
        float middle = abs(rest_point.y + 3.3);
        albedo = mix(albedo, albedo * vec3(0.95, 0.72, 0.66), smoothstep(0.55, 1.0, middle));
        albedo *= rest_point.y < -3.4 ? 0.72 : 1.0;  // the lower row lies further back
    } else {
        float groove = smoothstep(0.0, 0.25, abs(rest_point.x)) * 0.25 + 0.75;
        float bumps = 0.94 + 0.06 * sin(rest_point.x * 23.0) * sin(rest_point.z * 19.0);
        albedo *= groove * bumps;
    }
    // daylight falls off towards the throat and behind the corners of the lips
    float depth = smoothstep(4.0, 10.4, rest_point.z);
    float reach = depth * depth * mix(0.45, 0.85, smoothstep(0.1, 1.6, mouth_gap));
    reach *= 0.45 + 0.55 * smoothstep(2.7, 1.0, abs(rest_point.x));
    vec3 colour = albedo * sky(normal) * 1.1;
    for (int i = 0; i < 3; i++) {
        float facing = dot(normal, light_direction[i]);
        colour += 0.8 * albedo * light_colour[i] * clamp((facing + 0.3) / 1.3, 0.0, 1.0);
        vec3 halfway = normalize(light_direction[i] + view);
        colour += 0.5 * shine * light_colour[i] * pow(max(dot(normal, halfway), 0.0), 50.0);
    }
    pixel = vec4(film(colour * reach), 1.0);
}
"""
)

CLOTH_FRAGMENT = (
    HEADER
    + LIGHT
    + """
in vec3 world_point, world_normal, rest_point;
in float open_sky;
out vec4 pixel;
uniform vec3 first_colour;
uniform vec3 second_colour;
uniform int pattern;  // 0 plain, 1 stripes, 2 open jacket, 3 buttoned, 4 hard, 5 knit, 6 checks, 7 flowers, 8 folds
uniform float stripes;
void main() {
    vec3 normal = normalize(world_normal);
    vec3 view = normalize(camera - world_point);
    vec3 albedo = linear(first_colour);
    float front = step(0.0, rest_point.z);
    if (pattern == 1) albedo = mix(albedo, linear(second_colour), step(0.5, fract(rest_point.y * stripes)));
    if (pattern == 2 && abs(rest_point.x) < 3.4 + 0.30 * (rest_point.y + 10.0) && front > 0.5)
        albedo = linear(second_colour);
    if (pattern == 3 && abs(rest_point.x) < 0.14 && front > 0.5) albedo *= 0.55;
    vec2 along = vec2(atan(rest_point.x, rest_point.z + 1.0) * 9.0, rest_point.y);  // cm around and up
    if (pattern == 5) {
        float stitch = 0.5 + 0.5 * sin(along.x * 6.5) * sin(along.y * 5.0 + 1.5 * sin(along.x * 6.5));
        albedo *= 0.55 + 0.6 * stitch;
    }
    if (pattern == 6) {
        vec2 cell = step(0.5, fract(along * stripes * 0.5));
        albedo = mix(albedo, linear(second_colour), 0.5 * (cell.x + cell.y));
    }
    if (pattern == 7) {
        vec2 cell = along * (0.4 + stripes * 0.5), inside = fract(cell) - 0.5, number = floor(cell);
        float chance = fract(sin(dot(number, vec2(12.9898, 78.233))) * 43758.5453);
        float petals = 0.26 + 0.10 * sin(5.0 * atan(inside.y, inside.x) + 6.28 * chance);
        float size = length(inside + 0.3 * (vec2(chance, fract(chance * 17.0)) - 0.5));
        vec3 petal = mix(linear(second_colour), linear(second_colour.gbr), step(size, 0.1));
        if (chance > 0.3 && size < petals) albedo = petal;
    }
    if (pattern == 8) {
        float fold = sin(along.x * 1.3 + along.y * 2.1 + 1.4 * sin(along.x * 0.7));
        albedo *= 0.8 + 0.25 * fold;
        albedo = mix(albedo, linear(second_colour), step(0.82, sin(along.y * stripes * 2.0 + along.x * 0.8)));
    }
    if (pattern < 4) albedo *= 0.94 + 0.06 * sin(rest_point.x * 21.0) * sin(rest_point.y * 21.0);
    float lit = key_visibility(world_point, normal);
    bool outside = dot(normal, view) > 0.0;  // by the normal: the triangles' winding differs between surfaces
    float inside = outside ? 1.0 : 0.4;
    if (!outside) normal = -normal;
    vec3 colour = albedo * sky(normal);
    for (int i = 0; i < 3; i++) {
        float seen = i == 0 ? lit : 1.0;
        colour += albedo * light_colour[i] * clamp((dot(normal, light_direction[i]) + 0.25) / 1.25, 0.0, 1.0) * seen;
        float aligned = max(dot(normal, normalize(light_direction[i] + view)), 0.0);
        if (pattern == 4) colour += 0.35 * light_colour[i] * pow(aligned, 40.0) * seen;
    }
    pixel = vec4(film(colour * inside), 1.0);
}
"""
)

BACKGROUND_VERTEX = (
    HEADER
    + """
in vec2 corner;
out vec2 place;
void main() { place = vec2(corner.x, -corner.y) * 0.5 + 0.5; gl_Position = vec4(corner, 0.99999, 1.0); }
"""
)
BACKGROUND_FRAGMENT = (
    HEADER
    + """
in vec2 place;
out vec4 pixel;
uniform sampler2D picture;
void main() { pixel = vec4(texture(picture, place).rgb, 1.0); }
"""
)
