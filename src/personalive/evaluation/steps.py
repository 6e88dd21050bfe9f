"""Four steps against one: pictures painted from noise in n steps of the short schedule, each frame on its own.

This is the image-level view of the sampler (the paper's second training stage): no window, no history. Motion is
predicted from the driving frames' pixels. Where the model has a reference warp, its pictures are composed as a stream's
are, and compared at the size of what the denoiser makes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from personalive.contracts import MotionSignals, Networks, ReferenceFeatures
from personalive.evaluation import metrics
from personalive.media.frames import Pixels, resample, resize_tensor, to_unit
from personalive.motion import signals
from personalive.pipeline import PersonaLive
from personalive.streaming.schedule import Schedule
from personalive.streaming.state import draw_noise
from personalive.warp.compose import guide_of, read_portrait, with_expression
from personalive.warp.driver import watch_driver

BATCH = 8  # frames painted at a time


@torch.inference_mode()
def paint(
    networks: Networks, reference: ReferenceFeatures, driving: MotionSignals, steps: int, noise: Tensor
) -> Tensor:
    """F frames (F, 3, S, S) in [0, 1]: noise (1, F, C, h, w) on the reference, `steps` UNet passes, then x0.

    steps: 1 to the model's number of levels, from the noisiest one on; after the last pass its estimate of the clean
    picture is taken.
    """
    stream, schedule = networks.config.stream, Schedule(networks.config.stream)
    if not 1 <= steps <= stream.levels:
        raise ValueError(f"{steps} steps are not in 1..{stream.levels}")
    sessions, frames = noise.shape[:2]
    levels = stream.timesteps[::-1][:steps]
    first = torch.full((sessions, frames), levels[0], device=noise.device)
    latents = schedule.add_noise(reference.latents.float()[:, None].expand(noise.shape), noise, first)
    for number, level in enumerate(levels):
        timesteps = torch.full_like(first, level)
        prediction = networks.denoising_unet(
            latents.to(driving.pose.dtype), timesteps, reference.image_token, driving, reference.key_values,
            keyframes=None, chunk_frames=None,
        ).to(latents.dtype)  # fmt: skip
        advance = schedule.to_clean if number == steps - 1 else schedule.ddim_step
        latents = advance(latents, prediction, timesteps)
    painted: Tensor = networks.autoencoder.decode(latents[0].to(reference.latents.dtype))
    return painted


@torch.inference_mode()
def compare_steps(model: PersonaLive, frames: Pixels, every: int = 4, seed: int = 0) -> dict[int, dict[str, float]]:
    """Mean L1 and SSIM of every so-manieth frame of a clip (F, H, H, 3), painted on its first frame: {steps: figures}.

    The same noise for every number of steps, of which the frames have as much in common as those of a stream.
    """
    networks = model.networks
    reference, own = signals.encode_reference(networks, frames[0])
    layers = read_portrait(networks, frames[0], own)
    own, guide = with_expression(own, layers), guide_of(networks, layers)
    first, driver = watch_driver(networks, to_unit(frames[0]))
    shown = to_unit(frames[every::every])
    seeds, common = torch.tensor([seed]), networks.config.stream.common_noise
    figures: dict[int, list[tuple[Tensor, Tensor]]] = {n: [] for n in range(1, model.config.stream.levels + 1)}
    for draw, images in enumerate(torch.split(shown, BATCH)):
        truth = resize_tensor(images, model.config.image_size)
        seen, _ = watch_driver(networks, images, driver)
        driving = signals.drive(networks, own, first, seen, guide=guide)
        shape = (len(images), *reference.latents.shape[1:])
        noise = draw_noise(seeds, torch.tensor([draw]), shape, reference.latents.device, common)
        for steps, kept in figures.items():
            painted = paint(networks, reference, driving, steps, noise)
            if guide is not None:  # which `drive` has asked
                painted = resample(guide.composed(painted), truth.shape[-1])
            painted = painted.cpu().clamp(0, 1)
            kept.append((metrics.l1(painted, truth), metrics.ssim(painted, truth)))
    return {steps: _means(kept) for steps, kept in figures.items()}


def _means(batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    l1, ssim = (float(torch.cat(parts).mean()) for parts in zip(*batches, strict=True))
    return {"L1": l1, "SSIM": ssim}
