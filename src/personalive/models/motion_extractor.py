"""The motion extractor: LivePortrait's ConvNeXt V2 with heads for keypoints, head angles, translation and scale.

docs/model.md, section 2.2. Sources: LivePortrait (arXiv 2407.03168); ConvNeXt V2 (arXiv 2301.00808).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personalive.config import MotionExtractorConfig
from personalive.contracts import HeadMotion

NORM_EPS = 1e-6
ANGLES = ("pitch", "yaw", "roll")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # over (N, H, W, C) and back


class ResponseNorm(nn.Module):
    """ConvNeXt V2's global response normalisation of (N, H, W, C): channels compete by their norm over the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> the same shape."""
        # vector_norm is slow over these strides; the clamp gives a dead channel a gradient of zero, as it does.
        response = x.square().sum(dim=(1, 2), keepdim=True).clamp_min(1e-12).sqrt()  # (N, 1, 1, C)
        relative = response / (response.mean(dim=-1, keepdim=True) + NORM_EPS)
        return torch.addcmul(self.beta, x, 1 + self.gamma * relative)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then a pointwise bottleneck of four times the width with response norm, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = ResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        hidden = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # (N, H, W, C)
        hidden = self.pwconv2(self.grn(F.gelu(self.pwconv1(hidden))))
        out: Tensor = x + hidden.permute(0, 3, 1, 2)  # (N, C, H, W)
        return out


class Detector(nn.Module):
    """The trunk and the linear heads (the official file keeps them under `detector.`)."""

    def __init__(self, config: MotionExtractorConfig) -> None:
        super().__init__()
        dims = config.dims
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), ChannelNorm(dims[0]))
        self.downsample_layers = nn.ModuleList([stem])
        for narrow, wide in pairwise(dims):
            self.downsample_layers.append(nn.Sequential(ChannelNorm(narrow), nn.Conv2d(narrow, wide, 2, stride=2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(width) for _ in range(depth)))
            for width, depth in zip(dims, config.depths, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=NORM_EPS)
        self.fc_kp = nn.Linear(dims[-1], 3 * config.keypoints)
        self.fc_scale = nn.Linear(dims[-1], 1)
        self.fc_pitch = nn.Linear(dims[-1], config.angle_bins)
        self.fc_yaw = nn.Linear(dims[-1], config.angle_bins)
        self.fc_roll = nn.Linear(dims[-1], config.angle_bins)
        self.fc_t = nn.Linear(dims[-1], 3)
        self.fc_exp = nn.Linear(dims[-1], 3 * config.keypoints)  # in the official weights, read by nobody here
        self._start()

    def _start(self) -> None:
        """Weights that keep the variance: ConvNeXt's fixed 0.02 starves narrow networks, which then learned nothing.

        The scale head starts at one, so that a fresh network has a face of some size.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.ones_(self.fc_scale.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, S, S) in [0, 1] -> the outputs of all heads, each (N, width of the head)."""
        x = images.contiguous(memory_format=torch.channels_last)  # the pointwise layers then need no copies
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        features = self.norm(x.mean(dim=(2, 3)))  # (N, C)
        heads = ("kp", *ANGLES, "t", "scale", "exp")
        return {head: self.get_submodule(f"fc_{head}")(features) for head in heads}


class MotionExtractor(nn.Module):
    """Frames -> keypoints, head angles, translation and scale. Loads `motion_extractor.pth` unchanged."""

    idx_tensor: Tensor

    def __init__(self, config: MotionExtractorConfig) -> None:
        super().__init__()
        self.config = config
        self.detector = Detector(config)
        # The device is explicit so that it has values even where the network is built on the meta device.
        bins = torch.arange(config.angle_bins, dtype=torch.float32, device="cpu")
        self.register_buffer("idx_tensor", bins)

    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """The heads' outputs for (N, 3, S, S) images in [0, 1].

        `kp` (N, 3 * keypoints), `pitch`, `yaw`, `roll` (N, bins) logits, `t` (N, 3), `scale` (N, 1) and
        `exp` (N, 3 * keypoints), which is unused.
        """
        outputs: dict[str, Tensor] = self.detector(images)
        return outputs

    def degrees(self, logits: Tensor) -> Tensor:
        """(..., bins) logits of an angle -> (...) degrees: the expected bin, times the step, less the offset."""
        bins = logits.float().softmax(dim=-1) @ self.idx_tensor.float()
        return bins * self.config.angle_step - self.config.angle_offset

    def motion(self, raw: dict[str, Tensor]) -> HeadMotion:
        """The outputs of `raw` as a HeadMotion, float32 whatever the network's own precision."""
        return HeadMotion(
            keypoints=raw["kp"].float().reshape(-1, self.config.keypoints, 3),  # (N, keypoints, 3)
            angles=torch.stack([self.degrees(raw[angle]) for angle in ANGLES], dim=-1),  # (N, 3)
            translation=raw["t"].float(),
            scale=raw["scale"].float(),
        )

    def forward(self, images: Tensor) -> HeadMotion:
        """(N, 3, S, S) in [0, 1] -> the motion of N heads."""
        return self.motion(self.raw(images))
