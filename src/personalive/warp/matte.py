"""Where in a portrait the person ends: what a network said of it, drawn along the picture's own edges (GrabCut)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 3
SURE_FIGURE, SURE_BACKGROUND = 0.97, 0.03
"""The network's word counts as certain from here on, and below there."""
MARGIN = 9
"""Cells (odd): background is certain only where all so many around are."""
WHOLE = (0, 0, 1, 1)
"""A rectangle, which GrabCut wants and does not look at where it is given labels."""
LEAST_SHARE = 0.02
"""Of the picture: with less that is certain on one side there is nothing to learn colours from."""


def refine_figure(picture: Tensor, figure: Tensor, face: Tensor) -> Tensor:
    """The person's mask (s, s) in [0, 1] with its border where the picture has one.

    picture (1, 3, s, s) in [0, 1]; figure (s, s): what the surface network said; face (s, s): 1 where the head mesh
    lies, certainly the person. Equal inputs give equal masks. GrabCut (Rother et al. 2004), as OpenCV has it.
    Tensors without values, of which memory is planned, stay as they are.
    """
    if figure.is_meta:
        return figure
    said, mesh = figure.detach().cpu().numpy(), face.detach().cpu().numpy() > 0.5
    background = cv2.erode((said < SURE_BACKGROUND).astype(np.uint8), np.ones((MARGIN, MARGIN), np.uint8)) > 0
    certain = (said > SURE_FIGURE) | mesh
    background &= ~certain
    if min(certain.mean(), background.mean()) < LEAST_SHARE:
        return figure
    labels = np.where(said > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[certain], labels[background] = cv2.GC_FGD, cv2.GC_BGD
    levels = (picture[0].detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    cv2.setRNGSeed(0)
    colours = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(levels[..., ::-1]), labels, WHOLE, *colours, ROUNDS, cv2.GC_INIT_WITH_MASK)
    person = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    mask = torch.from_numpy(person.astype(np.float32)).to(figure)
    return F.avg_pool2d(F.pad(mask[None, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0, 0]
