from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from made_up_people import corpus, toy_config
from personalive.config import override
from personalive.contracts import Networks
from personalive.errors import ConfigError
from personalive.training.autoencoder_stage import AutoencoderStage
from personalive.training.discriminator import Discriminator
from personalive.training.image_stage import ImageStage
from personalive.training.judgement import adversarial
from personalive.training.loop import RunOptions, train
from personalive.training.losses import pixel_loss
from personalive.training.motion_stage import MotionStage
from personalive.training.perceptual import choose_perceptual
from personalive.training.recipe import Recipe, load_recipe
from personalive.training.rollout_stage import RolloutStage
from personalive.training.run import assemble, start_from
from personalive.training.stream_stage import StreamStage

CPU = torch.device("cpu")


def quick(changes: dict[str, Any] | None = None) -> Recipe:
    """The default recipe with two steps of two references a stage."""
    recipe = load_recipe(None, changes or {})
    stages = {}
    for field in dataclasses.fields(recipe):
        stage = getattr(recipe, field.name)
        batch = 4 if field.name == "motion" else 2  # whole people
        optimisation = dataclasses.replace(stage.optimisation, steps=2, batch=batch, warmup=1, precision="float32")
        stages[field.name] = dataclasses.replace(stage, optimisation=optimisation)
    return dataclasses.replace(recipe, **stages)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which every stage has made two steps."""
    folder = tmp_path_factory.mktemp("run")
    config, recipe, people, held_out = toy_config(), quick(), corpus(), corpus(2, seed=1)
    options = RunOptions(folder)
    assert train(AutoencoderStage(config, recipe.autoencoder, people, held_out), options).figures["l1"] > 0
    assert train(MotionStage(config, recipe.motion, people, held_out), options).figures["yaw_deg"] > 0
    assert train(ImageStage(config, recipe.image, folder, people, held_out), options).figures["copy"] > 0
    assert train(RolloutStage(config, recipe.rollout, folder, people, held_out), options).figures["one_step"] > 0
    return folder


def test_the_stream_stage_changes_temporal_modules_only(run: Path) -> None:
    config, people, held_out = toy_config(), corpus(), corpus(2, seed=1)
    stage = StreamStage(config, quick().stream, run, people, held_out)
    before = {k: v.clone() for k, v in stage.model.denoising_unet.state_dict().items()}
    assert train(stage, RunOptions(run)).figures["latent_l1"] > 0
    after = stage.model.denoising_unet.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all("temporal_modules" in k for k in changed)
    networks = assemble(config, run)
    loaded = networks.denoising_unet.state_dict()
    assert all(torch.isfinite(v).all() for v in loaded.values())
    assert not any(p.requires_grad for p in networks.denoising_unet.parameters())
    for name in ("autoencoder", "image", "rollout", "stream"):
        assert (run / f"{name}.png").exists()
    (run / "stream.checkpoint").unlink()


@pytest.mark.parametrize("true_start", [0.0, 1.0])
def test_a_clip_is_worth_three_updates_and_keyframes_come_into_play(run: Path, true_start: float) -> None:
    recipe = quick({"stream.true_start": true_start, "stream.judgement.perceptual": 0.0}).stream
    stage = StreamStage(toy_config(), recipe, run, corpus(), corpus(2, seed=1))
    for parameter in stage.model.parameters():
        parameter.requires_grad_(False)
    seen = [bool(losses["loss"] > 0) for losses in stage.losses(random.Random(0), 0)]
    assert seen == [True, True, True]


def test_with_true_latents_the_window_holds_the_truth(run: Path) -> None:
    """The oldest chunk's level has no noise: what `forget` puts there is the truth itself."""
    from personalive.training.stream_stage import _Clips

    recipe = quick().stream
    stage = StreamStage(toy_config(), recipe, run, corpus(), corpus(2, seed=1))
    clips = _Clips(stage, stage.train, [0, 1], 3, true_start=True)
    with torch.no_grad():
        clips.slide()
        clips.forget()
    chunk = stage.config.stream.chunk_frames
    truth = clips.true_latents(clips._frames(chunk, chunk))
    assert torch.allclose(clips.state.latents[:, :chunk], truth, atol=0.15)
    assert not torch.allclose(clips.state.latents[:, -chunk:], clips.true_latents(clips._frames(3 * chunk, chunk)))


def test_checkpointing_changes_no_gradient(run: Path) -> None:
    found = []
    for checkpointing in (False, True):
        recipe = quick({"image.optimisation.checkpointing": checkpointing}).image
        torch.manual_seed(0)
        stage = ImageStage(toy_config(), recipe, run, corpus(), corpus(2, seed=1))
        torch.manual_seed(1)
        next(stage.losses(random.Random(0), 0))["loss"].backward()  # type: ignore[no-untyped-call]
        found.append({n: p.grad for n, p in stage.model.named_parameters() if p.grad is not None})
    plain, again = found
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert gradient is not None
        assert torch.allclose(gradient, again[name], atol=1e-6), name


def test_a_window_of_two_levels_is_trained_by_the_default_recipe(run: Path) -> None:
    """Its odds are those of the noisiest levels, and every level that is drawn is the window's."""
    config = override(toy_config(), {"stream.levels": 2})
    recipe = load_recipe(None, {}).image
    stage = ImageStage(config, quick().image, run, corpus(), corpus(2, seed=1))
    assert stage.odds.tolist() == pytest.approx(list(recipe.level_odds[-2:]))
    for _ in range(4):
        assert torch.isfinite(next(stage.losses(random.Random(0), 0))["loss"])


def test_the_motion_encoder_can_learn_with_the_denoiser(run: Path, tmp_path: Path) -> None:
    for part in ("autoencoder", "motion"):
        (tmp_path / f"{part}.safetensors").write_bytes((run / f"{part}.safetensors").read_bytes())
    recipe = quick({"image.motion_encoder": True})
    stage = ImageStage(toy_config(), recipe.image, tmp_path, corpus(), corpus(2, seed=1))
    before = {k: v.clone() for k, v in stage.frozen.motion_encoder.state_dict().items()}
    train(stage, RunOptions(tmp_path))
    after = stage.frozen.motion_encoder.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    later = RolloutStage(toy_config(), recipe.rollout, tmp_path, corpus(), corpus(2, seed=1))
    for name, tensor in later.frozen.motion_encoder.state_dict().items():
        # The file has the averaged weights, which move with every step too.
        assert tensor.shape == after[name].shape
    assert any(not torch.equal(before[k], v) for k, v in later.frozen.motion_encoder.state_dict().items())


def test_ablations_are_config_overrides(run: Path) -> None:
    for changes in (
        {"stream.keyframes": 0},
        {"stream.motion_interpolated_start": False},
        {"stream.chunk_frames": 2},
        {"stream.chunk_attention": True},
    ):
        config = override(toy_config(), changes)
        stage = StreamStage(config, quick().stream, run, corpus(), corpus(2, seed=1))
        assert len(list(stage.losses(random.Random(0), 0))) == 3, changes


def test_frames_of_a_reference_meet_the_noise_that_streams_have_in_common(run: Path) -> None:
    config = override(toy_config(), {"stream.common_noise": 1.0})
    stage = RolloutStage(config, quick().rollout, run, corpus(), corpus(2, seed=1))
    start = stage.start(stage.draw(random.Random(0)))  # (B, F, C, h, w), of one reference's latents each
    assert torch.equal(start[:, 0], start[:, -1])
    assert not torch.allclose(start[0, 0] - start[1, 0], torch.zeros(()), atol=0.1)


def test_a_trained_model_fills_a_run_folder(run: Path, tmp_path: Path) -> None:
    networks = assemble(toy_config(), run)
    start_from(networks, tmp_path)
    again = assemble(toy_config(), tmp_path)
    for field in dataclasses.fields(Networks):
        if field.name not in ("config", "reference_warp"):  # the toy has none
            ours, theirs = (getattr(n, field.name).state_dict() for n in (networks, again))
            for key, tensor in ours.items():
                assert torch.allclose(tensor, theirs[key], atol=1e-6), key
    kept = (tmp_path / "rollout.safetensors").read_bytes()
    with torch.no_grad():
        next(networks.denoising_unet.parameters()).add_(1.0)
    start_from(networks, tmp_path)
    assert (tmp_path / "rollout.safetensors").read_bytes() == kept


# ---------------------------------------------------------------- judgement


def test_the_adversarial_losses_reach_their_own_side_only() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(4)
    output = torch.rand(2, 3, 32, 32, requires_grad=True)
    generator, judged = adversarial(discriminator, output, torch.rand(2, 3, 32, 32))
    generator.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert float(output.grad.abs().sum()) > 0
    assert all(p.grad is None for p in discriminator.parameters())
    seen = output.grad.clone()
    judged.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(output.grad, seen)
    assert all(p.grad is not None for p in discriminator.parameters())


def test_what_a_painted_face_is_seen_to_do_counts(run: Path) -> None:
    """A term of the rollout's and of the stream's loss, zero for the frames that the motion was read from."""
    config, people, held_out = toy_config(), corpus(), corpus(2, seed=1)
    changes = {"motion": 3.0, "motion_frames": 2, "motion_signals": [1, 1, 2, 5], "perceptual": 0.0, "change": 0.0}
    recipe = quick({f"{stage}.judgement.{key}": v for stage in ("rollout", "stream") for key, v in changes.items()})
    rollout = RolloutStage(config, recipe.rollout, run, people, held_out)
    for stage in (rollout, StreamStage(config, recipe.stream, run, people, held_out)):
        found = next(iter(stage.losses(random.Random(3), 0)))
        assert found["motion"] > 0
        assert float(found["loss"].detach()) == pytest.approx(
            float((found["latent"] + 3 * found["motion"]).detach()), rel=1e-5
        )
    reader = rollout.judge.reader
    assert reader is not None
    person, frame = torch.tensor([0, 1, 2]), torch.tensor([1, 3, 2])
    seen, weights = rollout.train.seen(person, frame, CPU), recipe.rollout.judgement.motion_signals
    pictures = (people.images[person, frame].float() / 127.5 - 1).requires_grad_()
    assert float(reader.loss(pictures.detach(), seen, weights)) < 1e-8
    loss = reader.loss(pictures, seen.at([1, 2, 0]), weights)
    torch.autograd.backward(loss)
    assert loss > 1e-4
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


def test_the_discriminator_can_tell_noise_from_plain_pictures() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(4)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        plain = torch.rand(4, 3, 1, 1).expand(-1, -1, 32, 32)
        _, judged = adversarial(discriminator, torch.rand(4, 3, 32, 32), plain)
        optimiser.zero_grad()
        judged.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(judged.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_rollout_stage_trains_its_discriminator(run: Path, tmp_path: Path) -> None:
    for part in ("autoencoder", "motion", "image"):
        (tmp_path / f"{part}.safetensors").write_bytes((run / f"{part}.safetensors").read_bytes())
    changes = {
        "rollout.judgement.adversarial": 0.05,
        "rollout.judgement.adversarial_from": 0,
        "rollout.judgement.squared": 1.0,
        "rollout.judgement.decoded_share": 1.0,
        "rollout.judgement.discriminator_width": 4,
    }
    stage = RolloutStage(toy_config(), quick(changes).rollout, tmp_path, corpus(), corpus(2, seed=1))
    losses = next(stage.losses(random.Random(0), 0))
    assert set(losses) == {"loss", "latent", "change", "squared", "perceptual", "adversarial", "discriminator"}
    before = {k: v.clone() for k, v in stage.modules()["discriminator"].state_dict().items()}
    train(stage, RunOptions(tmp_path))
    assert any(not torch.equal(before[k], v) for k, v in stage.modules()["discriminator"].state_dict().items())


def test_the_perceptual_term_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_perceptual("auto", CPU) is pixel_loss
    assert choose_perceptual("gradients", CPU) is pixel_loss
    with pytest.raises(ConfigError, match="pip install lpips"):
        choose_perceptual("lpips", CPU)
