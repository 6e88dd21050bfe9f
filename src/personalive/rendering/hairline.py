"""Where hair grows on the mean head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The hairline seen from the side: at each height (cm) hair grows behind this depth z (cm). Nape, behind the ear,
# sideburn, temple, forehead.
_HEIGHTS = np.array([-20.0, -8.6, -6.0, -3.0, -1.4, 0.4, 2.4, 4.4, 6.4, 8.4, 10.0, 11.2, 12.4, 15.0])
_DEPTHS = np.array([-99.0, -99.0, -6.6, -4.6, -2.6, 2.5, 3.3, 3.9, 4.2, 5.6, 7.7, 9.3, 11.0, 20.0])


def scalp_depth(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far inside the hairline points (..., 3) of the mean head lie, cm; negative outside and on the ears."""
    x, y, z = np.abs(points[..., 0]), points[..., 1], points[..., 2]
    depth = np.interp(y, _HEIGHTS, _DEPTHS) - z
    outer_ear = (x > 7.25) & (y > -2.6) & (y < 4.2)
    ear_root = (x > 5.5) & (y > -3.5) & (y < 3.6) & (z > -3.2)
    return np.where(outer_ear | ear_root, -1.0, depth)
