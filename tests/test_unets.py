"""The two UNets: the published numbers, the published names, and what may influence what."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from parity_fill import DEVICE, fill, golden, official_rows, relative_error, standard_normal
from personalive.config import MINI, OFFICIAL, SMALL, TOY, ModelConfig, UNetConfig
from personalive.contracts import Keyframes, KeyValues, MotionSignals
from personalive.errors import ConfigError
from personalive.models.denoising_unet import DenoisingUNet
from personalive.models.reference_unet import ReferenceUNet
from personalive.models.temporal import MotionModule

# Of the 1820 official entries these are the motion modules' and the temporal modules': 21 layers of each.
LAYERS_WITH_MODULES = 21


class Scene:
    """Two fresh UNets with every parameter random (zero-initialised layers too), and inputs for `sessions`."""

    def __init__(self, config: ModelConfig, sessions: int = 2, frames: int = 4, slots: int = 2, seed: int = 0) -> None:
        torch.manual_seed(seed)
        unet, side = config.unet, config.latent_size
        self.config, self.sessions, self.frames = config, sessions, frames
        self.reference_unet, self.denoising_unet = ReferenceUNet(unet).eval(), DenoisingUNet(unet).eval()
        for module in (self.reference_unet, self.denoising_unet):
            for name, parameter in module.named_parameters():
                if "norm" not in name:
                    nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
        pose = torch.randn(sessions, unet.channels[0], side, side) if unet.reference_pose else None
        self.pose = pose
        self.picture = torch.randn(sessions, unet.latent_channels, side, side)
        self.token = torch.randn(sessions, 1, unet.image_token_dim)
        self.latents = torch.randn(sessions, frames, unet.latent_channels, side, side)
        self.timesteps = torch.arange(frames).repeat(sessions, 1) * 100
        motion = torch.randn(sessions, frames, unet.motion_tokens, unet.motion_dim)
        self.signals = MotionSignals(motion, torch.randn(sessions, frames, unet.channels[0], side, side))
        self.features = self.reference_unet(self.picture, self.token, pose)
        self.reference = self.denoising_unet.project(self.features)
        self.slots = KeyValues(
            tuple(torch.randn(sessions, slots, *k.shape[1:]) for k in self.reference.keys),
            tuple(torch.randn(sessions, slots, *v.shape[1:]) for v in self.reference.values),
        )

    def keyframes(self, used: list[list[bool]]) -> Keyframes:
        return Keyframes(self.slots, torch.tensor(used))

    def predict(
        self,
        keyframes: Keyframes | None = None,
        latents: Tensor | None = None,
        signals: MotionSignals | None = None,
        chunk_frames: int | None = None,
        temporal: bool = True,
    ) -> Tensor:
        result: Tensor = self.denoising_unet(
            self.latents if latents is None else latents,
            self.timesteps,
            self.token,
            signals or self.signals,
            self.reference,
            keyframes,
            chunk_frames,
            temporal,
        )
        return result


@pytest.fixture(scope="module")
def scene() -> Scene:
    with torch.no_grad():
        return Scene(TOY)


def official(part: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape, _ in official_rows(part)}


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


# --- the published numbers ---


@torch.no_grad()
def test_small_unets_reproduce_the_published_numbers() -> None:
    expected = golden("unet_small")
    reference_unet, denoising_unet = ReferenceUNet(SMALL.unet), DenoisingUNet(SMALL.unet)
    fill(reference_unet, "small_reference_unet")
    fill(denoising_unet, "small_denoising_unet")
    token = expected["image_embeds"]

    features = reference_unet(expected["reference_latents"], token)
    names = {id(module): name for name, module in reference_unet.named_modules()}
    stored = [name for name in expected if name.startswith("ref_feature.")]
    assert len(features) == len(stored) == 16
    for transformer, feature in zip(reference_unet.transformers(), features, strict=True):
        # Every fourth token and channel is stored.
        name = "ref_feature." + names[id(transformer.block)]
        assert relative_error(feature[:, ::4, ::4], expected[name]) < 1e-4, name

    reference = denoising_unet.project(features)
    slots = denoising_unet.project(reference_unet(expected["keyframe_latents"], token.expand(2, -1, -1)))
    signals = MotionSignals(expected["motion"], expected["pose_features"].transpose(1, 2))
    sample, timesteps = expected["sample"].transpose(1, 2), expected["timesteps"][None]
    for count, name in enumerate(["noise_pred", "noise_pred_1_keyframes", "noise_pred_2_keyframes"]):
        key_values = KeyValues(tuple(k[None] for k in slots.keys), tuple(v[None] for v in slots.values))
        keyframes = Keyframes(key_values, torch.arange(2)[None] < count)
        prediction = denoising_unet(sample, timesteps, token, signals, reference, keyframes)
        assert relative_error(prediction.transpose(1, 2), expected[name]) < 1e-4, name
    assert relative_error(expected["noise_pred_1_keyframes"], expected["noise_pred"]) > 1e-3, "keyframes do matter"


@pytest.mark.slow
@torch.no_grad()
def test_production_unets_reproduce_the_published_numbers() -> None:
    """About 8 GB and some minutes on two cores."""
    expected = golden("unet_full")
    token = standard_normal(21, 1, 1, 768)
    features = []
    reference_unet = ReferenceUNet(OFFICIAL.unet)
    fill(reference_unet, "reference_unet")
    for seed in (20, 25):
        features.append(reference_unet(standard_normal(seed, 1, 4, 16, 16), token))
    del reference_unet
    denoising_unet = DenoisingUNet(OFFICIAL.unet)
    fill(denoising_unet, "denoising_unet")
    reference, keyframe = (denoising_unet.project(f) for f in features)
    pose = 0.2 * standard_normal(23, 1, 320, 16, 16, 16)
    signals = MotionSignals(standard_normal(22, 1, 16, 32, 16), pose.transpose(1, 2))
    sample = standard_normal(24, 1, 4, 16, 16, 16).transpose(1, 2)
    timesteps = torch.tensor([0, 333, 666, 999], device=DEVICE).repeat_interleave(4)[None]
    slots = KeyValues(tuple(k[None] for k in keyframe.keys), tuple(v[None] for v in keyframe.values))
    for used, name in ((False, "noise_pred"), (True, "noise_pred_1_keyframe")):
        keyframes = Keyframes(slots, torch.tensor([[used]]))
        prediction = denoising_unet(sample, timesteps, token, signals, reference, keyframes)
        error = relative_error(prediction.transpose(1, 2), expected[name])
        print(f"{name}: relative L2 error {error:.2e}")
        assert error < 1e-4, name


# --- the published names ---


@pytest.mark.parametrize(
    ("config", "prefix"), [(OFFICIAL.unet, ""), (SMALL.unet, "small_")], ids=["production", "small"]
)
def test_names_and_shapes_are_the_published_ones(config: UNetConfig, prefix: str) -> None:
    with torch.device("meta"):
        reference_unet, denoising_unet = ReferenceUNet(config), DenoisingUNet(config)
    assert shapes(reference_unet) == official(prefix + "reference_unet")
    assert shapes(denoising_unet) == official(prefix + "denoising_unet")


def test_the_denoising_unet_is_the_reference_unets_names_and_an_output_head_and_modules() -> None:
    """So that each of the published files can be told apart by name: temporal_modules are temporal_module.pth's."""
    reference, denoising = official("reference_unet"), official("denoising_unet")
    head = {name for name in denoising if name.startswith(("conv_norm_out.", "conv_out."))}
    motion = {name for name in denoising if ".motion_modules." in name}
    temporal = {name for name in denoising if ".temporal_modules." in name}
    assert set(denoising) == set(reference) | head | motion | temporal
    assert (len(head), len(motion), len(temporal)) == (4, 26 * LAYERS_WITH_MODULES, 28 * LAYERS_WITH_MODULES)
    assert all(name.endswith("pos_encoder.pe") for name in temporal if official_kind(name) == "computed")
    assert all(denoising[name] == shape for name, shape in reference.items())


def official_kind(name: str) -> str:
    return next(kind for row, _, kind in official_rows("denoising_unet") if row == name)


# --- what may influence what ---


@torch.no_grad()
def test_unused_keyframe_slots_have_no_influence(scene: Scene) -> None:
    none = scene.predict()
    assert torch.equal(scene.predict(scene.keyframes([[False, False], [False, False]])), none)
    mixed = scene.predict(scene.keyframes([[False, True], [False, False]]))
    garbage = KeyValues(
        tuple(k + 1e3 * ~scene_used(k) for k in scene.slots.keys),
        tuple(v - 1e3 * ~scene_used(v) for v in scene.slots.values),
    )
    used = torch.tensor([[False, True], [False, False]])
    torch.testing.assert_close(scene.predict(Keyframes(garbage, used)), mixed, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[1], none[1], rtol=1e-4, atol=1e-4)
    assert relative_error(mixed[0], none[0]) > 1e-3, "a used slot does have influence"


def scene_used(slots: Tensor) -> Tensor:
    """The mask of the test above, to multiply (B, S, heads, n, d)."""
    return torch.tensor([[False, True], [False, False]]).reshape(2, 2, *[1] * (slots.dim() - 2))


@torch.no_grad()
def test_a_session_does_not_depend_on_its_neighbour(scene: Scene) -> None:
    together = scene.predict(scene.keyframes([[True, False], [True, True]]))
    for b, used in enumerate([[True, False], [True, True]]):
        one = slice(b, b + 1)

        def only(values: KeyValues, one: slice = one) -> KeyValues:
            return KeyValues(tuple(k[one] for k in values.keys), tuple(v[one] for v in values.values))

        alone = scene.denoising_unet(
            scene.latents[one],
            scene.timesteps[one],
            scene.token[one],
            MotionSignals(scene.signals.motion[one], scene.signals.pose[one]),
            only(scene.reference),
            Keyframes(only(scene.slots), torch.tensor([used])),
        )
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_temporal_modules_frames_are_independent(scene: Scene) -> None:
    changed = scene.latents.clone()
    changed[0, 2] += 1.0
    difference = (scene.predict(latents=changed, temporal=False) - scene.predict(temporal=False)).abs().amax((2, 3, 4))
    assert difference[0, 2] > 1e-3
    difference[0, 2] = 0
    assert difference.max() < 1e-5
    with_temporal = (scene.predict(latents=changed) - scene.predict()).abs().amax((2, 3, 4))
    assert (with_temporal[0] > 1e-4).all()
    assert with_temporal[1].max() < 1e-5


@torch.no_grad()
def test_chunk_attention_blocks_leakage_between_chunks(scene: Scene) -> None:
    changed = scene.latents.clone()
    changed[0, 3] += 1.0
    difference = scene.predict(latents=changed, chunk_frames=2) - scene.predict(chunk_frames=2)
    by_frame = difference[0].abs().amax((1, 2, 3))
    assert (by_frame[2:] > 1e-4).all()
    assert by_frame[:2].max() < 1e-5


@torch.no_grad()
def test_motion_pose_timestep_token_and_reference_each_matter(scene: Scene) -> None:
    usual = scene.predict()
    signals = scene.signals
    assert relative_error(scene.predict(signals=MotionSignals(signals.motion + 1, signals.pose)), usual) > 1e-3
    assert relative_error(scene.predict(signals=MotionSignals(signals.motion, signals.pose + 1)), usual) > 1e-3
    unet = scene.denoising_unet
    rest = (signals, scene.reference)
    assert relative_error(unet(scene.latents, scene.timesteps + 300, scene.token, *rest), usual) > 1e-3
    assert relative_error(unet(scene.latents, scene.timesteps, scene.token + 1, *rest), usual) > 1e-3
    other = unet.project([feature.flip(1) + 0.5 for feature in scene.features])
    assert relative_error(unet(scene.latents, scene.timesteps, scene.token, signals, other), usual) > 1e-3


def test_gradients_reach_both_unets_through_project() -> None:
    scene = Scene(TOY)
    torch.autograd.backward(scene.predict(scene.keyframes([[True, False], [False, False]])).square().mean())
    for unet in (scene.denoising_unet, scene.reference_unet):
        missing = {name for name, p in unet.named_parameters() if p.grad is None and not any(u in name for u in UNUSED)}
        after = {f"{LAST}.{name}" for name in ("attn1.", "attn2.", "ff.", "norm3.")} | {
            "up_blocks.1.attentions.1.proj_out."
        }
        if unet is scene.reference_unet:  # the pass ends at the last block's norm1
            missing = {name for name in missing if not any(name.startswith(a) for a in after)}
        assert not missing, missing
    for transformer in scene.denoising_unet.transformers():
        for projection in (transformer.block.attn1.to_k, transformer.block.attn1.to_v):
            assert projection.weight.grad is not None
            assert projection.weight.grad.abs().max() > 0


# Attention to a single token needs neither queries nor keys: see Attention.over_one_key.
LAST = "up_blocks.1.attentions.1.transformer_blocks.0"
UNUSED = (".attn2.to_q.", ".attn2.to_k.", ".norm2.weight", ".norm2.bias")


def test_project_alone_carries_gradient_to_keys_and_values() -> None:
    scene = Scene(TOY)
    projected = scene.denoising_unet.project([feature.detach() for feature in scene.features])
    torch.autograd.backward([t.square().mean() for t in (*projected.keys, *projected.values)])
    touched = {name.split(".attn1.")[1] for name, p in scene.denoising_unet.named_parameters() if p.grad is not None}
    assert touched == {"to_k.weight", "to_v.weight"}


def test_project_names_a_wrong_number_of_features(scene: Scene) -> None:
    with pytest.raises(ValueError, match="transformer blocks"):
        scene.denoising_unet.project(scene.features[:-1])


# --- sizes and switches ---


@torch.no_grad()
def test_every_combination_of_levels_builds_and_runs() -> None:
    flags = list(itertools.product([False, True], repeat=2))
    for attention, motion, temporal in itertools.product(flags, flags, flags):
        unet = replace(TOY.unet, attention_levels=attention, motion_levels=motion, temporal_levels=temporal)
        scene = Scene(replace(TOY, unet=unet), sessions=1, frames=2)
        places = 1 + sum((2 * unet.layers + 1) * flag for flag in attention)
        assert len(scene.features) == places
        prediction = scene.predict(scene.keyframes([[True, False]]))
        assert prediction.shape == scene.latents.shape
        assert bool(prediction.isfinite().all())
        names = set(shapes(scene.denoising_unet))
        for kind, levels in (("motion_modules", motion), ("temporal_modules", temporal), ("attentions", attention)):
            present = {name.split(".")[1] for name in names if name.startswith("down_blocks.") and f".{kind}." in name}
            assert present == {str(level) for level in range(2) if levels[level]}


@torch.no_grad()
@pytest.mark.parametrize("config", [MINI, TOY, SMALL], ids=lambda config: config.name)
def test_sizes_run(config: ModelConfig) -> None:
    scene = Scene(replace(config, image_size=128), sessions=1, frames=2)
    prediction = scene.predict(scene.keyframes([[True, True]]))
    assert prediction.shape == scene.latents.shape
    assert bool(prediction.isfinite().all())


def test_the_built_in_unets_fit_their_budget() -> None:
    """The whole built-in model must stay below 8 M parameters (16 MB in float16)."""
    with torch.device("meta"):
        count = sum(p.numel() for unet in (ReferenceUNet, DenoisingUNet) for p in unet(MINI.unet).parameters())
    assert count < 5.1e6


@torch.no_grad()
def test_motion_in_time_starts_as_nothing_and_then_matters() -> None:
    torch.manual_seed(0)
    config = replace(TOY, unet=replace(TOY.unet, motion_in_time=True, motion_levels=(False, False)))
    fresh = DenoisingUNet(config.unet)
    assert not any(float(p.abs().max()) for p in fresh.motion_embedding[2].parameters())
    scene = Scene(config, sessions=1)
    for module in scene.denoising_unet.modules():
        if isinstance(module, MotionModule):  # leave the time embedding as the only way in
            nn.init.zeros_(module.temporal_transformer.proj_out.weight)
    changed = MotionSignals(scene.signals.motion + torch.randn_like(scene.signals.motion), scene.signals.pose)
    assert relative_error(scene.predict(signals=changed), scene.predict()) > 1e-3
    assert not any(name.startswith("motion_embedding") for name in shapes(DenoisingUNet(TOY.unet)))


def test_reference_pose_is_given_exactly_when_configured() -> None:
    plain, posed = ReferenceUNet(TOY.unet), ReferenceUNet(replace(TOY.unet, reference_pose=True))
    latents, token, pose = torch.randn(1, 4, 4, 4), torch.randn(1, 1, 8), torch.randn(1, 8, 4, 4)
    with pytest.raises(ConfigError, match="given"):
        plain(latents, token, pose)
    with pytest.raises(ConfigError, match="missing"):
        posed(latents, token)
    assert not torch.allclose(posed(latents, token, pose)[0], posed(latents, token, 2 * pose)[0])


@torch.no_grad()
def test_the_reference_pass_stops_at_the_last_feature(scene: Scene) -> None:
    calls: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in scene.reference_unet.named_modules()
    ]
    features = scene.reference_unet(scene.picture, scene.token)
    for handle in handles:
        handle.remove()
    last = [name for name in calls if name.endswith("norm1") and ".transformer_blocks." in name][-1]
    after = calls[calls.index(last) + 1 :]
    assert not [name for name in after if not last.startswith(name)], (
        "only what encloses the last norm1 returns after it"
    )
    assert len(features) == scene.reference_unet.attention_count


@torch.no_grad()
def test_exported_program_agrees_with_eager() -> None:
    """The static path: every slot that is passed stays, masked."""
    scene = Scene(TOY, sessions=1, frames=2)

    class Window(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = scene.denoising_unet

        def forward(self, latents: Tensor, used: Tensor) -> Tensor:
            keyframes = Keyframes(scene.slots, used)
            result: Tensor = self.unet(latents, scene.timesteps, scene.token, scene.signals, scene.reference, keyframes)
            return result

    program = torch.export.export(Window(), (scene.latents, torch.tensor([[True, False]])))
    for used in ([[True, False]], [[False, False]], [[True, True]]):
        exported = program.module()(scene.latents, torch.tensor(used))
        torch.testing.assert_close(exported, scene.predict(scene.keyframes(used)), rtol=1e-4, atol=1e-4)
