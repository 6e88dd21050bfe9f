"""The reference warp: where each pixel of an animated frame lies in the portrait, and the picture that follows."""
